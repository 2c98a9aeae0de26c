// Rotary position embedding of one pair of elements, and the place of a row's K and V in their pages. See
// kernels/model.h, struct Rope, for the formulas.
#pragma once

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"

namespace rondo::cuda {

// Which table a row's angles come from, or the dynamic kind's base.
struct RowRope {
  const float* frequencies;  // null: dynamic, from base
  float base;
  float scaling;
};

__device__ __forceinline__ RowRope row_rope(const RopeTables& rope, const Row& row, const SlotParams* slots,
                                            int head_dim) {
  const int64_t prompt = slots[row.slot].prompt_length, now = row.position + int64_t{1};
  const int64_t length = prompt > now ? prompt : now;
  if (length <= rope.original_length) return {rope.inv_freq, 0, rope.scaling};
  if (rope.long_inv_freq) return {rope.long_inv_freq, 0, rope.long_scaling};
  if (!rope.dynamic) return {rope.inv_freq, 0, rope.scaling};
  const float stretch =
      rope.dynamic_factor * static_cast<float>(length) / static_cast<float>(rope.original_length) -
      (rope.dynamic_factor - 1.0f);
  const float d = static_cast<float>(head_dim);
  return {nullptr, rope.dynamic_theta * powf(stretch, d / (d - 2.0f)), rope.scaling};
}

// Cosine and sine of pair i at a position, scaled. Angles reach 131072 rad, so they are the accurate ones;
// the angle itself is an fp32 product, as it is in the models' training code.
struct Angle {
  float cosine;
  float sine;
};
__device__ __forceinline__ Angle angle(const RowRope& rope, int position, int i, int head_dim) {
  const float f = rope.frequencies
                      ? rope.frequencies[i]
                      : 1.0f / powf(rope.base, static_cast<float>(2 * i) / static_cast<float>(head_dim));
  Angle angle;
  sincosf(static_cast<float>(position) * f, &angle.sine, &angle.cosine);
  angle.sine *= rope.scaling;
  angle.cosine *= rope.scaling;
  return angle;
}

// low is element i of a head, high is element i + head_dim / 2.
__device__ __forceinline__ void rotate(const Angle& angle, float& low, float& high) {
  const float x = low, y = high;
  low = x * angle.cosine - y * angle.sine;
  high = y * angle.cosine + x * angle.sine;
}

// Where a row's K or V of one head lies in its pages, in units of head_dim elements.
__device__ __forceinline__ int64_t page_place(const PageMap& map, const Row& row, int kv_head, int kv_heads) {
  const int64_t page = map.page_tables[row.slot * map.pages_per_slot + (row.position >> map.page_shift)];
  return ((page * kv_heads + kv_head) << map.page_shift) + (row.position & ((1 << map.page_shift) - 1));
}

}  // namespace rondo::cuda
