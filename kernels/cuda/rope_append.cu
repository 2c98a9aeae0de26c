// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 4;

// Which table a row's angles come from, or the dynamic kind's base; see kernels/model.h, struct Rope.
struct RowRope {
  const float* frequencies;  // null: dynamic, from base
  float base;
  float scaling;
};

__device__ __forceinline__ RowRope row_rope(const RopeTables& rope, int64_t length, int head_dim) {
  if (length <= rope.original_length) return {rope.inv_freq, 0, rope.scaling};
  if (rope.long_inv_freq) return {rope.long_inv_freq, 0, rope.long_scaling};
  if (!rope.dynamic) return {rope.inv_freq, 0, rope.scaling};
  const float stretch =
      rope.dynamic_factor * static_cast<float>(length) / static_cast<float>(rope.original_length) -
      (rope.dynamic_factor - 1.0f);
  const float d = static_cast<float>(head_dim);
  return {nullptr, rope.dynamic_theta * powf(stretch, d / (d - 2.0f)), rope.scaling};
}

// The kernel.
//
// One head of one row: y = x + bias; for q and k: y = RMSNorm(y) * norm where there is one (Qwen3), then with
// the angle t_i = position * f_i of pair i, i < head_dim / 2 (Su et al., "RoFormer"; rotate-half form of the
// Hugging Face checkpoints):
//   out[i]                = (y[i] cos t_i - y[i + head_dim / 2] sin t_i) * scaling
//   out[i + head_dim / 2] = (y[i + head_dim / 2] cos t_i + y[i] sin t_i) * scaling
// q goes to `q` [R, Q], k and v to the page of (slot, position).
// Grid [ceil((heads + 2 kv_heads) / 4), R], block 128: a warp per head, of which head_dim / 8 lanes work on 4
// pairs each. Angles reach 131072 rad, so sine and cosine are the accurate ones; the angle itself is an fp32
// product, as it is in the models' training code.
template <class T>
__global__ void __launch_bounds__(32 * kWarps) rope_append_kernel(const RopeAppendArgs a) {
  const int head = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (head >= a.heads + 2 * a.kv_heads) return;  // whole warps
  const int lane = static_cast<int>(threadIdx.x) % 32, half = a.head_dim / 2, i = lane * 4;
  const bool active = i < half;
  const bool is_q = head < a.heads, is_v = head >= a.heads + a.kv_heads;
  const int64_t r = blockIdx.y, D = a.head_dim;
  const Row row = a.rows[r];
  if (!is_q && row.slot == 0)
    return;  // padding: nobody reads the scrap page, and all padding rows would write one place of it

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

  const T* norm = static_cast<const T*>(is_v ? nullptr : is_q ? a.q_norm : a.k_norm);
  if (norm) {  // the same for all lanes
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += low[j] * low[j] + high[j] * high[j];
    sum = warp_reduce(sum, Add());
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(a.head_dim) + a.eps);
    if (active) {
      float w[4];
      load4(norm + i, w);
#pragma unroll
      for (int j = 0; j < 4; ++j) low[j] *= factor * w[j];
      load4(norm + half + i, w);
#pragma unroll
      for (int j = 0; j < 4; ++j) high[j] *= factor * w[j];
    }
  }
  if (!active) return;  // no collective follows

  if (!is_v) {
    const int64_t prompt = a.slots[row.slot].prompt_length, now = row.position + int64_t{1};
    const RowRope rope = row_rope(a.rope, prompt > now ? prompt : now, a.head_dim);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float f = rope.frequencies
                          ? rope.frequencies[i + j]
                          : 1.0f / powf(rope.base, static_cast<float>(2 * (i + j)) / static_cast<float>(D));
      float sine, cosine;
      sincosf(static_cast<float>(row.position) * f, &sine, &cosine);
      sine *= rope.scaling;
      cosine *= rope.scaling;
      const float x = low[j], y = high[j];
      low[j] = x * cosine - y * sine;
      high[j] = y * cosine + x * sine;
    }
  }

  T* out;
  if (is_q) {
    out = static_cast<T*>(a.q) + (r * a.heads + head) * D;
  } else {
    const int kv_head = head - a.heads - (is_v ? a.kv_heads : 0);
    const int64_t page =
        a.map.page_tables[row.slot * a.map.pages_per_slot + (row.position >> a.map.page_shift)];
    const int64_t offset = row.position & ((1 << a.map.page_shift) - 1);
    out = static_cast<T*>(is_v ? a.v_pages : a.k_pages) +
          (((page * a.kv_heads + kv_head) << a.map.page_shift) + offset) * D;
  }
  store4(out + i, low);
  store4(out + half + i, high);
}

}  // namespace

// The launcher.

void enqueue_rope_append(DType dtype, const RopeAppendArgs& args, int rows, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.heads + 2 * args.kv_heads + kWarps - 1) / kWarps);
  dispatch(dtype, "rope_append", [&]<class T>(T*) {
    launch(rope_append_kernel<T>, dim3(blocks, static_cast<unsigned>(rows)), dim3(32 * kWarps), 0, stream,
           args);
  });
}

}  // namespace rondo::cuda
