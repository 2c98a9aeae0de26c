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
//
// Kernels that overlap have a block for each multiprocessor and ask for so much shared memory that two blocks
// fit on one, not three. So each multiprocessor always holds a block of the kernel that runs and one of the
// next: a new kernel's blocks find one place free on each. With smaller blocks two of one kernel would meet
// on one multiprocessor, and all would wait for that one.
enum class Order { after, early };
constexpr size_t kHalfMultiprocessor = 100 << 10;  // bytes of shared memory

struct Queue {
  cudaStream_t stream;
  Order order;
  int multiprocessors;  // of the device: the grid of kernels that overlap
  int shared_limit;     // bytes of shared memory that a block may ask for
};

// Enqueues the kernel. Throws rondo::Error, through check(), when the launch is refused; the status is the
// call's own, so an error that somebody else left in the runtime is not taken for ours.
template <class... P, class... A>
void launch(const Queue& queue, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes all of its arguments");
  // Kernels that overlap must agree on how a multiprocessor's memory is split between L1 and shared memory:
  // it cannot change while one runs.
  if (queue.order == Order::early)
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
void launch_spread(const Queue& queue, void (*kernel)(P...), dim3 block, size_t shared_bytes, A... args) {
  if (shared_bytes > 0)
    allow_shared(kernel, queue.shared_limit);
  else if (queue.order == Order::early)
    allow_shared(kernel, static_cast<int>(kHalfMultiprocessor));
  if (queue.order == Order::early && shared_bytes < kHalfMultiprocessor) shared_bytes = kHalfMultiprocessor;
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
