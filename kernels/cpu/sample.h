// One draw from one row of logits, as kernels/ops.h and kernels/sampling_math.h state it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffers/step_buffers.h"

namespace rondo {

// What one thread needs to draw: made once, so that drawing allocates nothing.
struct SampleScratch {
  // Whole words of `seen`, so that a bit beyond the vocabulary is as harmless here as it is on a GPU.
  explicit SampleScratch(size_t vocab_size) : penalized((vocab_size + 31) / 32 * 32) {}
  std::vector<float> penalized;  // [V, rounded up to 32]
};

// logits [vocab_size]; seen [ceil(vocab_size / 32)], bit v for token v; `position` of the row
// the logits are of.
Sampled sample_row(const float* logits, size_t vocab_size, const SlotParams& params, int32_t position,
                   const uint32_t* seen, SampleScratch& scratch);

}  // namespace rondo
