// Rotary position embedding of a row's heads, and where its K and V lie in their pages. See kernels/model.h,
// struct Rope, for the formulas. embed makes the angles and the place of every row; but where all blocks of a
// kernel want those of one row, each makes them itself while it waits: the L2 has a word for one of them at a
// time.
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

// Of pair i at a position. Angles reach 131072 rad, so sine and cosine are the accurate ones; the angle
// itself is an fp32 product, as it is in the models' training code.
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

// Where a row's K or V of one head lies in its pages, in units of head_dim elements.
__device__ __forceinline__ int64_t page_place(const PageMap& map, const Row& row, int kv_head, int kv_heads) {
  const int64_t page = map.page_tables[row.slot * map.pages_per_slot + (row.position >> map.page_shift)];
  return ((page * kv_heads + kv_head) << map.page_shift) + (row.position & ((1 << map.page_shift) - 1));
}

// What embed left, when that is known to have ended; past the L1, which may hold what the step before left.
// Of pair i of row r; of pairs i, which is even, and i + 1: the first one's cosine and sine, then the
// other's.
__device__ __forceinline__ Angle load_angle(const RopeAppendArgs& a, int64_t r, int i) {
  const float2 v = __ldcg(reinterpret_cast<const float2*>(a.angles + r * (a.head_dim / 2) + i));
  return {v.x, v.y};
}
__device__ __forceinline__ float4 load_two_angles(const RopeAppendArgs& a, int64_t r, int i) {
  return __ldcg(reinterpret_cast<const float4*>(a.angles + r * (a.head_dim / 2) + i));
}

// low is element i of a head, high is element i + head_dim / 2.
__device__ __forceinline__ void rotate(const Angle& angle, float& low, float& high) {
  const float x = low, y = high;
  low = x * angle.cosine - y * angle.sine;
  high = y * angle.cosine + x * angle.sine;
}

// Four neighbouring pairs, by angles as load_two_angles() gives them.
__device__ __forceinline__ void rotate_four(float4 first, float4 second, float (&low)[4], float (&high)[4]) {
  rotate({first.x, first.y}, low[0], high[0]);
  rotate({first.z, first.w}, low[1], high[1]);
  rotate({second.x, second.y}, low[2], high[2]);
  rotate({second.z, second.w}, low[3], high[3]);
}

__device__ __forceinline__ int64_t load_place(const RopeAppendArgs& a, int64_t r) {
  return __ldcg(a.places + r);
}

// Where row r's head is to go, of q, then of k, then of v, given the row's place; null: nobody reads it.
template <class T>
__device__ __forceinline__ T* head_at(const RopeAppendArgs& a, int64_t r, int head, int64_t place) {
  if (head < a.heads) return static_cast<T*>(a.q) + (r * a.heads + head) * a.head_dim;
  if (place < 0) return nullptr;
  const bool v = head >= a.heads + a.kv_heads;
  const int64_t kv_head = head - a.heads - (v ? a.kv_heads : 0);
  return static_cast<T*>(v ? a.v_pages : a.k_pages) + (place + (kv_head << a.page_shift)) * a.head_dim;
}

}  // namespace rondo::cuda
