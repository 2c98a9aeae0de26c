// The few words that kernels need beyond CUDA's own, each with a twin of the same meaning in
// tests/simt/overlay, where the host's compiler runs this same source. So kernels keep to them: launch()
// instead of <<<>>>, shared memory only through these macros, PTX only here, explicit masks in every
// collective, and whole warps that leave together.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "buffers/cuda_check.h"
#include "buffers/error.h"

// RONDO_SHARED(sums, float[32]): a shared variable `sums` of that type.
#define RONDO_SHARED(name, ...) __shared__ typename ::rondo::cuda::Identity<__VA_ARGS__>::type name
// RONDO_DYN_SHARED(T, name): the launch's dynamic shared memory as a T*. Every one of a kernel names the same
// bytes.
#define RONDO_DYN_SHARED(T, name)                               \
  extern __shared__ __align__(16) unsigned char rondo_shared[]; \
  T* name = reinterpret_cast<T*>(rondo_shared)
// The same as bytes, at a multiple of 1024, in a kernel that has no other shared memory.
#define RONDO_TILE_SHARED(name)                                        \
  extern __shared__ __align__(1024) unsigned char rondo_tile_shared[]; \
  unsigned char* name = rondo_tile_shared

namespace rondo::cuda {

template <class T>
struct Identity {
  using type = T;
};

// How a launch is ordered behind the kernel before it on the stream. `early`: it may start while that kernel
// still runs (programmatic dependent launch); the kernel then calls wait_for_previous() before it reads or
// writes anything that a kernel of this step writes.
// `first`: it starts when all before it has ended, but the next ones overlap with it.
enum class Order { after, first, early };

// Kernels that overlap have a block on each multiprocessor, those of the one that runs and those of the next.
// Two blocks of one kernel that met on a multiprocessor would be waited for by all others, and the next
// kernel's would meet there too, to the end of the step. So every second kernel has wide blocks: they ask for
// a little more than half of the shared memory, and no two of them fit. A narrow block asks for less than
// half, and for so much that no two of them fit beside a wide one, where each of them must go: a wide block
// is there until the kernel before it has ended.
constexpr size_t kNarrowBlock = 100 << 10;  // bytes of shared memory, at least

struct Queue {
  cudaStream_t stream;
  Order order;
  int multiprocessors;       // of the device: the grid of kernels that overlap
  int shared_limit;          // bytes of shared memory that a block may ask for
  int wide_block = 0;        // bytes of shared memory of which no two fit on a multiprocessor
  bool wide = false;         // whether the next such kernel has wide blocks
  bool bulk_copies = false;  // whether the device has them: copy_bulk() does nothing before Hopper
  bool tiles = false;        // whether it has copy_tile() and TileProduct, and kernels were compiled for them
};

// Enqueues the kernel. Throws rondo::Error, through check(), when the launch is refused; the status is the
// call's own, so an error that somebody else left in the runtime is not taken for ours.
template <class... P, class... A>
void launch(const Queue& queue, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes all of its arguments");
  // Kernels that overlap must agree on how a multiprocessor's memory is split between L1 and shared memory:
  // it cannot change while one runs.
  if (queue.order != Order::after)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "cudaFuncSetAttribute");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  config.attrs = &attribute;
  config.numAttrs = queue.order == Order::early ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "kernel launch");
}

// Lets a kernel be launched with up to `bytes` of dynamic shared memory. Always the same for one kernel: a
// launch that was recorded earlier must not find less. With its static shared memory it may not exceed
// Queue::shared_limit.
template <class... P>
void allow_shared(void (*kernel)(P...), int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
}

// A kernel that overlaps with others: a block for each multiprocessor, whatever there is to do.
template <class... P, class... A>
void launch_spread(Queue& queue, void (*kernel)(P...), dim3 block, size_t shared_bytes, A... args) {
  if (shared_bytes > 0)
    allow_shared(kernel, queue.shared_limit);
  else if (queue.order != Order::after)
    allow_shared(kernel, queue.wide_block);
  if (queue.order != Order::after) {
    const bool wide = queue.wide && queue.order != Order::first;
    const size_t least = wide ? static_cast<size_t>(queue.wide_block) : kNarrowBlock;
    if (shared_bytes < least) shared_bytes = least;
    queue.wide = !wide;
  }
  launch(queue, kernel, dim3(static_cast<unsigned>(queue.multiprocessors)), block, shared_bytes, args...);
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... args) {
  launch(Queue{stream, Order::after, 0, 0}, kernel, grid, block, shared_bytes, args...);
}

// Lets the next kernel of the stream start, if it was launched early.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until every kernel before this one has ended and all that they wrote can be seen.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Adds 1 to the word and returns what it held. What the block's threads wrote before a barrier and this call
// is seen, after a barrier, by the threads of a block that drew later. One thread.
__device__ __forceinline__ int draw_ticket([[maybe_unused]] int* ticket) {
  int before = 0;
#if defined(__CUDA_ARCH__)
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(ticket) : "memory");
#endif
  return before;
}

// What a ticket's word holds; what was written before the draws that it counts is then seen, after a barrier
// or __syncwarp(). One thread.
__device__ __forceinline__ int look_at_tickets([[maybe_unused]] const int* ticket) {
  int drawn = 0;
#if defined(__CUDA_ARCH__)
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(drawn) : "l"(ticket) : "memory");
#endif
  return drawn;
}

// Words in host memory that kernels and the host's threads both see. What was written before the store, and
// by others before a __threadfence_system() and a barrier, is seen by who reads its value.
__device__ __forceinline__ void store_for_host([[maybe_unused]] uint32_t* word,
                                               [[maybe_unused]] uint32_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
#endif
}
__device__ __forceinline__ uint32_t load_from_host([[maybe_unused]] uint32_t* word) {
  uint32_t value = 0;
#if defined(__CUDA_ARCH__)
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
#endif
  return value;
}

// Whether the loop that the condition belongs to (a conditional node) goes round once more. One thread.
__device__ __forceinline__ void set_condition([[maybe_unused]] uint64_t condition,
                                              [[maybe_unused]] bool value) {
#if defined(__CUDA_ARCH__)
  cudaGraphSetConditional(condition, value ? 1u : 0u);
#endif
}

// A thread's copies from global to shared memory that go on while it computes, in groups: commit() ends a
// group, wait<n>() returns when all but the newest n groups have landed for this thread (others see them
// after a barrier).
struct AsyncCopies {
  // 16 bytes, both addresses multiples of 16.
  __device__ __forceinline__ void copy16([[maybe_unused]] void* shared, [[maybe_unused]] const void* global) {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
#endif
  }
  __device__ __forceinline__ void commit() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
  template <int newest>
  __device__ __forceinline__ void wait() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
  }
};

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
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cudaGetDriverEntryPointByVersion");
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
