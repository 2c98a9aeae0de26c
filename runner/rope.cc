#include "runner/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rondo {
namespace {

// The length before scaling; a config that names none means the whole.
int64_t original_length(const ModelConfig& config) {
  const int64_t original = config.rope.original_max_position_embeddings;
  return original != 0 ? original : config.max_position_embeddings;
}

// A float32 power, rounded once; torch's own is within 1 ulp of the exact value.
float power(float base, float exponent) {
  return static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
}

// base^(2i / head_dim): how many positions one radian takes.
float wavelength_per_radian(float base, int64_t i, int64_t head_dim) {
  return power(base, static_cast<float>(2 * i) / static_cast<float>(head_dim));
}

// Above max_position_embeddings the base grows, so that the slowest frequency spans the sequence.
// transformers holds the length in an integer tensor, which makes each step float32.
float dynamic_base(const ModelConfig& config, int64_t sequence_length) {
  const RopeConfig& rope = config.rope;
  if (sequence_length <= config.max_position_embeddings) return static_cast<float>(rope.theta);
  const float stretched = static_cast<float>(rope.factor) * static_cast<float>(sequence_length) /
                          static_cast<float>(config.max_position_embeddings);
  const double dim = static_cast<double>(config.head_dim);
  const float growth =
      power(stretched - static_cast<float>(rope.factor - 1), static_cast<float>(dim / (dim - 2)));
  return static_cast<float>(rope.theta) * growth;
}

void llama3_frequencies(const ModelConfig& config, int64_t half, float* inv_freq) {
  const RopeConfig& rope = config.rope;
  const double old_length = static_cast<double>(original_length(config));
  const float low_wavelength = static_cast<float>(old_length / rope.low_freq_factor);
  const float high_wavelength = static_cast<float>(old_length / rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  for (int64_t i = 0; i < half; ++i) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / inv_freq[i];
    if (wavelength > low_wavelength) {
      inv_freq[i] /= factor;
    } else if (!(wavelength < high_wavelength)) {
      const float smooth =
          (static_cast<float>(old_length) / wavelength - static_cast<float>(rope.low_freq_factor)) /
          static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
      inv_freq[i] = (1.0f - smooth) * inv_freq[i] / factor + smooth * inv_freq[i];
    }
  }
}

// The pair that turns `rotations` times within the original length; fractional.
double yarn_pair(const ModelConfig& config, double rotations) {
  const double length = static_cast<double>(original_length(config));
  return static_cast<double>(config.head_dim) * std::log(length / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.rope.theta));
}

// Fast pairs keep their frequency, slow ones are divided by the factor, those between are blended.
void yarn_frequencies(const ModelConfig& config, int64_t half, float* inv_freq) {
  const RopeConfig& rope = config.rope;
  double low = yarn_pair(config, rope.beta_fast);
  double high = yarn_pair(config, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < half; ++i) {
    const float positions = wavelength_per_radian(static_cast<float>(rope.theta), i, config.head_dim);
    const float kept = 1.0f / positions;
    const float divided = 1.0f / (static_cast<float>(rope.factor) * positions);
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    inv_freq[i] = divided * (1.0f - keep) + kept * keep;
  }
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double attention_scaling_of(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const bool scales = rope.kind == RopeConfig::Kind::Yarn || rope.kind == RopeConfig::Kind::LongRope;
  if (!scales) return 1.0;
  if (rope.attention_factor != 0) return rope.attention_factor;
  if (rope.kind == RopeConfig::Kind::LongRope) {
    if (rope.factor <= 1) return 1.0;
    return std::sqrt(1 + std::log(rope.factor) / std::log(static_cast<double>(original_length(config))));
  }
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  return yarn_mscale(rope.factor, 1.0);
}

}  // namespace

void rope_inverse_frequencies(const ModelConfig& config, int64_t sequence_length, float* inv_freq,
                              float* attention_scaling) {
  const RopeConfig& rope = config.rope;
  const int64_t half = config.head_dim / 2;
  *attention_scaling = static_cast<float>(attention_scaling_of(config));
  if (rope.kind == RopeConfig::Kind::Yarn) return yarn_frequencies(config, half, inv_freq);

  const float base = rope.kind == RopeConfig::Kind::Dynamic ? dynamic_base(config, sequence_length)
                                                            : static_cast<float>(rope.theta);
  const std::vector<double>& factors =
      sequence_length > original_length(config) ? rope.long_factor : rope.short_factor;
  for (int64_t i = 0; i < half; ++i) {
    float positions = wavelength_per_radian(base, i, config.head_dim);
    if (rope.kind == RopeConfig::Kind::LongRope)
      positions *= static_cast<float>(factors[static_cast<size_t>(i)]);
    inv_freq[i] = 1.0f / positions;
    if (rope.kind == RopeConfig::Kind::Linear) inv_freq[i] /= static_cast<float>(rope.factor);
  }
  if (rope.kind == RopeConfig::Kind::Llama3) llama3_frequencies(config, half, inv_freq);
}

RopeTable make_rope_table(const ModelConfig& config) {
  RopeTable table;
  const size_t half = static_cast<size_t>(config.head_dim / 2);
  table.inv_freq.resize(half);
  // Length 1 is below every switch.
  rope_inverse_frequencies(config, 1, table.inv_freq.data(), &table.attention_scaling);
  if (config.rope.kind == RopeConfig::Kind::Dynamic) table.switch_length = config.max_position_embeddings;
  if (config.rope.kind == RopeConfig::Kind::LongRope) {
    table.switch_length = original_length(config);
    table.long_inv_freq.resize(half);
    rope_inverse_frequencies(config, table.switch_length + 1, table.long_inv_freq.data(),
                             &table.attention_scaling);
  }
  return table;
}

}  // namespace rondo
