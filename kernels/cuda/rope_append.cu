// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 8;

// The kernel.
//
// One head of one row: y = x + bias; for q and k: y = RMSNorm(y) * norm where there is one (Qwen3), then with
// the angle t_i = position * f_i of pair i, i < head_dim / 2 (Su et al., "RoFormer"; rotate-half form of the
// Hugging Face checkpoints):
//   out[i]                = (y[i] cos t_i - y[i + head_dim / 2] sin t_i) * scaling
//   out[i + head_dim / 2] = (y[i + head_dim / 2] cos t_i + y[i] sin t_i) * scaling
// q goes to `q` [R, Q], k and v to the page of (slot, position).
// A block per multiprocessor, of 256 threads; a warp takes heads of rows in turn, head_dim / 8 of its lanes 4
// pairs each. `waited`: whether the kernels before are known to have ended.
template <class T>
__device__ __forceinline__ void rope_append_head(const RopeAppendArgs& a, const int64_t r, const int head,
                                                 bool& waited) {
  const int lane = static_cast<int>(threadIdx.x) % 32, half = a.head_dim / 2, i = lane * 4;
  const bool active = i < half;
  const bool is_q = head < a.heads, is_v = head >= a.heads + a.kv_heads;
  const int64_t D = a.head_dim;
  const T* norm = static_cast<const T*>(is_v ? nullptr : is_q ? a.q_norm : a.k_norm);
  float low_weight[4] = {0, 0, 0, 0}, high_weight[4] = {0, 0, 0, 0};
  if (active && norm) {
    load4(norm + i, low_weight);
    load4(norm + half + i, high_weight);
  }
  if (!waited) wait_for_previous();
  waited = true;

  T* const out = head_at<T>(a, r, head, load_place(a, r));
  if (!out) return;
  float4 first = {}, second = {};
  if (active && !is_v) first = load_two_angles(a, r, i), second = load_two_angles(a, r, i + 2);
  float low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
  if (active) {
    const T* in = static_cast<const T*>(a.qkv) + (r * (a.heads + 2 * a.kv_heads) + head) * D;
    load4(in + i, low);
    load4(in + half + i, high);
    if (a.bias) {
      float b[4];
      load4(static_cast<const T*>(a.bias) + head * D + i, b);
#pragma unroll
      for (int j = 0; j < 4; ++j) low[j] += b[j];
      load4(static_cast<const T*>(a.bias) + head * D + half + i, b);
#pragma unroll
      for (int j = 0; j < 4; ++j) high[j] += b[j];
    }
  }
  if (norm) {  // the same for all lanes
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += low[j] * low[j] + high[j] * high[j];
    sum = warp_reduce(sum, Add());
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(a.head_dim) + a.eps);
    if (active) {
#pragma unroll
      for (int j = 0; j < 4; ++j) low[j] *= factor * low_weight[j], high[j] *= factor * high_weight[j];
    }
  }
  if (!active) return;  // no collective follows
  if (!is_v) rotate_four(first, second, low, high);
  store4(out + i, low);
  store4(out + half + i, high);
}

template <class T>
__global__ void __launch_bounds__(32 * kWarps) rope_append_kernel(const RopeAppendArgs a) {
  let_next_start();
  const int heads = a.heads + 2 * a.kv_heads;
  bool waited = false;
  for (int task =
           static_cast<int>(threadIdx.x) / 32 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
       task < a.rows_in_step * heads; task += kWarps * static_cast<int>(gridDim.x))
    rope_append_head<T>(a, task / heads, task % heads, waited);
  if (!waited) wait_for_previous();  // nobody may take this kernel for done before the one before it is
}

}  // namespace

// The launcher.

void enqueue_rope_append(DType dtype, const RopeAppendArgs& args, Queue& queue) {
  dispatch(dtype, "rope_append",
           [&]<class T>(T*) { launch_spread(queue, rope_append_kernel<T>, dim3(32 * kWarps), 0, args); });
}

}  // namespace rondo::cuda
