// The heads of one row between the QKV product and attention.
#pragma once

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"

namespace rondo::cuda {

// The heads of one row as the QKV product leaves them, of which one warp makes kTogether at a time: y = x +
// bias; for q and k y = RMSNorm(y) * norm where there is one, then RoPE (rope_append.cu has the formulas). Of
// head_dim's two halves a lane has every 32nd element.
template <class T, int kMaxDim>
struct RawHeads {
  static constexpr int kTurns = (kMaxDim + 63) / 64, kTogether = kMaxDim > 128 ? 1 : 2;

  const RopeAppendArgs& a;
  int lane;
  Angle angles[kTurns];
  T bias[kTogether][2][kTurns], norm[kTogether][2][kTurns];

  __device__ __forceinline__ RawHeads(const RopeAppendArgs& args, const RowRope& rope, int position,
                                      int lane_of_warp)
      : a(args), lane(lane_of_warp) {
#pragma unroll
    for (int j = 0; j < kTurns; ++j)
      if (lane + 32 * j < a.head_dim / 2) angles[j] = angle(rope, position, lane + 32 * j, a.head_dim);
  }
  // Calls f(side, turn, element) for each element of a head that is the lane's.
  template <class F>
  __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int j = 0; j < kTurns; ++j)
        if (const int i = lane + 32 * j; i < a.head_dim / 2) f(side, j, side * (a.head_dim / 2) + i);
  }
  __device__ __forceinline__ const T* norm_of(int head) const {
    return static_cast<const T*>(head < a.heads                ? a.q_norm
                                 : head < a.heads + a.kv_heads ? a.k_norm
                                                               : nullptr);
  }
  // What no kernel of the step writes: it is asked for before the wait.
  __device__ __forceinline__ void load_early(int k, int head) {
    const T* const weights = norm_of(head);
    const T* const biases = static_cast<const T*>(a.bias);
    each([&](int side, int j, int i) {
      if (biases) bias[k][side][j] = biases[static_cast<int64_t>(head) * a.head_dim + i];
      if (weights) norm[k][side][j] = weights[i];
    });
  }
  using Loaded = T[2][kTurns];
  __device__ __forceinline__ void load(int head, Loaded& x) const {
    const T* const from = static_cast<const T*>(a.qkv) + static_cast<int64_t>(head) * a.head_dim;
    each([&](int side, int j, int i) { x[side][j] = __ldcg(from + i); });
  }
  // All lanes. `page`: where it goes besides, or null.
  __device__ __forceinline__ void make(int k, int head, const Loaded& x, T* to, T* page) const {
    float y[2][kTurns], sum = 0;
    const bool rotated = head < a.heads + a.kv_heads, normed = norm_of(head) != nullptr;
    each([&](int side, int j, int) {
      y[side][j] = static_cast<float>(x[side][j]) + (a.bias ? static_cast<float>(bias[k][side][j]) : 0.0f);
      sum += y[side][j] * y[side][j];
    });
    if (normed) {  // the same for all lanes
      const float factor = 1.0f / sqrtf(warp_reduce(sum, Add()) / static_cast<float>(a.head_dim) + a.eps);
      each([&](int side, int j, int) { y[side][j] *= factor * static_cast<float>(norm[k][side][j]); });
    }
#pragma unroll
    for (int j = 0; j < kTurns; ++j)
      if (rotated && lane + 32 * j < a.head_dim / 2) rotate(angles[j], y[0][j], y[1][j]);
    each([&](int side, int j, int i) {
      to[i] = static_cast<T>(y[side][j]);
      if (page) page[i] = to[i];
    });
  }
};

}  // namespace rondo::cuda
