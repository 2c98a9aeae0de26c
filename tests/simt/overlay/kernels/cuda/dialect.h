// kernels/cuda/dialect.h for the host: the same names with the same meaning, over the executor and the
// stand-in runtime. Test builds put tests/simt/overlay in front of the repository's root on the include path,
// so that it is found first.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

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

constexpr size_t kNarrowBlock = 100 << 10;
enum class Order { after, first, early };  // blocks run one kernel after the other here, whatever was asked

struct Queue {
  cudaStream_t stream;
  Order order;
  int multiprocessors;       // of the device: the grid of kernels that overlap
  int shared_limit;          // bytes of shared memory that a block may ask for
  int wide_block = 0;        // bytes of shared memory of which no two fit on a multiprocessor
  bool wide = false;         // whether the next such kernel has wide blocks
  bool bulk_copies = false;  // whether the device has them: copy_bulk() does nothing before Hopper
};

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

template <class... P, class... A>
void launch(const Queue& queue, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  launch(kernel, grid, block, shared_bytes, queue.stream, args...);
}

template <class... P>
void allow_shared(void (*kernel)(P...), int bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
}

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

inline void let_next_start() {}
inline void wait_for_previous() {}

inline int draw_ticket(int* ticket) {
  __threadfence();
  const int before = atomicAdd(ticket, 1);
  __threadfence();
  return before;
}

// Words in host memory that kernels and the host's threads both see.
inline void store_for_host(uint32_t* word, uint32_t value) {
  std::atomic_ref<uint32_t>(*word).store(value, std::memory_order_release);
}
inline uint32_t load_from_host(uint32_t* word) {
  return std::atomic_ref<uint32_t>(*word).load(std::memory_order_acquire);
}

inline void set_condition(uint64_t condition, bool value) { fake::set_condition(condition, value); }

// As on the device, a copy lands when it is waited for, so that a forgotten wait reads what lay there before.
class AsyncCopies {
 public:
  void copy16(void* shared, const void* global, simt::Where at = simt::Where::current()) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
      simt::fail("an asynchronous copy of 16 bytes needs addresses that are multiples of 16", at);
    pending_.push_back({shared, global, group_});
  }
  void commit() { ++group_; }
  template <int newest>
  void wait() {
    size_t kept = 0;
    for (const Copy& copy : pending_) {
      if (copy.group >= group_ - newest)
        pending_[kept++] = copy;
      else
        land(copy);
    }
    pending_.resize(kept);
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    int group;
  };
  static void land(const Copy& copy) {
    for (int i = 0; i < 4; ++i)
      static_cast<uint32_t*>(copy.to)[i] = static_cast<const uint32_t*>(copy.from)[i];
  }
  std::vector<Copy> pending_;
  int group_ = 0;
};

// A landing's word says only that it was prepared: its uses are counted by the executor.
using Landing = uint64_t;

inline void prepare_landing(Landing* landing, simt::Where at = simt::Where::current()) {
  simt::prepare_landing(landing, at);
  *landing = simt::kPreparedLanding;
}
inline void prepare_landings_done() { simt::prepare_landings_done(); }

// As on the device, anybody who waits for the landing sees the bytes, and they come as late as that. To the
// sanitizers the copy is an access by the thread that starts it, at any moment from now on.
inline void copy_bulk(void* shared, const void* global, uint32_t bytes, Landing* landing,
                      simt::Where at = simt::Where::current()) {
  const simt::BulkCopy copy{shared, global, bytes};
  simt::check_bulk_copy(landing, *landing, copy, at);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  auto* to = static_cast<volatile uint64_t*>(shared);
  auto* from = static_cast<const volatile uint64_t*>(global);
  for (uint32_t i = 0; i < bytes / sizeof *to; ++i) {
    static_cast<void>(from[i]);
    to[i] = to[i];
  }
#endif
  simt::start_bulk_copy(landing, copy, at);
}
inline void wait_landed(Landing* landing, int parity, simt::Where at = simt::Where::current()) {
  simt::wait_landed(landing, *landing, parity, at);
}

using MatrixLoad = void (*)(const uint32_t (&row)[4], uint32_t (&words)[4], simt::Where at);
inline uint4 load_matrices_by(MatrixLoad load, const void* row, simt::Where at) {
  if (reinterpret_cast<uintptr_t>(row) % 16)
    simt::fail("a matrix's row of 16 bytes needs an address that is a multiple of 16", at);
  uint32_t words[4], out[4];
  for (int i = 0; i < 4; ++i) words[i] = static_cast<const uint32_t*>(row)[i];
  load(words, out, at);
  return make_uint4(out[0], out[1], out[2], out[3]);
}
inline uint4 load_matrices(const void* row, simt::Where at = simt::Where::current()) {
  return load_matrices_by(simt::load_matrices, row, at);
}
inline uint4 load_matrices_transposed(const void* row, simt::Where at = simt::Where::current()) {
  return load_matrices_by(simt::load_matrices_transposed, row, at);
}

template <class T>
void mma(float (&d)[4], uint4 a, uint2 b, const T*, simt::Where at = simt::Where::current()) {
  float wide_a[8], wide_b[4];
  const uint32_t words[6] = {a.x, a.y, a.z, a.w, b.x, b.y};
  for (int i = 0; i < 6; ++i) {
    T halves[2];
    std::memcpy(static_cast<void*>(halves), &words[i], sizeof halves);
    for (int j = 0; j < 2; ++j)
      (i < 4 ? wide_a[2 * i + j] : wide_b[2 * (i - 4) + j]) = static_cast<float>(halves[j]);
  }
  simt::multiply_matrices(d, wide_a, wide_b, at);
}

}  // namespace rondo::cuda
