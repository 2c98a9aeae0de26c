// The few words that kernels need beyond CUDA's own, each with a twin of the same meaning in
// tests/simt/overlay, where the host's compiler runs this same source. So kernels keep to them: launch()
// instead of <<<>>>, shared memory only through these macros, PTX only here, explicit masks in every
// collective, and whole warps that leave together.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "buffers/cuda_check.h"

// RONDO_SHARED(sums, float[32]): a shared variable `sums` of that type.
#define RONDO_SHARED(name, ...) __shared__ typename ::rondo::cuda::Identity<__VA_ARGS__>::type name
// RONDO_DYN_SHARED(T, name): the launch's dynamic shared memory as a T*. Every one of a kernel names the same
// bytes.
#define RONDO_DYN_SHARED(T, name)                               \
  extern __shared__ __align__(16) unsigned char rondo_shared[]; \
  T* name = reinterpret_cast<T*>(rondo_shared)

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

// Copies of contiguous bytes from global to shared memory by the copy engine (Hopper's cp.async.bulk), each
// of which lands at a Landing: a word of shared memory that counts the bytes (an mbarrier of one arrival). A
// landing is used again and again; its uses alternate between parity 0 and 1.
using Landing = uint64_t;

// One thread, once, before the block's first copy to it; prepare_landings_done() makes it known to the copy
// engine, after the last of a thread's prepare_landing().
__device__ __forceinline__ void prepare_landing([[maybe_unused]] Landing* landing) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(landing)))
      : "memory");
#endif
}
__device__ __forceinline__ void prepare_landings_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// One thread: starts the copy of `bytes`, which with both addresses is a multiple of 16, for the landing's
// next use. What other threads read of `shared` before must be ordered before this call by a barrier; what
// was written there before, other than by such copies, is not ordered before it. The bytes are not expected
// to be read again soon: they are the first to leave the L2.
__device__ __forceinline__ void copy_bulk([[maybe_unused]] void* shared, [[maybe_unused]] const void* global,
                                          [[maybe_unused]] uint32_t bytes,
                                          [[maybe_unused]] Landing* landing) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared)),
             at = static_cast<uint32_t>(__cvta_generic_to_shared(landing));
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(to),
      "l"(global), "r"(bytes), "r"(at), "l"(policy)
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

}  // namespace rondo::cuda
