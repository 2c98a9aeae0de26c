// Part of dialect.h: the copy engine.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "buffers/cuda_check.h"
#include "buffers/error.h"

namespace rondo::cuda {

// Copies from global to shared memory by the copy engine (Hopper's cp.async.bulk), which land at a Landing: a
// word of shared memory that counts arrivals and bytes (an mbarrier). A use of it is over when all its
// arrivals have been made and all bytes that they announced have landed. A landing is used again and again;
// its uses alternate between parity 0 and 1.
using Landing = uint64_t;

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// One thread, once, before the block's first copy to it; prepare_landings_done() makes it known to the copy
// engine, after the last of a thread's prepare_landing(). `arrivals`: in each use.
__device__ __forceinline__ void prepare_landing([[maybe_unused]] Landing* landing,
                                                [[maybe_unused]] int arrivals = 1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(landing)), "r"(arrivals)
               : "memory");
#endif
}
__device__ __forceinline__ void prepare_landings_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// What the thread wrote to shared memory before is ordered before copies that start behind a barrier after
// this.
__device__ __forceinline__ void order_before_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// One arrival. What the thread read and wrote before is done for those who wait for the use.
__device__ __forceinline__ void arrive([[maybe_unused]] Landing* landing) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(landing)) : "memory");
#endif
}
// One arrival, which announces that many bytes: of the copies that the thread then starts for this use.
__device__ __forceinline__ void expect_bytes([[maybe_unused]] Landing* landing,
                                             [[maybe_unused]] uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(landing)),
               "r"(bytes)
               : "memory");
#endif
}

// One thread: starts the copy of `bytes` contiguous bytes, a multiple of 16 as are both addresses, for the
// next use of a landing of one arrival. What other threads read of `shared` before must be ordered before
// this call by a barrier; what was written there before, other than by such copies, is not ordered before it.
// The bytes are not expected to be read again soon: they are the first to leave the L2.
__device__ __forceinline__ void copy_bulk([[maybe_unused]] void* shared, [[maybe_unused]] const void* global,
                                          [[maybe_unused]] uint32_t bytes,
                                          [[maybe_unused]] Landing* landing) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  expect_bytes(landing, bytes);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(landing)), "l"(policy)
      : "memory");
#endif
}

// Boxes of an array of pieces of 128 bytes (64 elements of 16 bits) in global memory, in up to four
// dimensions, as copy_tile() takes them: a map of the copy engine's. Kernels get it by value, in an argument
// that is RONDO_GRID_CONSTANT.
struct TileMap {
  CUtensorMap map;
};
#define RONDO_GRID_CONSTANT __grid_constant__

// `size` and `box` in pieces; `stride` in bytes, from one piece to the next along each dimension. The memory
// and the strides are multiples of 16 bytes. Throws Error where the driver refuses it. Touches no device.
inline TileMap make_tile_map(const void* base, const int64_t (&size)[4], const int64_t (&stride)[4],
                             const int (&box)[4]) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cudaGetDriverEntryPointByVersion");
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result),
        "cudaGetDriverEntryPoint");
#endif
  cuuint64_t sizes[5] = {64}, strides[4];
  cuuint32_t boxes[5] = {64}, steps[5] = {1, 1, 1, 1, 1};
  for (int i = 0; i < 4; ++i) {
    sizes[i + 1] = static_cast<cuuint64_t>(size[i]);
    strides[i] = static_cast<cuuint64_t>(stride[i]);
    boxes[i + 1] = static_cast<cuuint32_t>(box[i]);
  }
  TileMap made;
  const CUresult status =
      found == nullptr ? CUDA_ERROR_NOT_FOUND
                       : reinterpret_cast<Encode>(found)(
                             &made.map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 5, const_cast<void*>(base), sizes,
                             strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error(ErrorKind::InvalidArgument, "cuTensorMapEncodeTiled: expected a map of tiles, found error " +
                                                std::to_string(static_cast<int>(status)));
  return made;
}

// One thread: starts the copy of the map's box whose first piece is at those coordinates, and whose bytes
// were announced to the landing. `shared` is a multiple of 1024. Pieces lie one behind the other, along
// dimension 0 first, and the 16 bytes at place i of piece p at place i ^ (p % 8) (the engine's 128-byte
// swizzle). What lies outside the array comes as zeros. `stays`: whether it will be read again soon.
__device__ __forceinline__ void copy_tile([[maybe_unused]] void* shared, [[maybe_unused]] const TileMap& map,
                                          [[maybe_unused]] int c0, [[maybe_unused]] int c1,
                                          [[maybe_unused]] int c2, [[maybe_unused]] int c3,
                                          [[maybe_unused]] Landing* landing, [[maybe_unused]] bool stays) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint64_t policy;
  if (stays)
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  else
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared_address(shared)),
      "l"(&map.map), "r"(0), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(landing)), "l"(policy)
      : "memory");
#endif
}

// Until the landing's use of that parity (0 for the first) has all its bytes, which the calling thread then
// sees.
__device__ __forceinline__ void wait_landed([[maybe_unused]] Landing* landing, [[maybe_unused]] int parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred landed;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 landed, [%0], %1;\n"
      "@landed bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n"
      "}" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(landing))),
      "r"(parity)
      : "memory");
#endif
}

}  // namespace rondo::cuda
