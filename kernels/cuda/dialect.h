// The few words that kernels need beyond CUDA's own, here and in the two headers at the end, each with a twin
// of the same meaning in tests/simt/overlay, where the host's compiler runs this same source. So kernels keep
// to them: launch() instead of <<<>>>, shared memory only through these macros, PTX only here, explicit masks
// in every collective, and whole warps that leave together.
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

// Whether blocks of a kernel wait for others of it, which must be those with a lower index: blocks start in
// ascending order. The executor runs such blocks in that order alone.
enum class Blocks { independent, wait_for_lower };

// A kernel that overlaps with others: a block for each multiprocessor, whatever there is to do.
template <Blocks = Blocks::independent, class... P, class... A>
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

// Takes that many cycles of the multiprocessor's clock; asleep, as long or up to twice as long at 2 GHz, or
// less.
__device__ __forceinline__ void pause([[maybe_unused]] int cycles, [[maybe_unused]] bool asleep = false) {
#if defined(__CUDA_ARCH__)
  if (asleep) return __nanosleep(static_cast<unsigned>(cycles) / 2);
  const long long start = clock64();
  while (clock64() - start < cycles) {
  }
#endif
}

// Adds 1 to the word and returns what it held. It is in no order with anything else that a block writes.
__device__ __forceinline__ int draw_ticket([[maybe_unused]] int* ticket) {
  int before = 0;
#if defined(__CUDA_ARCH__)
  asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(ticket) : "memory");
#endif
  return before;
}

// Words that blocks of one kernel have in common while they run, each by itself: no order between any two.
__device__ __forceinline__ void store_words([[maybe_unused]] float4* to, [[maybe_unused]] float4 v) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
#endif
}
__device__ __forceinline__ void store_words([[maybe_unused]] float2* to, [[maybe_unused]] float2 v) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(v.x), "f"(v.y) : "memory");
#endif
}
__device__ __forceinline__ float4 load_words([[maybe_unused]] const float4* from) {
  float4 v{};
#if defined(__CUDA_ARCH__)
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
#endif
  return v;
}
__device__ __forceinline__ float2 load_words([[maybe_unused]] const float2* from) {
  float2 v{};
#if defined(__CUDA_ARCH__)
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(from) : "memory");
#endif
  return v;
}
// In a loop that looks for such a word.
__device__ __forceinline__ void wait_for_other_block() {}

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

}  // namespace rondo::cuda

#include "kernels/cuda/dialect_copies.h"    // the copy engine
#include "kernels/cuda/dialect_products.h"  // the tensor cores
