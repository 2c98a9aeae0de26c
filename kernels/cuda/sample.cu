// What the kernel needs.
#include <algorithm>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"
#include "kernels/sampling_math.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kScanThreads = 512;
constexpr int kUnroll = 4;
constexpr int kScanBlocks = 2;  // parts of all rows together, per multiprocessor
constexpr int kDigits = 256;
constexpr int kCopies =
    8;  // of the histogram, so that lanes that hit the same digit rarely hit the same word

struct Larger {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

// A token and its value in one word: the larger word has the larger value, and among equal values the lower
// token.
__device__ __forceinline__ uint64_t ranked(float value, uint32_t token) {
  return static_cast<uint64_t>(order_key(value)) << 32 | ~token;
}
__device__ __forceinline__ uint32_t token_of(uint64_t rank) { return ~static_cast<uint32_t>(rank); }

// One row's logits as they are wanted, biases and penalties applied.
struct Wanted {
  const float* logits;
  const uint32_t* words;  // null where the slot has neither
  const SlotBias* biases;
  uint32_t bias_count;
  float repetition, frequency, presence;

  __device__ __forceinline__ float operator()(uint32_t v) const {
    const float logit = logits[v];
    if (!words) return logit;
    const uint32_t word = words[v];
    return word ? adjusted(logit, v, word) : logit;
  }
  __device__ float adjusted(float logit, uint32_t v, uint32_t word) const {
    if (word & kBiasedToken)
      for (uint32_t i = 0; i < bias_count; ++i)
        if (biases[i].token == static_cast<int32_t>(v)) logit = biased_logit(logit, biases[i].bias);
    return penalized_logit(logit, word, repetition, frequency, presence);
  }
};

// What a row's penalties and biases have to know of each token. The whole block; the words are all there when
// it returns.
__device__ __forceinline__ void note_tokens(const SampleArgs& a, const Row& row, const SlotParams& params,
                                            const SlotBias* biases, uint32_t bias_count, uint32_t* words) {
  const auto V = static_cast<uint32_t>(a.vocab_size);
  const int32_t* history = a.history + row.slot * a.max_context;
  for (uint32_t v = threadIdx.x; v < V; v += kThreads) words[v] = 0;
  __syncthreads();
  if (has_penalties(params))
    for (int i = static_cast<int>(threadIdx.x); i <= row.position; i += kThreads) {
      atomicOr(&words[history[i]], kHeldToken);
      if (i >= params.prompt_length) atomicAdd(&words[history[i]], 1u);
    }
  for (uint32_t i = threadIdx.x; i < bias_count; i += kThreads)
    atomicOr(&words[biases[i].token], kBiasedToken);
  __syncthreads();
}

// The likeliest tokens of the raw logits, the largest first: each thread offers its own largest, and looks
// for its next when that was taken.
__device__ __forceinline__ void list_likeliest(const float* logits, uint32_t V, uint32_t count, float row_max,
                                               float log_sum, uint64_t* scratch, TopToken* top) {
  const auto largest_below = [=](uint64_t bound) {
    uint64_t mine = 0;
    for (uint32_t v = threadIdx.x; v < V; v += kThreads) {
      const uint64_t rank = ranked(logits[v], v);
      if (rank < bound) mine = Larger()(mine, rank);
    }
    return mine;
  };
  uint64_t mine = largest_below(~uint64_t{0});
  for (uint32_t i = 0; i < count && i < V; ++i) {
    const uint64_t winner = block_reduce(mine, scratch, uint64_t{0}, Larger());
    const uint32_t token = token_of(winner);
    if (threadIdx.x == 0) top[i] = {static_cast<int32_t>(token), logits[token] - row_max - log_sum};
    if (mine == winner) mine = largest_below(winner);
  }
}

// 64-bit sums by digit, from 32-bit atomics, which shared memory has in hardware. An integer sum is the same
// in any order.
struct Histogram {
  uint32_t low[kDigits * kCopies];
  uint32_t high[kDigits * kCopies];

  __device__ __forceinline__ void add(uint32_t digit, uint64_t weight) {
    const uint32_t at = digit * kCopies + threadIdx.x % kCopies, part = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&low[at], part);
    const uint32_t carried = static_cast<uint32_t>(weight >> 32) + (before + part < before ? 1u : 0u);
    if (carried) atomicAdd(&high[at], carried);
  }
  __device__ __forceinline__ uint64_t sum(uint32_t digit) const {
    uint64_t total = 0;
    for (uint32_t i = digit * kCopies; i < (digit + 1) * kCopies; ++i)
      total += static_cast<uint64_t>(high[i]) << 32 | low[i];
    return total;
  }
};

// What was drawn from a row, and the row's successor in its place. One thread, when the block has read the
// row for the last time. The next step's first kernel starts behind this one, and no other block reads the
// row.
__device__ __forceinline__ void settle(const SampleArgs& a, int64_t l, int32_t at, const Row& row,
                                       const SlotParams& params, const Sampled& drawn) {
  a.sampled[l] = drawn;
  if (a.told) a.told[a.turns[1] * a.told_stride + l] = drawn;
  if (row.slot == 0) return;
  a.rows[at] = {drawn.token, row.position + (row.position < params.last_position ? 1 : 0), row.slot, row.run};
}

struct Choice {
  uint32_t digit;
  uint64_t above;  // the weight of all keys whose known digits are larger
};

// The largest digit at which the weights above it and its own reach the target. One warp; every lane has 8
// digits.
__device__ __forceinline__ Choice choose_digit(const Histogram& histogram, uint64_t above, uint64_t target) {
  constexpr uint32_t kPerLane = kDigits / 32;
  const uint32_t lane = threadIdx.x % 32, first = kDigits - 1 - lane * kPerLane;  // and downwards from it
  uint64_t mine = 0;
  for (uint32_t i = 0; i < kPerLane; ++i) mine += histogram.sum(first - i);
  uint64_t up_to = mine;  // of this lane's digits and all larger ones
#pragma unroll
  for (uint32_t offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kFullWarp, up_to, offset);
    if (lane >= offset) up_to += other;
  }
  const unsigned reached = __ballot_sync(kFullWarp, above + up_to >= target);
  const int chosen = reached ? __ffs(static_cast<int>(reached)) - 1 : 31;
  Choice choice{first, above + up_to - mine};
  for (uint32_t i = 0; i + 1 < kPerLane; ++i) {
    const uint64_t sum = histogram.sum(choice.digit);
    if (choice.above + sum >= target) break;
    choice.above += sum;
    --choice.digit;
  }
  choice.digit = __shfl_sync(kFullWarp, choice.digit, chosen);
  choice.above = __shfl_sync(kFullWarp, choice.above, chosen);
  return choice;
}

// The largest key t such that the weights of all tokens with key >= t add up to at least `target`: 8 bits a
// pass, most significant first. weight(key, value) of a token. Every thread of the block gets the result.
template <class Weight>
__device__ __forceinline__ uint32_t threshold_key(const Wanted& wanted, uint32_t V, uint64_t target,
                                                  Histogram& histogram, Choice& choice,
                                                  const Weight& weight) {
  uint32_t prefix = 0, mask = 0;
  uint64_t above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < kDigits * kCopies; i += kThreads)
      histogram.low[i] = histogram.high[i] = 0;
    __syncthreads();
    for (uint32_t v = threadIdx.x; v < V; v += kThreads) {
      const float value = wanted(v);
      const uint32_t key = order_key(value);
      if ((key & mask) != prefix) continue;
      const uint64_t w = weight(key, value);
      if (w) histogram.add(key >> shift & 255u, w);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const Choice found = choose_digit(histogram, above, target);
      if (threadIdx.x == 0) choice = found;
    }
    __syncthreads();
    prefix |= choice.digit << shift;
    above = choice.above;
    mask |= 255u << shift;
  }
  return prefix;
}

// One thread's pass over some of a row's logits: their maximum, the sum of exp(logit - max), the largest
// wanted one.
struct Pass {
  float max = -INFINITY;
  float sum = 0;
  uint64_t best = 0;
  int broken = 0;

  // Tokens first, first + step, ... below end.
  template <class Logit>
  __device__ __forceinline__ void over(const float* logits, uint32_t first, uint32_t end, uint32_t step,
                                       const Logit& wanted) {
    for (uint32_t base = first; base < end; base += step * kUnroll) {
      float logit[kUnroll];
#pragma unroll
      for (uint32_t u = 0; u < kUnroll; ++u)
        logit[u] = base + u * step < end ? logits[base + u * step] : -INFINITY;
#pragma unroll
      for (uint32_t u = 0; u < kUnroll; ++u)
        if (const uint32_t v = base + u * step; v < end)
          best = Larger()(best, ranked(wanted(v, logit[u]), v));
      take(logit);
    }
  }
  // Tokens 4 q to 4 q + 3 for q = first, first + step, ... below end, as they are; 16 bytes a load.
  __device__ __forceinline__ void over_quads(const float* logits, uint32_t first, uint32_t end,
                                             uint32_t step) {
    for (uint32_t base = first; base < end; base += step * kUnroll) {
      float logit[kUnroll][4];
#pragma unroll
      for (uint32_t u = 0; u < kUnroll; ++u) {
        const uint32_t q = base + u * step;
        if (q < end)
          load4(logits + 4 * q, logit[u]);
        else
          logit[u][0] = logit[u][1] = logit[u][2] = logit[u][3] = -INFINITY;
      }
#pragma unroll
      for (uint32_t u = 0; u < kUnroll; ++u) {
        const uint32_t q = base + u * step;
        if (q < end)
#pragma unroll
          for (uint32_t j = 0; j < 4; ++j) best = Larger()(best, ranked(logit[u][j], 4 * q + j));
        take(logit[u]);
      }
    }
  }
  __device__ __forceinline__ float sum_at(float row_max) const {
    return max == -INFINITY ? 0.0f : sum * expf(max - row_max);
  }

 private:
  template <int n>
  __device__ __forceinline__ void take(const float (&logit)[n]) {
    float top = max;
#pragma unroll
    for (int u = 0; u < n; ++u) {
      broken |= logit[u] != logit[u] || logit[u] == INFINITY;
      top = fmaxf(top, logit[u]);
    }
    if (top == -INFINITY) return;
    sum *= expf(max - top);
    max = top;
#pragma unroll
    for (int u = 0; u < n; ++u) sum += expf(logit[u] - max);
  }
};

// The kernels.
//
// scans[l][part] of logits[l]: what one pass finds in its part of the row, for rows whose logits are wanted
// as they are. A block per multiprocessor, of 512 threads, takes parts in turn.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const SampleArgs a) {
  RONDO_SHARED(floats, float[32]);
  RONDO_SHARED(words, uint64_t[32]);
  let_next_start();
  wait_for_previous();
  for (int item = static_cast<int>(blockIdx.x); item < a.rows_in_list * a.parts;
       item += static_cast<int>(gridDim.x)) {
    const int64_t l = item / a.parts, part = item % a.parts;
    const float* const logits = a.logits + l * a.vocab_size;
    const bool quads = a.vocab_size % 4 == 0;
    const int64_t size = quads ? a.vocab_size / 4 : a.vocab_size;
    const auto first = static_cast<uint32_t>(size * part / a.parts);
    const auto end = static_cast<uint32_t>(size * (part + 1) / a.parts);
    Pass pass;
    if (quads)
      pass.over_quads(logits, first + threadIdx.x, end, kScanThreads);
    else
      pass.over(logits, first + threadIdx.x, end, kScanThreads, [](uint32_t, float logit) { return logit; });
    const float max = block_reduce(pass.max, floats, -INFINITY, Larger());
    const float sum = block_reduce(max == -INFINITY ? 0.0f : pass.sum_at(max), floats, 0.0f, Add());
    const uint64_t best = block_reduce(pass.best, words, uint64_t{0}, Larger());
    const int broken = __syncthreads_or(pass.broken);
    if (threadIdx.x == 0) a.scans[l * kScanParts + part] = {max, sum, best, broken, 0};
  }
}

// sampled[l] from logits[l] [V], and the row's successor, as kernels/ops.h says and kernels/sampling_math.h
// computes: biases, penalties; greedy, or temperature, top_k, top_p, min_p and the largest of gap + Gumbel
// noise. logprob = logit
// - max - log(sum exp(logit - max)). Grid [L], block 1024. One pass over the logits finds their maximum, the
// sum of exponentials and the largest wanted logit, which is all that greedy needs; top_k and top_p take four
// passes each (radix select over ordered keys), the draw one.
__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const SampleArgs a) {
  RONDO_SHARED(floats, float[32]);
  RONDO_SHARED(words_of_warps, uint64_t[32]);
  RONDO_SHARED(histogram, Histogram);
  RONDO_SHARED(choice, Choice);
  let_next_start();
  wait_for_previous();
  const int64_t l = blockIdx.x;
  const int32_t at = a.logit_rows[l];
  int named = 0;
  for (int earlier = static_cast<int>(threadIdx.x); earlier < l; earlier += kThreads)
    named |= a.logit_rows[earlier] == at;
  if (__syncthreads_or(named)) return;  // an unused entry: the row is another block's, and may have moved on
  const Row row = a.rows[at];
  const SlotParams params = a.slots[row.slot];
  const uint32_t V = static_cast<uint32_t>(a.vocab_size);
  const float* logits = a.logits + l * a.vocab_size;
  const SlotBias* biases = a.biases + row.slot * kMaxSlotBiases;
  const uint32_t used_biases = bias_count(params, row.position);
  const bool plain = used_biases == 0 && !has_penalties(params);
  uint32_t* words = a.token_words + l * a.vocab_size;
  if (!plain) note_tokens(a, row, params, biases, used_biases, words);
  const Wanted wanted{logits,
                      plain ? nullptr : words,
                      biases,
                      used_biases,
                      params.repetition_penalty,
                      params.frequency_penalty,
                      params.presence_penalty};

  Pass pass;
  if (plain) {
    for (int part = static_cast<int>(threadIdx.x); part < a.parts; part += kThreads) {
      const LogitScan scan = a.scans[l * kScanParts + part];
      pass = {scan.max, scan.sum, scan.best, scan.broken};
    }
  } else {
    pass.over(logits, threadIdx.x, V, kThreads, [&](uint32_t v, float) { return wanted(v); });
  }
  const float row_max = block_reduce(pass.max, floats, -INFINITY, Larger());
  const int broken = __syncthreads_or(pass.broken);
  if (broken || row_max == -INFINITY) {
    if (threadIdx.x == 0) settle(a, l, at, row, params, {0, 0.0f, Sampled::kNumerical, 0});
    return;
  }
  const float row_sum = block_reduce(pass.sum_at(row_max), floats, 0.0f, Add());
  const uint32_t likeliest = token_of(block_reduce(pass.best, words_of_warps, uint64_t{0}, Larger()));

  const float log_sum = logf(row_sum);
  if (wanted(likeliest) == -INFINITY) {
    if (threadIdx.x == 0) settle(a, l, at, row, params, {0, 0.0f, Sampled::kNumerical, 0});
    return;
  }
  if (params.top_logprobs > 0)
    list_likeliest(logits, V, static_cast<uint32_t>(params.top_logprobs), row_max, log_sum, words_of_warps,
                   a.top + l * kMaxTopTokens);

  uint32_t token = likeliest;
  if (params.temperature > 0.0f) {
    const float top = wanted(likeliest);
    uint32_t least = 0;  // the key of the last token kept
    if (params.top_k > 0 && static_cast<uint32_t>(params.top_k) < V)
      least = threshold_key(wanted, V, static_cast<uint64_t>(params.top_k), histogram, choice,
                            [](uint32_t, float) { return uint64_t{1}; });
    if (params.top_p < 1.0f) {
      const auto mass = [=](uint32_t key, float value) {
        return key >= least ? fixed_probability(scaled_gap(value, top, params.temperature)) : uint64_t{0};
      };
      uint64_t total = 0;
      for (uint32_t v = threadIdx.x; v < V; v += kThreads) {
        const float value = wanted(v);
        total += mass(order_key(value), value);
      }
      total = block_reduce(total, words_of_warps, uint64_t{0}, Add());
      const uint32_t key =
          threshold_key(wanted, V, top_p_target(params.top_p, total), histogram, choice, mass);
      least = Larger()(least, key);
    }

    const auto noise = [=](uint32_t v) {
      return gumbel_noise(v, static_cast<uint32_t>(row.position), params.seed_low, params.seed_high);
    };
    float bar = noise(likeliest);  // high from the start: most tokens cannot reach it with any noise
    uint64_t best = ranked(bar, likeliest);
    for (uint32_t v = threadIdx.x; v < V; v += kThreads) {
      const float value = wanted(v), gap = scaled_gap(value, top, params.temperature);
      if (gap + kMaxGumbelNoise < bar || order_key(value) < least) continue;
      if (params.min_p > 0.0f && !min_p_keeps(gap, params.min_p)) continue;
      const float noisy = gap + noise(v);
      best = Larger()(best, ranked(noisy, v));
      bar = fmaxf(bar, noisy);
    }
    token = token_of(block_reduce(best, words_of_warps, uint64_t{0}, Larger()));
  }
  if (threadIdx.x == 0)
    settle(a, l, at, row, params,
           {static_cast<int32_t>(token), logits[token] - row_max - log_sum, Sampled::kOk, 0});
}

}  // namespace

// The launcher.

void enqueue_sample(const SampleArgs& asked, Queue& queue) {
  SampleArgs args = asked;
  const int parts = (kScanBlocks * queue.multiprocessors + args.rows_in_list - 1) / args.rows_in_list;
  args.parts = std::clamp(parts, 1, std::min(queue.multiprocessors, kScanParts));
  launch_spread(queue, scan_kernel, dim3(kScanThreads), 0, args);
  launch(queue, sample_kernel, dim3(static_cast<unsigned>(args.rows_in_list)), dim3(kThreads), 0, args);
}

}  // namespace rondo::cuda
