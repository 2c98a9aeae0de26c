// kernels/cuda/dialect.h for the host: the same names with the same meaning, over the executor and the
// stand-in runtime. Test builds put tests/simt/overlay in front of the repository's root on the include path,
// so that it is found first.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "buffers/cuda_check.h"
#include "buffers/error.h"
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
#define RONDO_TILE_SHARED(name) RONDO_DYN_SHARED(unsigned char, name)
#define RONDO_GRID_CONSTANT
#define RONDO_TILE_THREADS(threads) (threads)

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
  bool tiles = false;        // whether it has copy_tile() and TileProduct, and kernels were compiled for them
};

// Queues the kernel on the stream. Throws rondo::Error, through check(), when the launch is refused.
enum class Blocks { independent, wait_for_lower };

template <Blocks kBlocks = Blocks::independent, class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes all of its arguments");
  auto values = std::make_shared<std::tuple<P...>>(static_cast<P>(args)...);
  fake::KernelLaunch request;
  request.function = reinterpret_cast<const void*>(kernel);
  request.grid = grid;
  request.block = block;
  request.dynamic_shared = shared_bytes;
  request.in_order = kBlocks == Blocks::wait_for_lower;
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

template <Blocks kBlocks = Blocks::independent, class... P, class... A>
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
  launch<kBlocks>(kernel, dim3(static_cast<unsigned>(queue.multiprocessors)), block, shared_bytes,
                  queue.stream, args...);
}

inline void let_next_start() {}
inline void wait_for_previous() {}
inline void pause(int /*cycles*/, bool /*asleep*/ = false) {}

inline int draw_ticket(int* ticket) { return atomicAdd(ticket, 1); }

template <class V>
void store_words(V* to, V v) {
  auto* words = reinterpret_cast<float*>(to);
  for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i)
    std::atomic_ref<float>(words[i]).store(reinterpret_cast<const float*>(&v)[i], std::memory_order_relaxed);
}
template <class V>
V load_words(const V* from) {
  V v;
  auto* words = reinterpret_cast<float*>(const_cast<V*>(from));
  for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i)
    reinterpret_cast<float*>(&v)[i] = std::atomic_ref<float>(words[i]).load(std::memory_order_relaxed);
  return v;
}
inline void wait_for_other_block(simt::Where at = simt::Where::current()) {
  simt::fail("a block waits for a word that no block before it has left", at);
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

inline void prepare_landing(Landing* landing, int arrivals = 1, simt::Where at = simt::Where::current()) {
  simt::prepare_landing(landing, arrivals, at);
  *landing = simt::kPreparedLanding;
}
inline void order_before_copies() {}
inline void prepare_landings_done() { simt::prepare_landings_done(); }

inline void expect_bytes(Landing* landing, uint32_t bytes, simt::Where at = simt::Where::current()) {
  simt::arrive(landing, *landing, bytes, at);
}
inline void arrive(Landing* landing, simt::Where at = simt::Where::current()) {
  simt::arrive(landing, *landing, 0, at);
}
inline void wait_landed(Landing* landing, int parity, simt::Where at = simt::Where::current()) {
  simt::wait_landed(landing, *landing, parity, at);
}

// What sanitizers are to see of an access that the executor makes: these read, and write what is there
// already.
inline void touch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes / sizeof(uint64_t); ++i)
    static_cast<void>(static_cast<const volatile uint64_t*>(from)[i]);
}
inline void touch_for_writing(void* to, size_t bytes) {
  auto* words = static_cast<volatile uint64_t*>(to);
  for (size_t i = 0; i < bytes / sizeof *words; ++i) words[i] = words[i];
}
inline void touch_tile(const simt::BulkCopy& copy) {
  simt::visit_pieces(copy.tiles, copy.corner, [](int, const char* from) {
    if (from) touch(from, simt::kPieceBytes);
  });
}
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kTouch = true;
#else
constexpr bool kTouch = false;
#endif

// As on the device, anybody who waits for the landing sees the bytes, and they come as late as that. To the
// sanitizers the copy is an access by the thread that starts it, at any moment from now on.
inline void start_copy(const simt::BulkCopy& copy, Landing* landing, simt::Where at) {
  simt::check_bulk_copy(landing, *landing, copy, at);
  if constexpr (kTouch) {
    copy.tiles.base ? touch_tile(copy) : touch(copy.from, copy.bytes);
    touch_for_writing(copy.to, copy.bytes);
  }
  simt::start_bulk_copy(landing, copy, at);
}
inline void copy_bulk(void* shared, const void* global, uint32_t bytes, Landing* landing,
                      simt::Where at = simt::Where::current()) {
  expect_bytes(landing, bytes, at);
  start_copy({shared, global, bytes}, landing, at);
}

struct TileMap : simt::Tiles {};

// Refuses what the driver refuses.
inline TileMap make_tile_map(const void* base, const int64_t (&size)[4], const int64_t (&stride)[4],
                             const int (&box)[4]) {
  const auto require = [](bool met, const char* what) {
    if (!met) throw Error(ErrorKind::InvalidArgument, std::string("a map of tiles needs ") + what);
  };
  require(base && reinterpret_cast<uintptr_t>(base) % 16 == 0, "an address that is a multiple of 16");
  TileMap map{};
  map.base = base;
  for (int i = 0; i < 4; ++i) {
    require(size[i] >= 1 && size[i] <= int64_t{1} << 32, "sizes from 1 to 2^32");
    require(stride[i] >= 0 && stride[i] < int64_t{1} << 40 && stride[i] % 16 == 0,
            "strides below 2^40 that are multiples of 16");
    require(box[i] >= 1 && box[i] <= 256, "a box of 1 to 256 pieces along each dimension");
    map.size[i] = size[i];
    map.stride[i] = stride[i];
    map.box[i] = box[i];
  }
  return map;
}

inline void copy_tile(void* shared, const TileMap& map, int c0, int c1, int c2, int c3, Landing* landing,
                      bool /*stays*/, simt::Where at = simt::Where::current()) {
  const int pieces = map.box[0] * map.box[1] * map.box[2] * map.box[3];
  start_copy({shared, map.base, uint32_t(pieces) * uint32_t{simt::kPieceBytes}, map, {c0, c1, c2, c3}},
             landing, at);
}

template <class... P>
bool compiled_for_tiles(void (*)(P...)) {
  return true;
}

// The tiles are read, and the sums change, when somebody waits.
template <class T, int N>
class TileProduct {
 public:
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  static_assert(N == 8 || N == 16 || N == 32 || N == 64);
  float sum[N / 2];

  TileProduct() = default;
  TileProduct(const TileProduct&) = delete;
  TileProduct& operator=(const TileProduct&) = delete;
  ~TileProduct() {
    if (products_.started) simt::fail("a product was started that nobody waited for", products_.last);
  }

  void clear() {
    for (float& s : sum) s = 0.0f;
  }
  void start(const void* a, const void* b, int group_bytes, simt::Where at = simt::Where::current()) {
    if (group_bytes < 0 || group_bytes % simt::kTileAlignment)
      simt::fail("a tile's groups of rows are multiples of 1024 bytes apart", at);
    simt::check_product_tile(a, 7 * size_t(group_bytes) + 8 * simt::kPieceBytes, at);
    simt::check_product_tile(b, N * simt::kPieceBytes, at);
    if (products_.started == products_.kMost) simt::fail("more products at once than the executor keeps", at);
    products_.pairs[products_.started++] = {a, b, group_bytes};
    products_.last = at;
  }
  void wait(simt::Where at = simt::Where::current()) {
    if constexpr (kTouch)
      for (int i = 0; i < products_.started; ++i) touch_own_rows(products_.pairs[i]);
    simt::multiply_tiles(sum, products_, at);
    products_.started = 0;
#if defined(__SANITIZE_THREAD__)  // who has waited knows that the tiles were read for the whole warp
    __syncwarp(~0u, at);
#endif
  }

 private:
  // Of the rows that the warp's lanes read, those that this one's sums come from.
  static void touch_own_rows(const simt::Products::Pair& pair) {
    const unsigned g = simt::here.lane / 4, q = simt::here.lane % 4, group = simt::here.warp % 4 * 2;
    for (unsigned i = 0; i < 2; ++i)
      touch(static_cast<const char*>(pair.a) + (group + i) * size_t(pair.group_bytes) + g * simt::kPieceBytes,
            simt::kPieceBytes);
    for (unsigned n = 2 * q; n < N; n += 8)
      touch(static_cast<const char*>(pair.b) + n * simt::kPieceBytes, 2 * simt::kPieceBytes);
  }
  simt::Products products_{N, std::is_same_v<T, __nv_bfloat16>};
};

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
