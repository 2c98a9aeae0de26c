#include "kernels/cpu/rope.h"

#include <algorithm>
#include <cmath>

namespace rondo {
namespace {

float dynamic_base(const Rope& rope, int64_t head_dim, int64_t length) {
  const double d = static_cast<double>(head_dim), factor = rope.dynamic_factor;
  const double stretch =
      factor * static_cast<double>(length) / static_cast<double>(rope.original_length) - (factor - 1.0);
  return static_cast<float>(rope.dynamic_theta * std::pow(stretch, d / (d - 2.0)));
}

}  // namespace

void rope_angles(const Rope& rope, int64_t head_dim, int64_t position, int64_t prompt_length,
                 float* cos_sin) {
  const int64_t pairs = head_dim / 2, length = std::max(prompt_length, position + 1);
  const bool beyond = length > rope.original_length;
  const bool dynamic = beyond && rope.dynamic;
  const bool longer = beyond && !rope.dynamic && rope.long_inv_freq;
  const float* table = longer ? rope.long_inv_freq.as<float>() : rope.inv_freq.as<float>();
  const float scaling = longer ? rope.long_scaling : rope.scaling;
  const float base = dynamic ? dynamic_base(rope, head_dim, length) : 0.0f;
  for (int64_t i = 0; i < pairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency = dynamic ? 1.0f / std::pow(base, exponent) : table[i];
    const float angle = static_cast<float>(position) * frequency;
    cos_sin[i] = std::cos(angle) * scaling;
    cos_sin[pairs + i] = std::sin(angle) * scaling;
  }
}

void rotate(const float* cos_sin, int64_t head_dim, float* head) {
  const int64_t pairs = head_dim / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = head[i], b = head[pairs + i], c = cos_sin[i], s = cos_sin[pairs + i];
    head[i] = a * c - b * s;
    head[pairs + i] = b * c + a * s;
  }
}

}  // namespace rondo
