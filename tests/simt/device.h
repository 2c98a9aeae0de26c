// What a kernel's text sees of CUDA when g++ compiles it: NVIDIA's own headers for the types, and the
// executor behind the built-in variables, barriers, collectives, atomics and arithmetic.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tests/simt/simt.h"
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#if !defined(__restrict__)
#define __restrict__ __restrict
#endif

inline constexpr int warpSize = 32;

namespace simt {

template <class T>
struct identity {
  using type = T;
};

template <class T>
T shuffled(uint32_t mask, T value, int source_lane, Where at) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2));
  T out;
  shuffle(mask, &value, &out, sizeof value, source_lane, at);
  return out;
}
inline int segment(int lane, int width) { return lane & ~(width - 1); }

template <class T, class F>
T atomic_update(T* p, F next) {
  std::atomic_ref<T> a(*p);
  T old = a.load(std::memory_order_relaxed);
  while (!a.compare_exchange_weak(old, next(old), std::memory_order_relaxed)) {
  }
  return old;
}

#if defined(__SANITIZE_THREAD__)
inline char fence_key;
inline thread_local char warp_keys[32];
inline void fence() {
  __tsan_acquire(&fence_key);
  __tsan_release(&fence_key);
}
#else
inline void fence() {}
#endif

}  // namespace simt

// ---- barriers, votes, shuffles

#define SIMT_AT ::simt::Where at = ::simt::Where::current()

inline void __syncthreads(SIMT_AT) { simt::barrier(0, at); }
inline int __syncthreads_count(int p, SIMT_AT) { return simt::barrier(p, at); }
inline int __syncthreads_or(int p, SIMT_AT) { return simt::barrier(p, at) != 0; }
inline int __syncthreads_and(int p, SIMT_AT) { return simt::barrier(!p, at) == 0; }

inline unsigned __ballot_sync(unsigned m, int p, SIMT_AT) { return simt::ballot(m, p, at); }
inline int __any_sync(unsigned m, int p, SIMT_AT) { return simt::ballot(m, p, at) != 0; }
inline int __all_sync(unsigned m, int p, SIMT_AT) { return simt::ballot(m, p, at) == m; }
inline void __syncwarp(unsigned m = ~0u, SIMT_AT) {
#if defined(__SANITIZE_THREAD__)  // it orders memory among the lanes, which votes and shuffles do not
  char* key = &simt::warp_keys[simt::here.warp];
  __tsan_release(key);
  simt::ballot(m, 0, at);
  __tsan_acquire(key);
#else
  simt::ballot(m, 0, at);
#endif
}

template <class T>
T __shfl_sync(unsigned m, T v, int source, int width = 32, SIMT_AT) {
  return simt::shuffled(m, v, simt::segment(int(simt::here.lane), width) + (source & (width - 1)), at);
}
template <class T>
T __shfl_xor_sync(unsigned m, T v, int lane_mask, int width = 32, SIMT_AT) {
  const int lane = int(simt::here.lane), source = lane ^ lane_mask;
  return simt::shuffled(m, v, simt::segment(source, width) > simt::segment(lane, width) ? lane : source, at);
}
template <class T>
T __shfl_down_sync(unsigned m, T v, unsigned delta, int width = 32, SIMT_AT) {
  const int lane = int(simt::here.lane), source = lane + int(delta);
  return simt::shuffled(m, v, source >= simt::segment(lane, width) + width ? lane : source, at);
}
template <class T>
T __shfl_up_sync(unsigned m, T v, unsigned delta, int width = 32, SIMT_AT) {
  const int lane = int(simt::here.lane), source = lane - int(delta);
  return simt::shuffled(m, v, source < simt::segment(lane, width) ? lane : source, at);
}

template <class T>
unsigned __match_any_sync(unsigned m, T v, SIMT_AT) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  return simt::match_any(m, bits, at);
}
inline unsigned __reduce_add_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::add, at);
}
inline int __reduce_add_sync(unsigned m, int v, SIMT_AT) {
  return int(simt::reduce(m, unsigned(v), simt::Reduce::add, at));
}
inline unsigned __reduce_min_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::min_unsigned, at);
}
inline int __reduce_min_sync(unsigned m, int v, SIMT_AT) {
  return int(simt::reduce(m, unsigned(v), simt::Reduce::min_signed, at));
}
inline unsigned __reduce_max_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::max_unsigned, at);
}
inline int __reduce_max_sync(unsigned m, int v, SIMT_AT) {
  return int(simt::reduce(m, unsigned(v), simt::Reduce::max_signed, at));
}
inline unsigned __reduce_and_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::bit_and, at);
}
inline unsigned __reduce_or_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::bit_or, at);
}
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, SIMT_AT) {
  return simt::reduce(m, v, simt::Reduce::bit_xor, at);
}

[[noreturn]] inline void __trap(SIMT_AT) { simt::trap(at); }

// ---- memory

inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }
inline void __threadfence_system() { simt::fence(); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> v) {
  *p = v;
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return T(old + v); });
}
template <class T>
T atomicSub(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return T(old - v); });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return old < v ? v : old; });
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return T(old & v); });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return T(old | v); });
}
template <class T>
T atomicXor(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T old) { return T(old ^ v); });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return simt::atomic_update(p, [expected, v](T old) { return old == expected ? v : old; });
}

// ---- integers and bits

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using wide = unsigned __int128;
  return static_cast<unsigned long long>((wide(a) * b) >> 64);
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

// ---- arithmetic (expf, logf, fmaf, fminf, sincosf and the rest of C's are libm's)

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) noexcept { return std::exp(x); }
inline float __logf(float x) noexcept { return std::log(x); }
inline float __sinf(float x) noexcept { return std::sin(x); }
inline float __cosf(float x) noexcept { return std::cos(x); }
inline float __powf(float x, float y) noexcept { return std::pow(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }

// CUDA's, which mix types and give the number where one side is NaN; std::min and std::max do neither.
template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>)
    return std::fmin(C(a), C(b));
  else
    return C(b) < C(a) ? C(b) : C(a);
}
template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>)
    return std::fmax(C(a), C(b));
  else
    return C(a) < C(b) ? C(b) : C(a);
}
