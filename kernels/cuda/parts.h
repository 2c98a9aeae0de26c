// Partial results that one block leaves, by store_words(), for another of the same kernel. Nobody says that
// they are there: a word holds kNotThere until it is, so that who waits for it has it after one way through
// the L2, where a ticket takes three (the fence before it, the ticket, the words behind it). Who takes a word
// puts kNotThere back, as the next kernel finds it.
//
// A block waits only for blocks with a lower index (Blocks::wait_for_lower), or that it knows to have left
// their words: these started before it, so that it keeps none from starting that it waits for.
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

// A NaN that no arithmetic makes: the hardware's is 0x7FFFFFFF, and one that came in with 16 bits ends in
// zeros.
constexpr uint32_t kNotThere = 0xFFFFFFFFu;

__device__ __forceinline__ bool is_there(float v) { return __float_as_uint(v) != kNotThere; }
__device__ __forceinline__ bool is_there(float2 v) { return is_there(v.x) && is_there(v.y); }
__device__ __forceinline__ bool is_there(float4 v) {
  return is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w);
}

// By who took the words.
__device__ __forceinline__ void put_back(float4* at) {
  const float none = __uint_as_float(kNotThere);
  *at = make_float4(none, none, none, none);
}
__device__ __forceinline__ void put_back(float2* at) {
  const float none = __uint_as_float(kNotThere);
  *at = make_float2(none, none);
}

}  // namespace rondo::cuda
