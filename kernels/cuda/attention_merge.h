// What becomes of a tile that was cut into chunks: its partial results, one piece of each chunk, and their
// sum.
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {

// -inf - -inf is NaN; a state without a position has weight 0 against any finite reference.
__device__ __forceinline__ float reference(float m) { return m == -INFINITY ? 0.0f : m; }

// What is at `from` once it is there; `v`: what a load_words() from there has found.
template <class V>
__device__ __forceinline__ V wait_for_words(const V* from, V v) {
  while (!is_there(v)) {
    wait_for_other_block();
    v = load_words(from);
  }
  return v;
}

// Where row r's piece for a query head lies, in units of a head.
__device__ __forceinline__ int64_t piece_at(const AttentionArgs& a, int r, int piece, int head) {
  return (r * static_cast<int64_t>(a.capacity) + piece) * a.heads + head;
}

// o of row r's query head, of its pieces, in the order of the chunks. It waits for those that are not there.
// One warp: four neighbouring dimensions a lane, or two fours; lane p has piece p's weight.
template <class T, int kMaxDim>
__device__ __forceinline__ void merge_pieces(const AttentionArgs& a, int r, int head, int pieces, int lane) {
  constexpr int kTogether = 8;  // pieces in flight
  constexpr int kHalves = kMaxDim > 128 ? 2 : 1;
  const int64_t at = piece_at(a, r, 0, head);
  float2* const mls = reinterpret_cast<float2*>(a.partial_ml) + at;
  const int64_t apart = static_cast<int64_t>(a.heads) * a.head_dim;  // from a piece to the one behind it
  float top = -INFINITY, l = 0, sum[kHalves][4] = {};
#pragma unroll 1
  for (int base = 0; base < pieces; base += 32) {
    const int there = pieces - base < 32 ? pieces - base : 32;
    float2 ml = make_float2(-INFINITY, 0);
    if (lane < there) ml = load_words(mls + (base + lane) * a.heads);
    float weight = 0;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int d = half * 128 + lane * 4;
      const bool wanted = d < a.head_dim;
      float* from = a.partial_o + at * a.head_dim + base * apart + (wanted ? d : half * 128);
#pragma unroll 1
      for (int first = 0; first < there; first += kTogether) {
        float4 v[kTogether];
        // In place of a piece that is not there the last one is read again; its weight is 0.
        const auto place = [&](int k) {
          const int piece = first + k < there ? first + k : there - 1;
          return reinterpret_cast<float4*>(from + piece * apart);
        };
#pragma unroll
        for (int k = 0; k < kTogether; ++k) v[k] = load_words(place(k));
        if (half == 0 && first == 0) {
          if (lane < there) {
            ml = wait_for_words(mls + (base + lane) * a.heads, ml);
            put_back(mls + (base + lane) * a.heads);
          }
          __syncwarp();
          const float higher = fmaxf(top, warp_reduce(ml.x, [](float x, float y) { return fmaxf(x, y); }));
          const float keep = exp2f(top - reference(higher));
          weight = exp2f(ml.x - reference(higher));
          top = higher;
          l = l * keep + weight * ml.y;
#pragma unroll
          for (int h = 0; h < kHalves; ++h)
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[h][j] *= keep;
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          v[k] = wait_for_words(place(k), v[k]);
          const float w = __shfl_sync(kFullWarp, weight, first + k);
          sum[half][0] += w * v[k].x;
          sum[half][1] += w * v[k].y;
          sum[half][2] += w * v[k].z;
          sum[half][3] += w * v[k].w;
        }
        __syncwarp();  // lanes of dimensions that there are not have read lane 0's
#pragma unroll
        for (int k = 0; k < kTogether; ++k)
          if (wanted) put_back(place(k));
      }
    }
  }
  const float scale_back = 1.0f / warp_reduce(l, Add());
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int d = half * 128 + lane * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[half][j] *= scale_back;
    if (d < a.head_dim)
      store4(static_cast<T*>(a.o) + (static_cast<int64_t>(r) * a.heads + head) * a.head_dim + d, sum[half]);
  }
}

}  // namespace rondo::cuda
