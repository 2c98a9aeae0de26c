// Partial results that one block leaves for another of the same kernel. Nobody says that they are there: a
// word holds kNotThere until it is, so that who waits for it has it after one way through the L2, where a
// ticket takes three (the fence before it, the ticket, the words behind it). Who takes a word puts kNotThere
// back, as the next kernel finds it.
//
// Who waits is resident, and so is whom it waits for: the grid has no more blocks than fit at once. A block
// waits only for blocks with a lower index, or for none (the executor runs them in that order).
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

// A NaN that no arithmetic makes: the hardware's is 0x7FFFFFFF.
constexpr uint32_t kNotThere = 0xFFFFFFFFu;

__device__ __forceinline__ bool is_there(float v) { return __float_as_uint(v) != kNotThere; }
__device__ __forceinline__ bool is_there(float2 v) { return is_there(v.x) && is_there(v.y); }
__device__ __forceinline__ bool is_there(float4 v) {
  return is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w);
}

// A NaN that came in from outside might be it.
__device__ __forceinline__ float sayable(float v) { return is_there(v) ? v : __uint_as_float(0x7FFFFFFFu); }

__device__ __forceinline__ void leave_part(float4* to, float4 v) {
  store_words(to, make_float4(sayable(v.x), sayable(v.y), sayable(v.z), sayable(v.w)));
}
__device__ __forceinline__ void leave_part(float2* to, float2 v) {
  store_words(to, make_float2(sayable(v.x), sayable(v.y)));
}

// `v`: what a load_words() from there found. Returns what is there once it is, and puts kNotThere back.
template <class V>
__device__ __forceinline__ V take_part(V* from, V v) {
  while (!is_there(v)) {
    wait_for_other_block();
    v = load_words(from);
  }
  return v;
}
__device__ __forceinline__ void clear_part(float4* at) {
  const float none = __uint_as_float(kNotThere);
  *at = make_float4(none, none, none, none);
}
__device__ __forceinline__ void clear_part(float2* at) {
  const float none = __uint_as_float(kNotThere);
  *at = make_float2(none, none);
}

}  // namespace rondo::cuda
