// Part of dialect.h: matrix products by the tensor cores, and the loads that go with them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "buffers/cuda_check.h"
#include "kernels/cuda/dialect_copies.h"

namespace rondo::cuda {

// Four 8 x 8 matrices of 16-bit elements from shared memory, by a whole warp: lanes 8 m to 8 m + 7 name the
// 16-byte rows of matrix m, and lane (g, t) = (lane / 4, lane % 4) gets word t of row g of each (PTX's
// ldmatrix.x4).
__device__ __forceinline__ uint4 load_matrices([[maybe_unused]] const void* row) {
  uint4 v = make_uint4(0, 0, 0, 0);
#if defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
  return v;
}

// The same, each matrix transposed: lane (g, t) gets elements 2 t and 2 t + 1 of column g
// (ldmatrix.x4.trans).
__device__ __forceinline__ uint4 load_matrices_transposed([[maybe_unused]] const void* row) {
  uint4 v = make_uint4(0, 0, 0, 0);
#if defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
  return v;
}

// D (16 x 8, fp32) += A (16 x 16) B (16 x 8), one warp; fragments as PTX's mma.m16n8k16 has them, two
// elements of T in each word.
__device__ __forceinline__ void mma([[maybe_unused]] float (&d)[4], [[maybe_unused]] uint4 a,
                                    [[maybe_unused]] uint2 b, const __nv_bfloat16*) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
#endif
}
__device__ __forceinline__ void mma([[maybe_unused]] float (&d)[4], [[maybe_unused]] uint4 a,
                                    [[maybe_unused]] uint2 b, const __half*) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
#endif
}

// Whether a kernel was compiled for devices that have TileProduct's instructions, which sm_90a alone has:
// where it was not, its launch bounds say so, with blocks of one warp.
template <class... P>
bool compiled_for_tiles(void (*kernel)(P...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  return attributes.maxThreadsPerBlock > 32;
}
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RONDO_TILE_THREADS(threads) 32
#else
#define RONDO_TILE_THREADS(threads) (threads)
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// D (64 x N) += A (64 x 16) B^T (N x 16) by a warpgroup, A and B described as shared memory (PTX's
// wgmma.mma_async, m64nNk16). `p`: that D is added to.
#define RONDO_WIDE_PRODUCT(n, type, registers, a, b, p, ...)                                          \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" p ", 0;\nwgmma.mma_async.sync.aligned.m64n" n \
               "k16.f32." type "." type " {" registers "}, %" a ", %" b ", add, 1, 1, 0, 0;\n}"       \
               : __VA_ARGS__                                                                          \
               : "l"(at_a), "l"(at_b), "r"(1))
#define RONDO_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define RONDO_SUMS16(i) RONDO_SUMS4(i), RONDO_SUMS4(i + 4), RONDO_SUMS4(i + 8), RONDO_SUMS4(i + 12)
#define RONDO_REGISTERS16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define RONDO_WIDE_PRODUCTS(type)                                                                            \
  if constexpr (N == 8)                                                                                      \
    RONDO_WIDE_PRODUCT("8", type, "%0,%1,%2,%3", "4", "5", "6", RONDO_SUMS4(0));                             \
  else if constexpr (N == 16)                                                                                \
    RONDO_WIDE_PRODUCT("16", type, "%0,%1,%2,%3,%4,%5,%6,%7", "8", "9", "10", RONDO_SUMS4(0),                \
                       RONDO_SUMS4(4));                                                                      \
  else if constexpr (N == 32)                                                                                \
    RONDO_WIDE_PRODUCT("32", type, RONDO_REGISTERS16, "16", "17", "18", RONDO_SUMS16(0));                    \
  else                                                                                                       \
    RONDO_WIDE_PRODUCT("64", type,                                                                           \
                       RONDO_REGISTERS16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31", \
                       "32", "33", "34", RONDO_SUMS16(0), RONDO_SUMS16(16))

template <int N>
__device__ __forceinline__ void wide_product(float (&d)[N / 2], uint64_t at_a, uint64_t at_b,
                                             const __nv_bfloat16*) {
  RONDO_WIDE_PRODUCTS("bf16");
}
template <int N>
__device__ __forceinline__ void wide_product(float (&d)[N / 2], uint64_t at_a, uint64_t at_b, const __half*) {
  RONDO_WIDE_PRODUCTS("f16");
}
#undef RONDO_WIDE_PRODUCTS
#undef RONDO_REGISTERS16
#undef RONDO_SUMS16
#undef RONDO_SUMS4
#undef RONDO_WIDE_PRODUCT
#endif

#if defined(__CUDACC__)
// D (64 x N, fp32) += A (64 x 64) B^T (N x 64), by a warpgroup: four neighbouring warps, the first one's
// number a multiple of 4, which make each call together. A and B are rows of 64 elements of T in shared
// memory as copy_tile() leaves pieces, B's all one behind the other, A's in groups of eight, `group_bytes`
// from one to the next; all are multiples of 1024. The products run on while the threads do something else;
// `sum` is valid, and A and B may be written over, after wait(). Thread (g, q) = (lane / 4, lane % 4) of
// warp w (of the four) has, of D, rows 16 w + g in sum[4 j] and sum[4 j + 1] and 16 w + g + 8 in
// sum[4 j + 2] and sum[4 j + 3], both in columns 8 j + 2 q and 8 j + 2 q + 1 (PTX's wgmma.m64nNk16).
template <class T, int N>
class TileProduct {
  static_assert(N == 8 || N == 16 || N == 32 || N == 64);

 public:
  float sum[N / 2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) sum[i] = 0;
  }
  __device__ __forceinline__ void start([[maybe_unused]] const void* a, [[maybe_unused]] const void* b,
                                        [[maybe_unused]] int group_bytes) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    settle();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    const uint64_t a_tile = describe(a, group_bytes), b_tile = describe(b, 1024);
#pragma unroll
    for (int k = 0; k < 4; ++k)  // 16 elements further: 32 bytes
      wide_product<N>(sum, a_tile + 2 * k, b_tile + 2 * k, static_cast<const T*>(nullptr));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    settle();
#endif
  }
  __device__ __forceinline__ void wait() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    settle();
#endif
  }

 private:
  // PTX's matrix descriptor: address and distance of groups of eight rows, in units of 16 bytes; layout 1,
  // the 128-byte swizzle, in the highest two bits.
  static __device__ __forceinline__ uint64_t describe([[maybe_unused]] const void* tile,
                                                      [[maybe_unused]] int group_bytes) {
#if defined(__CUDA_ARCH__)
    return static_cast<uint64_t>((shared_address(tile) & 0x3FFFF) >> 4) | 1ull << 16 |
           static_cast<uint64_t>(group_bytes >> 4) << 32 | 1ull << 62;
#else
    return 0;
#endif
  }
  // The compiler may not move the sums' uses past this.
  __device__ __forceinline__ void settle() {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) asm volatile("" : "+f"(sum[i])::"memory");
  }
};
#endif

}  // namespace rondo::cuda
