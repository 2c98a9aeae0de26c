// The arithmetic of `sample`, stated once for both backends: what is random, what ties, what is kept. Plain
// functions that g++ and nvcc compile alike; sums over tokens are integers, so no order of adding them can
// change a token.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "buffers/step_buffers.h"

#if defined(__CUDACC__)
#define RONDO_HOST_DEVICE __host__ __device__
#else
#define RONDO_HOST_DEVICE
#endif

namespace rondo {

struct Philox {
  uint32_t word[4];
};

// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"): four random words of a
// counter and a key.
RONDO_HOST_DEVICE inline Philox philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t key_low,
                                       uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key_low;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key_high;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in the open interval (0, 1), finest near 0: 2^-33 is the least value, 1 - 2^-24 the greatest.
RONDO_HOST_DEVICE inline float uniform_open(uint32_t bits) {
  const float u = static_cast<float>(bits) * 0x1p-32f + 0x1p-33f;
  return u < 1.0f - 0x1p-24f ? u : 1.0f - 0x1p-24f;
}

// The random bits of one token at one position, and the standard Gumbel noise -log(-log(1 - u)) that they
// stand for. Written with 1 - u because the largest noise decides the draw, and it comes from the end where
// floats are finest: of 128k equally likely tokens hardly two ever tie.
RONDO_HOST_DEVICE inline uint32_t noise_bits(uint32_t token, uint32_t position, uint32_t seed_low,
                                             uint32_t seed_high) {
  return philox(token, position, 0, 0, seed_low, seed_high).word[0];
}
RONDO_HOST_DEVICE inline float gumbel_of(uint32_t bits) { return -logf(-log1pf(-uniform_open(bits))); }
RONDO_HOST_DEVICE inline float gumbel_noise(uint32_t token, uint32_t position, uint32_t seed_low,
                                            uint32_t seed_high) {
  return gumbel_of(noise_bits(token, position, seed_low, seed_high));
}

// gumbel_noise is never above this: -log of the least uniform, 33 log 2 = 22.87. A token that far behind
// cannot win.
constexpr float kMaxGumbelNoise = 23.0f;

// a < b as floats exactly where order_key(a) < order_key(b); -0 and +0 are one key. Not for NaN.
RONDO_HOST_DEVICE inline uint32_t order_key(float value) {
  value += 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

// Stays finite, so that differences of logits are never inf - inf; -inf, a token that is never drawn, stays
// too.
RONDO_HOST_DEVICE inline float bounded_logit(float y) {
  const float most = 3.402823466e+38f;
  return y > most ? most : y < -most && y != -INFINITY ? -most : y;
}

// A logit with its bias.
RONDO_HOST_DEVICE inline float biased_logit(float logit, float bias) {
  return bias == -INFINITY ? bias : bounded_logit(logit + bias);
}

// The logit of a token that the sequence holds.
RONDO_HOST_DEVICE inline float penalized_logit(float logit, float repetition_penalty) {
  const float most = 3.402823466e+38f;
  if (logit == -INFINITY) return logit;
  const float y = logit > 0 ? logit / repetition_penalty : logit * repetition_penalty;
  return y > most ? most : y < -most ? -most : y;
}

// What a row knows of a token, in one word: whether the sequence holds it, whether it has a bias, and how
// often it was generated.
constexpr uint32_t kHeldToken = 1u << 31;
constexpr uint32_t kBiasedToken = 1u << 30;
constexpr uint32_t kTokenCount = kBiasedToken - 1;

// Whether a slot has any penalty, and how many of its biases count for a row at `position`.
RONDO_HOST_DEVICE inline bool has_penalties(const SlotParams& p) {
  return p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f;
}
RONDO_HOST_DEVICE inline uint32_t bias_count(const SlotParams& p, int32_t position) {
  return static_cast<uint32_t>(p.biases + (position + 1 < p.min_length ? p.held_back : 0));
}

// All three penalties of a token, the bias apart, which comes before them. fmaf: the same rounding with every
// compiler.
RONDO_HOST_DEVICE inline float penalized_logit(float logit, uint32_t word, float repetition_penalty,
                                               float frequency_penalty, float presence_penalty) {
  if (word & kHeldToken) logit = penalized_logit(logit, repetition_penalty);
  const uint32_t count = word & kTokenCount;
  if (count == 0) return logit;
  return bounded_logit(fmaf(-frequency_penalty, static_cast<float>(count), logit) - presence_penalty);
}

// How far a logit lies behind the row's largest (penalised) one, at a temperature above 0. At most 0; -inf is
// possible.
RONDO_HOST_DEVICE inline float scaled_gap(float logit, float max_logit, float temperature) {
  return (logit - max_logit) / temperature;
}

// exp(gap) in units of 2^-40, rounded down: the likeliest token has 2^40, and 2^24 of those still fit in 64
// bits.
RONDO_HOST_DEVICE inline uint64_t fixed_probability(float gap) {
  return static_cast<uint64_t>(expf(gap) * 0x1p40f);
}

// How much of `total` fixed probability top_p asks for: at least 1, so that one token is kept, and at most
// all of it.
RONDO_HOST_DEVICE inline uint64_t top_p_target(float top_p, uint64_t total) {
  const double share = ceil(static_cast<double>(top_p) * static_cast<double>(total));
  if (!(share >= 1.0)) return 1;
  return share >= static_cast<double>(total) ? total : static_cast<uint64_t>(share);
}

// min_p keeps a token whose probability is at least min_p times the largest. The likeliest itself has gap 0
// and is kept by any min_p <= 1.
RONDO_HOST_DEVICE inline bool min_p_keeps(float gap, float min_p) { return expf(gap) >= min_p; }

}  // namespace rondo
