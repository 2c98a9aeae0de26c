// Many rows times a weight matrix: a blocked product, bound by multiply-adds.
//
// Per panel of 128 outputs and chunk of k the weights are widened once into scratch (264 KiB, in L2), the
// rows pass in tiles, each copied so that its chunk stays in L1, and a tile of rows x outputs is summed in
// registers. What is summed in which order is the same as in multiply.cc, so the bits are too: a chunk's
// accumulators start from zero, and their sums join totals that wait in scratch.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/multiply_blocks.cc"
// foreach_target.h comes first, for it includes this file once per instruction set.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/widen-inl.h"
// clang-format on

#ifndef RONDO_KERNELS_CPU_MULTIPLY_BLOCKS
#define RONDO_KERNELS_CPU_MULTIPLY_BLOCKS
namespace rondo {
constexpr size_t kTileRows = 6;
constexpr size_t kPanel = 128;     // outputs
constexpr size_t kRowBlock = 256;  // rows whose totals wait in scratch
constexpr size_t kLine = 16;       // floats of a cache line
constexpr size_t kStride =
    kProductChunk + kLine;  // rows a power of two apart would fight for the same cache ways
constexpr size_t kTotals = kRowBlock * kPanel * 3 / 2;  // tiles are filled up to multiples of four
}  // namespace rondo
#endif

HWY_BEFORE_NAMESPACE();
namespace rondo {
namespace HWY_NAMESPACE {

// 24 accumulators where there are 32 vector registers, 12 where there are 16.
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3  // the better a target, the smaller its number
constexpr bool kManyRegisters = false;
#else
constexpr bool kManyRegisters = true;
#endif
template <size_t kRows>
constexpr size_t kTileOutputs = kManyRegisters || kRows <= 3 ? 4 : 2;
template <size_t kRows>
constexpr size_t kTileTotals = (kRows * kTileOutputs<kRows> + 3) / 4 * 4;

struct Tiling {  // of one panel and chunk
  const float* x = nullptr;
  size_t x_stride = 0;
  size_t rows = 0;
  size_t length = 0;   // of the chunk
  size_t outputs = 0;  // of the panel, a multiple of kProductGroup
  const float* weights = nullptr;
  float* near = nullptr;        // a tile's rows
  const char* ahead = nullptr;  // weights of the next panel, to ask for meanwhile, unless null
  size_t ahead_stride = 0;
  size_t ahead_bytes = 0;
};

// Highway's vectors cannot be elements of arrays on every target, so the accumulators are variables,
// c[row][output].
#define RONDO_ROWS(M) M(0) M(1) M(2) M(3) M(4) M(5)
#define RONDO_DECLARE(r) \
  [[maybe_unused]] Floats c##r##0 = hn::Zero(d), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define RONDO_ACCUMULATE(r)                                         \
  if constexpr (kRows > r) {                                        \
    const Floats a = in_register(hn::Load(d, x + r * kStride + i)); \
    c##r##0 = hn::MulAdd(a, w0, c##r##0);                           \
    c##r##1 = hn::MulAdd(a, w1, c##r##1);                           \
    if constexpr (kOutputs > 2) {                                   \
      c##r##2 = hn::MulAdd(a, w2, c##r##2);                         \
      c##r##3 = hn::MulAdd(a, w3, c##r##3);                         \
    }                                                               \
  }

// gcc would read v from memory again for every use, and the loads would hold up the multiply-adds.
HWY_INLINE Floats in_register(Floats v) {
#if HWY_COMPILER_GCC_ACTUAL && HWY_ARCH_X86
  asm("" : "+v"(v.raw));
#endif
  return v;
}

// totals[row][output] += the tile's sums over `length` elements, which scratch holds filled up with zeros.
template <size_t kRows>
HWY_INLINE void tile(const float* HWY_RESTRICT x, const float* HWY_RESTRICT w, size_t length,
                     float* HWY_RESTRICT totals) {
  constexpr size_t kOutputs = kTileOutputs<kRows>;
  const Float d;
  const size_t N = hn::Lanes(d);
  RONDO_ROWS(RONDO_DECLARE)
  for (size_t i = 0; i < length; i += N) {
    const Floats w0 = hn::Load(d, w + i), w1 = hn::Load(d, w + kStride + i);
    [[maybe_unused]] const Floats w2 = kOutputs > 2 ? hn::Load(d, w + 2 * kStride + i) : w0;
    [[maybe_unused]] const Floats w3 = kOutputs > 2 ? hn::Load(d, w + 3 * kStride + i) : w0;
    RONDO_ROWS(RONDO_ACCUMULATE)
  }
  const auto join = [&](Floats s0, Floats s1, Floats s2, Floats s3) HWY_ATTR {
    float sums[4];
    sum_four(s0, s1, s2, s3, sums);
    for (size_t j = 0; j < 4; ++j) totals[j] += sums[j];
    totals += 4;
  };
  if constexpr (kOutputs > 2) {
    join(c00, c01, c02, c03);
    if constexpr (kRows > 1) join(c10, c11, c12, c13);
    if constexpr (kRows > 2) join(c20, c21, c22, c23);
    if constexpr (kRows > 3) join(c30, c31, c32, c33);
    if constexpr (kRows > 4) join(c40, c41, c42, c43);
    if constexpr (kRows > 5) join(c50, c51, c52, c53);
  } else {
    join(c00, c01, c10, c11);
    if constexpr (kRows > 2) join(c20, c21, c30, c31);
    if constexpr (kRows > 4) join(c40, c41, c50, c51);
  }
}

// A tile of rows from `row` on against the panel.
template <size_t kRows>
HWY_NOINLINE void pass(const Tiling& t, size_t row, float* totals) {
  constexpr size_t kOutputs = kTileOutputs<kRows>;
  const Float d;
  const size_t N = hn::Lanes(d);
  for (size_t r = 0; r < kRows; ++r) {
    const float* from = t.x + (row + r) * t.x_stride;
    float* to = t.near + r * kStride;
    size_t i = 0;
    for (; i + N <= t.length; i += N) hn::Store(hn::LoadU(d, from + i), d, to + i);
    if (i < t.length) hn::Store(load_first(d, from + i, t.length - i), d, to + i);
  }
  for (size_t n = 0; n < t.outputs; n += kOutputs) {
    if (t.ahead)
      for (size_t j = 0; j < kOutputs; ++j)
        for (size_t at = 0; at < t.ahead_bytes; at += kLine * sizeof(float))
          __builtin_prefetch(t.ahead + (n + j) * t.ahead_stride + at, 0, 2);
    if (row + kRows < t.rows)  // a line or so of each row of the next tile
      for (size_t r = 0; r < kRows; ++r)
        __builtin_prefetch(t.x + (row + kRows + r) * t.x_stride + n * t.length / t.outputs, 0, 2);
    tile<kRows>(t.near, t.weights + n * kStride, t.length, totals);
    totals += kTileTotals<kRows>;
  }
}

template <size_t kRows>
HWY_NOINLINE void write(const Product& p, size_t row, size_t begin, size_t end, const float* totals) {
  constexpr size_t kOutputs = kTileOutputs<kRows>;
  for (size_t n = begin; n < end; n += kOutputs, totals += kTileTotals<kRows>)
    for (size_t r = 0; r < kRows; ++r)
      for (size_t j = 0; j < kOutputs && n + j < end; ++j)
        finish(p, row + r, n + j, totals[r * kOutputs + j]);
}

// f(first row, how many as a constant) over rows in even tiles: 8 rows as 4 and 4, not 6 and 2.
template <class F>
HWY_INLINE void by_tiles(size_t rows, const F& f) {
  for (size_t row = 0, take; row < rows; row += take) {
    const size_t left = rows - row, tiles = (left + kTileRows - 1) / kTileRows;
    take = (left + tiles - 1) / tiles;
    switch (take) {
      case 1: f(row, std::integral_constant<size_t, 1>()); break;
      case 2: f(row, std::integral_constant<size_t, 2>()); break;
      case 3: f(row, std::integral_constant<size_t, 3>()); break;
      case 4: f(row, std::integral_constant<size_t, 4>()); break;
      case 5: f(row, std::integral_constant<size_t, 5>()); break;
      default: f(row, std::integral_constant<size_t, 6>());
    }
  }
}

// The chunk of `count` rows of weights as floats, filled up with zeros to whole vectors and groups.
template <class T>
HWY_NOINLINE void widen_panel(const T* weights, size_t K, size_t count, size_t length, size_t outputs,
                              float* to) {
  const Float d;
  const size_t N = hn::Lanes(d);
  for (size_t n = 0; n < outputs; ++n, to += kStride) {
    const T* from = weights + HWY_MIN(n, count - 1) * K;
    size_t i = 0;
    for (; i + N <= length; i += N) hn::Store(load(d, from + i), d, to + i);
    if (i < length) hn::Store(load_first(d, from + i, length - i), d, to + i);
  }
}

template <class T>
void blocks(const Product& p, const T* weights, size_t begin, size_t end, float* scratch) {
  const size_t K = static_cast<size_t>(p.weight.shape[1]);
  float* panel = scratch;
  float* totals = panel + kPanel * kStride + kTileRows * kStride;
  for (size_t first = 0; first < p.rows; first += kRowBlock) {
    const size_t rows = HWY_MIN(kRowBlock, p.rows - first);
    for (size_t n = begin; n < end; n += kPanel) {
      const size_t count = HWY_MIN(kPanel, end - n);
      Tiling t;
      t.x_stride = p.x_stride;
      t.rows = rows;
      t.outputs = (count + 3) / 4 * 4;
      t.weights = panel;
      t.near = panel + kPanel * kStride;
      std::fill(totals, totals + rows * t.outputs * 3 / 2, 0.0f);
      const auto tiles = [&](const auto& f) HWY_ATTR {
        float* at = totals;
        by_tiles(rows, [&](size_t row, auto take) HWY_ATTR {
          constexpr size_t kRows = decltype(take)::value;
          f(row, take, at);
          at += t.outputs / kTileOutputs<kRows> * kTileTotals<kRows>;
        });
      };
      for (size_t k = 0; k < K; k += kProductChunk) {
        t.length = HWY_MIN(kProductChunk, K - k);
        t.x = p.x + first * p.x_stride + k;
        widen_panel(weights + n * K + k, K, count, t.length, t.outputs, panel);
        const bool last = k + kProductChunk >= K;
        const T* next = last ? weights + (n + kPanel) * K : weights + n * K + k + kProductChunk;
        t.ahead_bytes = HWY_MIN(kProductChunk, last ? K : K - k - kProductChunk) * sizeof(T);
        t.ahead_stride = K * sizeof(T);
        tiles([&](size_t row, auto take, float* at) HWY_ATTR {
          t.ahead = row == 0 ? reinterpret_cast<const char*>(next) : nullptr;
          pass<decltype(take)::value>(t, row, at);
        });
      }
      tiles([&](size_t row, auto take, float* at)
                HWY_ATTR { write<decltype(take)::value>(p, first + row, n, HWY_MIN(n + kPanel, end), at); });
    }
  }
}

void multiply_blocks(const Product& p, size_t begin, size_t end, float* scratch) {
  const size_t off = reinterpret_cast<uintptr_t>(scratch) / sizeof(float) % kLine;
  scratch += off ? kLine - off : 0;
  with_elements(p.weight.dtype, p.weight.data,
                [&](auto* weights) HWY_ATTR { blocks(p, weights, begin, end, scratch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo {
HWY_EXPORT(multiply_blocks);

size_t multiply_scratch_floats() { return kLine + kPanel * kStride + kTileRows * kStride + kTotals; }
void multiply_blocks(const Product& product, size_t begin, size_t end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(multiply_blocks)(product, begin, end, scratch);
}
}  // namespace rondo
#endif
