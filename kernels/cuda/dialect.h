// The few words that kernels need beyond CUDA's own, each with a twin of the same meaning in
// tests/simt/overlay, where the host's compiler runs this same source. So kernels keep to them: launch()
// instead of <<<>>>, shared memory only through these macros, explicit masks in every collective, and whole
// warps that leave together.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

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

// Enqueues the kernel. Throws rondo::Error, through check(), when the launch is refused; the status is the
// call's own, so an error that somebody else left in the runtime is not taken for ours.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes all of its arguments");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "kernel launch");
}

}  // namespace rondo::cuda
