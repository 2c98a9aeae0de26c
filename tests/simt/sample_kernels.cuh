// Kernels of the kinds that a decode step is made of, to test the executor with. The same text compiles with
// nvcc.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/dialect.h"

namespace simt_samples {

using bf16 = __nv_bfloat16;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

struct alignas(16) Eight {
  bf16 v[8];
};
__device__ __forceinline__ Eight load_eight(const bf16* p) {  // one 16-byte load
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(p));
  Eight e;
  memcpy(&e, &words, sizeof e);
  return e;
}

// out[r][i] = in[r][i] / rms(in[r]) * weight[i]; one block per row, n a multiple of 8.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) rmsnorm(bf16* __restrict__ out, const bf16* __restrict__ in,
                                                    const bf16* __restrict__ weight, int n, float epsilon) {
  RONDO_SHARED(partial, float[kThreads / 32]);
  RONDO_SHARED(scale, float);
  const int t = int(threadIdx.x);
  const bf16* x = in + size_t(blockIdx.x) * n;
  bf16* y = out + size_t(blockIdx.x) * n;
  float sum = 0.0f;
  for (int i = t * 8; i < n; i += kThreads * 8) {
    const Eight a = load_eight(x + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += __bfloat162float(a.v[j]) * __bfloat162float(a.v[j]);
  }
  sum = warp_sum(sum);
  if (t % 32 == 0) partial[t / 32] = sum;
  __syncthreads();
  if (t < 32) {
    const float total = warp_sum(t < kThreads / 32 ? partial[t] : 0.0f);
    if (t == 0) scale = rsqrtf(total / float(n) + epsilon);
  }
  __syncthreads();
  for (int i = t * 8; i < n; i += kThreads * 8) {
    const Eight a = load_eight(x + i), w = load_eight(weight + i);
    Eight o;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      o.v[j] = __float2bfloat16(__bfloat162float(a.v[j]) * scale * __bfloat162float(w.v[j]));
    uint4 words;
    memcpy(&words, &o, sizeof o);
    *reinterpret_cast<uint4*>(y + i) = words;
  }
}

// y[row] = W[row] . x; one warp per row of W [rows][cols], cols a multiple of 8.
template <int kWarps>
__global__ void gemv(float* __restrict__ y, const bf16* __restrict__ weights, const bf16* __restrict__ x,
                     int rows, int cols) {
  const int lane = int(threadIdx.x) % 32, row = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32;
  if (row >= rows) return;  // a whole warp leaves together
  const bf16* w = weights + size_t(row) * cols;
  float sum = 0.0f;
  for (int i = lane * 8; i < cols; i += 32 * 8) {
    const Eight a = load_eight(w + i), b = load_eight(x + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(__bfloat162float(a.v[j]), __bfloat162float(b.v[j]), sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) y[row] = sum;
}

// Attention of one query over positions 0..*position, split among gridDim.y blocks per head: each leaves its
// part of the softmax in partial_out [heads][splits][D] and {max, sum} in partial_ml. keys, values:
// [kv_heads][max_positions][D]. Dynamic shared memory: kWarps * (D + 2) floats.
template <int D, int kWarps>
__global__ void attend_split(float* __restrict__ partial_out, float2* __restrict__ partial_ml,
                             const bf16* __restrict__ query, const bf16* __restrict__ keys,
                             const bf16* __restrict__ values, const int* __restrict__ position, int heads,
                             int kv_heads, int max_positions, float scale) {
  constexpr int kPerLane = D / 32;
  RONDO_DYN_SHARED(float, shared);
  float* sums = shared;
  float* ml = shared + kWarps * D;
  const int head = int(blockIdx.x), split = int(blockIdx.y), splits = int(gridDim.y);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int length = *position + 1, span = (length + splits - 1) / splits;
  const int begin = split * span, end = min(length, begin + span);
  const size_t kv_offset = size_t(head / (heads / kv_heads)) * max_positions * D;
  float q[kPerLane], o[kPerLane];
#pragma unroll
  for (int e = 0; e < kPerLane; ++e) {
    q[e] = __bfloat162float(query[head * D + lane * kPerLane + e]) * scale;
    o[e] = 0.0f;
  }
  float m = -INFINITY, l = 0.0f;
  for (int p = begin + warp; p < end; p += kWarps) {
    const size_t at = kv_offset + size_t(p) * D + lane * kPerLane;
    float score = 0.0f;
#pragma unroll
    for (int e = 0; e < kPerLane; ++e) score += q[e] * __bfloat162float(keys[at + e]);
    score = warp_sum(score);
    const float next = fmaxf(m, score), shrink = __expf(m - next), weight = __expf(score - next);
    l = l * shrink + weight;
    m = next;
#pragma unroll
    for (int e = 0; e < kPerLane; ++e) o[e] = o[e] * shrink + weight * __bfloat162float(values[at + e]);
  }
#pragma unroll
  for (int e = 0; e < kPerLane; ++e) sums[warp * D + lane * kPerLane + e] = o[e];
  if (lane == 0) {
    ml[warp * 2] = m;
    ml[warp * 2 + 1] = l;
  }
  __syncthreads();
  float block_max = -INFINITY, block_sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) block_max = fmaxf(block_max, ml[w * 2]);
  for (int w = 0; w < kWarps; ++w)
    if (ml[w * 2] != -INFINITY) block_sum += ml[w * 2 + 1] * __expf(ml[w * 2] - block_max);
  for (int d = int(threadIdx.x); d < D; d += kWarps * 32) {
    float a = 0.0f;
    for (int w = 0; w < kWarps; ++w)
      if (ml[w * 2] != -INFINITY) a += sums[w * D + d] * __expf(ml[w * 2] - block_max);
    partial_out[(size_t(head) * splits + split) * D + d] = a;
  }
  if (threadIdx.x == 0) partial_ml[head * splits + split] = make_float2(block_max, block_sum);
}

// out[head][d]: the splits of attend_split put together; one block of 32 lanes or more per head.
template <int D>
__global__ void attend_combine(bf16* __restrict__ out, const float* __restrict__ partial_out,
                               const float2* __restrict__ partial_ml, int splits) {
  const int head = int(blockIdx.x), lane = int(threadIdx.x) % 32;
  float m = -INFINITY;
  for (int s = lane; s < splits; s += 32) m = fmaxf(m, partial_ml[head * splits + s].x);
  m = warp_max(m);
  for (int d = int(threadIdx.x); d < D; d += int(blockDim.x)) {
    float a = 0.0f, l = 0.0f;
    for (int s = 0; s < splits; ++s) {
      const float2 ml = partial_ml[head * splits + s];
      if (ml.x == -INFINITY) continue;
      const float weight = __expf(ml.x - m);
      a += weight * partial_out[(size_t(head) * splits + s) * D + d];
      l += weight * ml.y;
    }
    out[head * D + d] = __float2bfloat16(a / l);
  }
}

// out[0] = sum of in[0 .. 32 * gridDim.x): the last block to finish adds the blocks' parts. count must be 0
// before.
template <int kLanes>
__global__ void sum_by_last_block(float* out, float* parts, unsigned* count, const float* in) {
  RONDO_SHARED(last, int);
  const float sum = warp_sum(in[blockIdx.x * kLanes + threadIdx.x]);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(count, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    __threadfence();
    float total = 0.0f;
    for (unsigned b = 0; b < gridDim.x; ++b) total += parts[b];
    out[0] = total;
  }
}

}  // namespace simt_samples
