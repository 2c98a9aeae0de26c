// What a step must read, counted from the plan: every weight once, and the K/V of each sequence once. The
// denominator's other half is the read ceiling. Activations and what is written are not counted: they are
// small and stay in caches.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "buffers/step_buffers.h"
#include "kernels/model.h"
#include "kernels/verbs.h"

namespace rondo::bench {

struct StepBytes {
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t total() const { return weights + kv; }
};

// Of one step with these rows. Of an embedding table that is not also the LM head only the rows' own lines
// are read.
StepBytes step_bytes(const Model& model, const StepDims& dims, std::span<const Row> rows);

// K and V of one layer: for each slot the positions that any of its rows looks at, once.
uint64_t kv_bytes(const Layer& layer, const StepDims& dims, std::span<const Row> rows);

// What one run of a verb must read. `layer` is for those that run per layer.
uint64_t verb_bytes(Verb verb, const Model& model, const StepDims& dims, const Layer& layer,
                    std::span<const Row> rows, int64_t logit_rows);

}  // namespace rondo::bench
