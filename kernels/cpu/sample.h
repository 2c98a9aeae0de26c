// One draw from one row of logits, as kernels/ops.h and kernels/sampling_math.h state it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffers/step_buffers.h"

namespace rondo {

// What one thread needs to draw: made once, so that drawing allocates nothing.
struct SampleScratch {
  explicit SampleScratch(size_t vocab_size) : penalized(vocab_size) {}
  std::vector<float> penalized;  // [V]
};

// logits [vocab_size]; seen [ceil(vocab_size / 32)], bit v for token v, none beyond the last; `position` of
// the row the logits are of.
Sampled sample_row(const float* logits, size_t vocab_size, const SlotParams& params, int32_t position,
                   const uint32_t* seen, SampleScratch& scratch);

}  // namespace rondo
