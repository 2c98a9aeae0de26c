// Fills the weights arena: from a checkpoint, or with numbers made from a seed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "buffers/arena.h"
#include "kernels/model.h"
#include "runner/checkpoint.h"
#include "runner/model_config.h"

namespace rondo {

// Where the bytes of a weight come from: part of tensor `name`, in the arena's dtype.
using ReadWeight =
    std::function<void(const std::string& name, uint64_t byte_offset, void* to, uint64_t bytes)>;

// Norm weights 1, all else normally distributed with standard deviation 0.02 (transformers'
// initializer_range); the same numbers for a seed and a name on every machine. Offsets must be multiples of
// 32 bytes.
ReadWeight random_weights(uint64_t seed, DType dtype);

struct Weights {
  std::unique_ptr<Arena> arena;
  Model model;  // without pages
};

// Lays out, allocates and fills, through pinned staging memory. `progress` (may be empty) is called with
// bytes done and in all. Throws what `read`, `progress` and the device throw; then all memory is given back.
Weights load_weights(Device& device, const ModelConfig& config, DType dtype, const ReadWeight& read,
                     const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace rondo
