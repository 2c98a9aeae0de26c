// Rotary position embedding on the host: the tables of kernels/model.h, in the order of operations of
// transformers.
#pragma once

#include <cstdint>

#include "kernels/model.h"

namespace rondo {

// cos_sin [head_dim]: the cosines of all pairs, then their sines, times the scaling. For a row at `position`
// of a sequence that RoPE sees with max(prompt_length, position + 1) positions.
void rope_angles(const Rope& rope, int64_t head_dim, int64_t position, int64_t prompt_length, float* cos_sin);

// Rotates one head [head_dim] in place, pair i being elements i and i + head_dim / 2.
void rotate(const float* cos_sin, int64_t head_dim, float* head);

}  // namespace rondo
