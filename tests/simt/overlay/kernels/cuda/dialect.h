// kernels/cuda/dialect.h for the host: the same names with the same meaning, over the executor and the
// stand-in runtime. Test builds put tests/simt/overlay in front of the repository's root on the include path,
// so that it is found first.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "buffers/cuda_check.h"
#include "tests/simt/device.h"
#include "tests/simt/fake_cudart.h"

// For the few checks of a test that only the stand-in can answer.
#define RONDO_ON_STAND_IN 1

// Shared variables come from the executor, one allocation of the exact size each, so that AddressSanitizer
// bounds them.
#define RONDO_SHARED(name, ...)                                             \
  static const char name##_shared_key_ = 0;                                 \
  auto& name = *static_cast<typename ::simt::identity<__VA_ARGS__>::type*>( \
      ::simt::shared(&name##_shared_key_, sizeof(__VA_ARGS__)))
#define RONDO_DYN_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared())

namespace rondo::cuda {

// Queues the kernel on the stream. Throws rondo::Error, through check(), when the launch is refused.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes all of its arguments");
  auto values = std::make_shared<std::tuple<P...>>(static_cast<P>(args)...);
  fake::KernelLaunch request;
  request.function = reinterpret_cast<const void*>(kernel);
  request.grid = grid;
  request.block = block;
  request.dynamic_shared = shared_bytes;
  std::apply(
      [&](auto&... v) {
        (request.arguments.push_back({const_cast<void*>(static_cast<const void*>(&v)), sizeof v,
                                      std::is_pointer_v<std::remove_reference_t<decltype(v)>>}),
         ...);
      },
      *values);
  request.body = [kernel, v = values.get()] { std::apply(kernel, *v); };
  request.storage = std::move(values);
  check(fake::launch_kernel(stream, std::move(request)), "kernel launch");
}

}  // namespace rondo::cuda
