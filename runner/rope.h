// Rotary frequencies from a config, as transformers computes them (modeling_rope_utils.py), float32 step by
// step.
#pragma once

#include <cstdint>
#include <vector>

#include "runner/model_config.h"

namespace rondo {

// The frequencies of all kinds. A row at position p turns pair i of a head by p * frequency[i], and its cos
// and sin are multiplied by attention_scaling. The frequency of a row depends on its own position alone:
//   p + 1 <= switch_length     inv_freq
//   p + 1 >  switch_length     long_inv_freq (longrope), or rope_inverse_frequencies(config, p + 1, ...)
//   (dynamic)
// which is what transformers does when it decodes token by token with a cache; it gives a prompt longer than
// switch_length, run at once, the frequencies of its last row throughout.
struct RopeTable {
  std::vector<float> inv_freq;       // [head_dim / 2], radians per position
  std::vector<float> long_inv_freq;  // [head_dim / 2] for longrope, else empty
  float attention_scaling = 1.0f;
  int64_t switch_length = INT64_MAX;  // only longrope and dynamic have one
};

RopeTable make_rope_table(const ModelConfig& config);

// The frequencies where the sequence is `sequence_length` long, [head_dim / 2] at inv_freq, and the factor on
// cos and sin. The length matters to longrope and dynamic only.
void rope_inverse_frequencies(const ModelConfig& config, int64_t sequence_length, float* inv_freq,
                              float* attention_scaling);

}  // namespace rondo
