#include "kernels/cpu/sample.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/cpu/simd.h"
#include "kernels/sampling_math.h"

namespace rondo {
namespace {

// gumbel_of(bits) is never above this: -log(-log(1 - u)) <= -log(u), and u >= 2^-(leading zeros + 1). The
// slack is for the rounding of both. It spares most tokens two logarithms.
float most_noise(uint32_t bits) {
  return 0.6931472f * static_cast<float>(std::countl_zero(bits) + 1) + 0.01f;
}

// The largest key t such that the weights of all tokens with key >= t add up to at least target(weight of
// all), or 0 where all of them are less. Eight bits of the key per pass: `weight` is called in the first pass
// for all tokens, later for few.
template <class Key, class Weight, class Target>
uint32_t threshold_key(size_t n, const Key& key, const Weight& weight, const Target& target_of) {
  uint32_t prefix = 0, mask = 0;
  uint64_t target = 0;
  uint64_t above = 0;  // the weight of keys whose known bits exceed the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    std::array<uint64_t, 256> sums{};
    for (size_t v = 0; v < n; ++v) {
      const uint32_t k = key(v);
      if ((k & mask) == prefix) sums[(k >> shift) & 255u] += weight(v);
    }
    if (mask == 0) target = target_of(std::accumulate(sums.begin(), sums.end(), uint64_t{0}));
    uint32_t digit = 255;
    while (digit > 0 && above + sums[digit] < target) above += sums[digit--];
    prefix |= digit << shift;
    mask |= 255u << shift;
  }
  return prefix;
}

size_t argmax(const float* logits, size_t n) {
  return static_cast<size_t>(std::max_element(logits, logits + n) - logits);
}

size_t draw(const float* logits, size_t n, size_t likeliest, const SlotParams& p, int32_t position) {
  const float max = logits[likeliest];
  const auto key = [&](size_t v) { return order_key(logits[v]); };
  const auto gap = [&](size_t v) { return scaled_gap(logits[v], max, p.temperature); };

  uint32_t least = 0;  // the key of the last token kept
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < n)
    least = threshold_key(
        n, key, [](size_t) { return uint64_t{1}; }, [&](uint64_t) { return static_cast<uint64_t>(p.top_k); });
  if (p.top_p < 1) {
    const auto mass = [&](size_t v) {
      const float g = gap(v);
      return g < -28.0f || key(v) < least ? 0 : fixed_probability(g);  // exp(-28) is below one unit
    };
    least = std::max(
        least, threshold_key(n, key, mass, [&](uint64_t total) { return top_p_target(p.top_p, total); }));
  }

  const auto bits_of = [&](size_t v) {
    return noise_bits(static_cast<uint32_t>(v), static_cast<uint32_t>(position), p.seed_low, p.seed_high);
  };
  size_t best = likeliest;
  float best_value =
      gumbel_of(bits_of(likeliest));  // a high bar from the start: most tokens cannot reach it with any noise
  for (size_t v = 0; v < n; ++v) {
    const float g = gap(v);
    if (g + kMaxGumbelNoise < best_value || key(v) < least || !(p.min_p <= 0 || min_p_keeps(g, p.min_p)))
      continue;
    const uint32_t bits = bits_of(v);
    if (g + most_noise(bits) < best_value) continue;
    const float value = g + gumbel_of(bits);
    if (value > best_value || (value == best_value && v < best)) {
      best = v;
      best_value = value;
    }
  }
  return best;
}

// The logits with biases and penalties, or the logits themselves where the slot has none.
const float* adjust(const SampleRow& row, SampleScratch& scratch) {
  const SlotParams& p = row.params;
  const size_t biases = bias_count(p, row.position);
  const bool penalties = has_penalties(p);
  if (biases == 0 && !penalties) return row.logits.data();
  std::copy(row.logits.begin(), row.logits.end(), scratch.adjusted.begin());
  for (size_t i = 0; i < biases; ++i) {
    float& logit = scratch.adjusted[static_cast<size_t>(row.biases[i].token)];
    logit = biased_logit(logit, row.biases[i].bias);
  }
  if (!penalties) return scratch.adjusted.data();
  const auto word = [&](size_t i) -> uint32_t& { return row.token_words[row.history[i]]; };
  for (size_t i = 0; i < row.history.size(); ++i) word(i) = kHeldToken;
  for (auto i = static_cast<size_t>(p.prompt_length); i < row.history.size(); ++i) ++word(i);
  for (size_t i = 0; i < row.history.size(); ++i) {
    float& logit = scratch.adjusted[static_cast<size_t>(row.history[i])];
    logit = penalized_logit(logit, word(i), p.repetition_penalty, p.frequency_penalty, p.presence_penalty);
    word(i) = 0;  // once per token, however often it stands there
  }
  return scratch.adjusted.data();
}

void list_likeliest(const SampleRow& row, const LogitStats& stats, SampleScratch& scratch) {
  const size_t n = std::min(static_cast<size_t>(row.params.top_logprobs), row.logits.size());
  std::iota(scratch.ids.begin(), scratch.ids.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float x = row.logits[static_cast<size_t>(a)], y = row.logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::partial_sort(scratch.ids.begin(), scratch.ids.begin() + static_cast<int64_t>(n), scratch.ids.end(),
                    likelier);
  for (size_t i = 0; i < n; ++i) {
    const double gap = row.logits[static_cast<size_t>(scratch.ids[i])] - stats.max;
    row.top[i] = {scratch.ids[i], static_cast<float>(gap - stats.log_sum)};
  }
}

}  // namespace

Sampled sample_row(const SampleRow& row, SampleScratch& scratch) {
  const size_t vocab_size = row.logits.size();
  const LogitStats stats = logit_stats(row.logits.data(), vocab_size);
  if (!stats.ok) return {0, 0, Sampled::kNumerical, 0};
  const float* wanted = adjust(row, scratch);
  size_t token = argmax(wanted, vocab_size);
  if (std::isinf(wanted[token])) return {0, 0, Sampled::kNumerical, 0};
  if (row.params.temperature > 0) token = draw(wanted, vocab_size, token, row.params, row.position);
  if (row.params.top_logprobs > 0) list_likeliest(row, stats, scratch);
  const double logprob = static_cast<double>(row.logits[token] - stats.max) - stats.log_sum;
  return {static_cast<int32_t>(token), static_cast<float>(logprob), Sampled::kOk, 0};
}

}  // namespace rondo
