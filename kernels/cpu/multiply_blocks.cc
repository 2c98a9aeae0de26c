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
constexpr size_t kPanel = 128;     // outputs
constexpr size_t kRowBlock = 256;  // rows whose totals wait in scratch
constexpr size_t kLine = 16;       // floats of a cache line
constexpr size_t kStride =
    kProductChunk + kLine;  // rows a power of two apart would fight for the same cache ways
constexpr size_t kTotals = kRowBlock * kPanel * 3 / 2;  // tiles are filled up to multiples of four
constexpr size_t kFewestRows = 3;                       // of a tile, where rows are more than kStreamedRows
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
  size_t length = 0;            // of the chunk
  size_t outputs = 0;           // of the panel
  const float* wide = nullptr;  // its weights, kStride apart
  float* near = nullptr;        // a tile's rows, kStride apart
  const char* ahead = nullptr;  // weights of the next chunk or panel, to ask for meanwhile, unless null
  size_t ahead_stride = 0;
  size_t ahead_bytes = 0;
};

// Highway's vectors cannot be elements of arrays on every target, so the accumulators are variables,
// c[row][output].
#define RONDO_ROWS(M) M(0) M(1) M(2) M(3) M(4) M(5)
#define RONDO_DECLARE(r) \
  [[maybe_unused]] Floats c##r##0 = hn::Zero(d), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define RONDO_ACCUMULATE(r)                 \
  if constexpr (kRows > r) {                \
    const Floats a = in_register(row(r));   \
    c##r##0 = hn::MulAdd(a, w0, c##r##0);   \
    c##r##1 = hn::MulAdd(a, w1, c##r##1);   \
    if constexpr (kOutputs > 2) {           \
      c##r##2 = hn::MulAdd(a, w2, c##r##2); \
      c##r##3 = hn::MulAdd(a, w3, c##r##3); \
    }                                       \
  }

// gcc would read v from memory again for every use, and the loads would hold up the multiply-adds.
HWY_INLINE Floats in_register(Floats v) {
#if HWY_COMPILER_GCC_ACTUAL && HWY_ARCH_X86
  asm("" : "+v"(v.raw));
#endif
  return v;
}

// A lambda that captures accumulators: of one that is called, gcc would keep them in memory, with a store for
// each multiply-add. With AVX-512's 24 of them it is too long to be inlined unasked.
#define RONDO_INLINED HWY_ATTR __attribute__((always_inline))

// totals[row][output] += the tile's sums over `length` elements of rows x and of `outputs` weights.
template <size_t kRows, bool kFetch, class T>
HWY_INLINE void tile(const float* HWY_RESTRICT x, size_t x_stride, const T* HWY_RESTRICT w, size_t stride,
                     size_t outputs, size_t length, float* HWY_RESTRICT totals) {
  constexpr size_t kOutputs = kTileOutputs<kRows>;
  const Float d;
  const size_t N = hn::Lanes(d);
  // At a matrix's end outputs repeat, and nobody reads their sums.
  const T* HWY_RESTRICT p1 = outputs > 1 ? w + stride : w;
  const T* HWY_RESTRICT p2 = outputs > 2 ? p1 + stride : w;
  const T* HWY_RESTRICT p3 = outputs > 3 ? p2 + stride : w;
  RONDO_ROWS(RONDO_DECLARE)
  const auto add = [&](Floats w0, Floats w1, Floats w2, Floats w3, const auto& row)
                       RONDO_INLINED { RONDO_ROWS(RONDO_ACCUMULATE) };
  const auto whole = [&](size_t i) RONDO_INLINED {
    const Floats w0 = load(d, w + i), w1 = load(d, p1 + i);
    add(w0, w1, kOutputs > 2 ? load(d, p2 + i) : w0, kOutputs > 2 ? load(d, p3 + i) : w0,
        [&](size_t r) RONDO_INLINED { return hn::LoadU(d, x + r * x_stride + i); });
  };
  size_t i = 0;
  if constexpr (kFetch) {
    for (; i + kUnroll * N <= length; i += kUnroll * N) {
      fetch_ahead(w + i, p1 + i, kOutputs > 2 ? p2 + i : w, kOutputs > 2 ? p3 + i : w);
      for (size_t j = 0; j < kUnroll; ++j) whole(i + j * N);
    }
  }
  for (; i + N <= length; i += N) whole(i);
  if (i < length) {
    const size_t n = length - i;
    const Floats w0 = load_first(d, w + i, n), w1 = load_first(d, p1 + i, n);
    add(w0, w1, kOutputs > 2 ? load_first(d, p2 + i, n) : w0, kOutputs > 2 ? load_first(d, p3 + i, n) : w0,
        [&](size_t r) RONDO_INLINED { return load_first(d, x + r * x_stride + i, n); });
  }
  const auto join = [&](Floats s0, Floats s1, Floats s2, Floats s3) RONDO_INLINED {
    float sums[4];
    sum_four(s0, s1, s2, s3, sums);
    for (size_t j = 0; j < 4; ++j) totals[j] += sums[j];
    totals += 4;
  };
  if constexpr (kOutputs > 2) {
    join(c00, c01, c02, c03);
    join(c10, c11, c12, c13);
    join(c20, c21, c22, c23);
    if constexpr (kRows > 3) join(c30, c31, c32, c33);
    if constexpr (kRows > 4) join(c40, c41, c42, c43);
    if constexpr (kRows > 5) join(c50, c51, c52, c53);
  } else {
    join(c00, c01, c10, c11);
    join(c20, c21, c30, c31);
    if constexpr (kRows > 4) join(c40, c41, c50, c51);
  }
}

// A tile of rows from `row` on against the panel.
template <size_t kRows>
HWY_NOINLINE void pass(const Tiling& t, size_t row, float* totals) {
  static_assert(kRows >= kFewestRows);
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
    tile<kRows, false>(t.near, kStride, t.wide + n * kStride, kStride, t.outputs - n, t.length, totals);
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

// A chunk of `outputs` rows of weights as floats, filled up with zeros to whole vectors.
template <class T>
HWY_NOINLINE void widen_panel(const T* weights, size_t K, size_t length, size_t outputs, float* to) {
  const Float d;
  const size_t N = hn::Lanes(d);
  for (size_t n = 0; n < outputs; ++n, weights += K, to += kStride) {
    size_t i = 0;
    for (; i + N <= length; i += N) hn::Store(load(d, weights + i), d, to + i);
    if (i < length) hn::Store(load_first(d, weights + i, length - i), d, to + i);
  }
}

// f(first row, how many as a constant, its totals) over the tiles of a panel.
template <class F>
HWY_INLINE void over_totals(size_t rows, size_t outputs, float* totals, const F& f) {
  by_tiles<kFewestRows>(rows, [&](size_t row, auto take) HWY_ATTR {
    constexpr size_t kRows = decltype(take)::value;
    f(row, take, totals);
    totals += (outputs + kTileOutputs<kRows> - 1) / kTileOutputs<kRows> * kTileTotals<kRows>;
  });
}

template <class T>
void panel(const Product& p, const T* weights, size_t first, size_t rows, size_t begin, size_t end,
           float* scratch) {
  const size_t K = static_cast<size_t>(p.weight.shape[1]);
  float* totals = scratch + (kPanel + kTileRows) * kStride;
  std::fill(totals, totals + kTotals * rows / kRowBlock, 0.0f);
  Tiling t;
  t.x_stride = p.x_stride;
  t.rows = rows;
  t.outputs = end - begin;
  t.wide = scratch;
  t.near = scratch + kPanel * kStride;
  t.ahead_stride = K * sizeof(T);
  for (size_t k = 0; k < K; k += kProductChunk) {
    const size_t length = HWY_MIN(kProductChunk, K - k);
    const T* chunk = weights + begin * K + k;
    const bool last = k + length == K;
    const T* next = last ? weights + (begin + kPanel) * K : chunk + length;
    t.ahead_bytes = HWY_MIN(kProductChunk, last ? K : K - k - length) * sizeof(T);
    widen_panel(chunk, K, length, t.outputs, scratch);
    t.x = p.x + first * p.x_stride + k;
    t.length = length;
    over_totals(rows, t.outputs, totals, [&](size_t row, auto take, float* at) HWY_ATTR {
      t.ahead = row == 0 ? reinterpret_cast<const char*>(next) : nullptr;
      pass<decltype(take)::value>(t, row, at);
    });
  }
  over_totals(rows, t.outputs, totals, [&](size_t row, auto take, float* at) HWY_ATTR {
    write<decltype(take)::value>(p, first + row, begin, end, at);
  });
}

// Outputs n, n + step, ... of few rows, read where they are: `count` of them, at most kStreams.
template <class T>
void strip(const Product& p, const T* weights, size_t n, size_t step, size_t count) {
  HWY_ALIGN float totals[kStripRows * kStreams * 3 / 2] = {};
  const size_t K = static_cast<size_t>(p.weight.shape[1]), stride = step * K;
  for (size_t k = 0; k < K; k += kProductChunk) {
    const size_t length = HWY_MIN(kProductChunk, K - k);
    const T* w = weights + n * K + k;
    over_totals(p.rows, kStreams, totals, [&](size_t row, auto take, float* at) HWY_ATTR {
      constexpr size_t kRows = decltype(take)::value, kOutputs = kTileOutputs<kRows>;
      for (size_t j = 0; j < count; j += kOutputs, at += kTileTotals<kRows>)
        if (row == 0)
          tile<kRows, true>(p.x + k, p.x_stride, w + j * stride, stride, count - j, length, at);
        else
          tile<kRows, false>(p.x + row * p.x_stride + k, p.x_stride, w + j * stride, stride, count - j,
                             length, at);
    });
  }
  over_totals(p.rows, kStreams, totals, [&](size_t row, auto take, const float* at) HWY_ATTR {
    constexpr size_t kRows = decltype(take)::value, kOutputs = kTileOutputs<kRows>;
    for (size_t r = 0; r < kRows; ++r)
      for (size_t j = 0; j < count; ++j)
        finish(p, row + r, n + j * step, at[j / kOutputs * kTileTotals<kRows> + r * kOutputs + j % kOutputs]);
  });
}

template <class T>
void blocks(const Product& p, const T* weights, size_t begin, size_t end, float* scratch) {
  if (p.rows <= kStripRows) {
    by_streams(begin, end,
               [&](size_t n, size_t step, size_t count) HWY_ATTR { strip(p, weights, n, step, count); });
    return;
  }
  for (size_t row = 0, rows; row < p.rows; row += rows) {
    rows = even_share(p.rows - row, kRowBlock);
    for (size_t n = begin; n < end; n += kPanel)
      panel(p, weights, row, rows, n, HWY_MIN(n + kPanel, end), scratch);
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

size_t blocks_scratch_floats() { return kLine + kPanel * kStride + kTileRows * kStride + kTotals; }
void multiply_blocks(const Product& product, size_t begin, size_t end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(multiply_blocks)(product, begin, end, scratch);
}
}  // namespace rondo
#endif
