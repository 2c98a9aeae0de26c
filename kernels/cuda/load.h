// Loads and stores of 4 and 8 neighbouring elements in as few transactions as their type allows (16 bytes
// each at most). Kernels compute in fp32 whatever the type in memory is. Plain loads, never ld.global.nc:
// most of what is read here was written by the kernel before.
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

// 8 elements as they lie in memory, for loads that are to be in flight before the first of them is used.
template <class T>
struct alignas(16) Raw8 {
  uint4 words[sizeof(T) / 2];
};

// `from` must be aligned to 16 bytes.
template <class T>
__device__ __forceinline__ Raw8<T> load_raw8(const T* from) {
  Raw8<T> raw;
  const uint4* words = reinterpret_cast<const uint4*>(from);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) raw.words[i] = words[i];
  return raw;
}

template <class T>
__device__ __forceinline__ Raw8<T> zero_raw8() {
  Raw8<T> raw;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) raw.words[i] = make_uint4(0, 0, 0, 0);
  return raw;
}

// Two elements of 16 bits in one word, the lower address in the lower half.
__device__ __forceinline__ void widen2(uint32_t word, float* out, const __nv_bfloat16*) {
  out[0] = __uint_as_float(word << 16);
  out[1] = __uint_as_float(word & 0xFFFF0000u);
}
__device__ __forceinline__ void widen2(uint32_t word, float* out, const __half*) {
  out[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xFFFFu)));
  out[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
__device__ __forceinline__ uint32_t narrow2(float low, float high, const __nv_bfloat16*) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ uint32_t narrow2(float low, float high, const __half*) {
  return static_cast<uint32_t>(__half_as_ushort(__float2half_rn(low))) |
         static_cast<uint32_t>(__half_as_ushort(__float2half_rn(high))) << 16;
}

template <class T>
__device__ __forceinline__ void widen8(const Raw8<T>& raw, float (&out)[8]) {
  const T* type = nullptr;
  widen2(raw.words[0].x, out + 0, type);
  widen2(raw.words[0].y, out + 2, type);
  widen2(raw.words[0].z, out + 4, type);
  widen2(raw.words[0].w, out + 6, type);
}
template <>
__device__ __forceinline__ void widen8<float>(const Raw8<float>& raw, float (&out)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out[4 * i + 0] = __uint_as_float(raw.words[i].x);
    out[4 * i + 1] = __uint_as_float(raw.words[i].y);
    out[4 * i + 2] = __uint_as_float(raw.words[i].z);
    out[4 * i + 3] = __uint_as_float(raw.words[i].w);
  }
}

// 8 elements, `from` and `to` aligned to 16 bytes.
template <class T>
__device__ __forceinline__ void load8(const T* from, float (&out)[8]) {
  widen8<T>(load_raw8(from), out);
}
template <class T>
__device__ __forceinline__ void store8(T* to, const float (&in)[8]) {
  const T* type = nullptr;
  *reinterpret_cast<uint4*>(to) = make_uint4(narrow2(in[0], in[1], type), narrow2(in[2], in[3], type),
                                             narrow2(in[4], in[5], type), narrow2(in[6], in[7], type));
}
template <>
__device__ __forceinline__ void store8<float>(float* to, const float (&in)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(in[0], in[1], in[2], in[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(in[4], in[5], in[6], in[7]);
}

// 8 elements of 16 bits as they lie in memory.
template <class T>
__device__ __forceinline__ uint4 narrow8(const float (&in)[8]) {
  const T* type = nullptr;
  return make_uint4(narrow2(in[0], in[1], type), narrow2(in[2], in[3], type), narrow2(in[4], in[5], type),
                    narrow2(in[6], in[7], type));
}

// 4 elements, `from` and `to` aligned to 4 elements.
template <class T>
__device__ __forceinline__ void load4(const T* from, float (&out)[4]) {
  const T* type = nullptr;
  const uint2 words = *reinterpret_cast<const uint2*>(from);
  widen2(words.x, out + 0, type);
  widen2(words.y, out + 2, type);
}
template <>
__device__ __forceinline__ void load4<float>(const float* from, float (&out)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}
template <class T>
__device__ __forceinline__ void store4(T* to, const float (&in)[4]) {
  const T* type = nullptr;
  *reinterpret_cast<uint2*>(to) = make_uint2(narrow2(in[0], in[1], type), narrow2(in[2], in[3], type));
}
template <>
__device__ __forceinline__ void store4<float>(float* to, const float (&in)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(in[0], in[1], in[2], in[3]);
}

}  // namespace rondo::cuda
