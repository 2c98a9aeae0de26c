// One draw from one row of logits, as kernels/ops.h and kernels/sampling_math.h state it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "buffers/step_buffers.h"

namespace rondo {

// What one thread needs to draw: made once, so that drawing allocates nothing.
struct SampleScratch {
  explicit SampleScratch(size_t vocab_size) : adjusted(vocab_size), ids(vocab_size) {}
  std::vector<float> adjusted;  // [V]
  std::vector<int32_t> ids;     // [V]
};

struct SampleRow {
  std::span<const float> logits;  // [V]
  SlotParams params;
  int32_t position = 0;              // of the row that the logits are of
  std::span<const int32_t> history;  // the sequence's tokens at positions 0 .. position
  const SlotBias* biases = nullptr;  // as many as params says
  uint32_t* token_words = nullptr;   // [V], of any content
  TopToken* top = nullptr;           // params.top_logprobs of them are written
};
Sampled sample_row(const SampleRow& row, SampleScratch& scratch);

}  // namespace rondo
