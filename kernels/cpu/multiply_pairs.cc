// bf16 weights times activations rounded to bf16, where the CPU adds two of their products to a sum at once
// (AVX-512's vdpbf16ps; Intel's Instruction Set Extensions reference says how it rounds): twice as many
// multiply-adds a second as in fp32.
//
// Whatever the number of rows, a chunk's sums are made in one order, so that a row's bits do not depend on
// it: lane j of an accumulator adds elements 32 i + 2 j and 32 i + 2 j + 1 for i = 0, 1, ..., then lanes are
// added. Subnormal numbers count as zero.
#include "hwy/base.h"
#include "kernels/cpu/tiling.h"

#if defined(__x86_64__)
// gcc's header makes an undefined vector of itself, and gcc warns of it (bug 105593).
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4700, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)

HWY_PUSH_ATTRIBUTES("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")
namespace rondo {
namespace {

using Bf16 = uint16_t;
constexpr size_t kLanes = 32;      // elements of a vector
constexpr size_t kChunk = 1024;    // of k: a tile's rows of it stay in L1
constexpr size_t kPanel = 128;     // outputs whose chunk stays in L2, 256 KiB
constexpr size_t kRowBlock = 256;  // rows whose totals wait in scratch

constexpr size_t vectors(size_t elements) { return (elements + kLanes - 1) / kLanes; }

HWY_INLINE __m512i load_first(const Bf16* p, size_t n) {
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
}

// A vector of a row `length` long, from element i on.
HWY_INLINE __m512i load(const Bf16* row, size_t i, size_t length) {
  return length - i < kLanes ? load_first(row + i, length - i) : _mm512_loadu_si512(row + i);
}

// kRows rows of a chunk, vector by vector next to one another, as tiles want them. Where there are fewer, the
// last repeats.
template <size_t kRows>
HWY_INLINE void pack(const Bf16* from, size_t stride, size_t rows, size_t length, Bf16* to) {
  for (size_t i = 0; i < length; i += kLanes)
    for (size_t j = 0; j < kRows; ++j, to += kLanes)
      _mm512_store_si512(to, load(from + std::min(j, rows - 1) * stride, i, length));
}
template <size_t kRows>
struct Packed {
  const Bf16* p;
  HWY_INLINE void fetch(size_t) const {}
  HWY_INLINE __m512i operator()(size_t row, size_t i) const {
    return _mm512_load_si512(p + i * kRows + row * kLanes);
  }
};

// Rows of activations where they lie.
struct Rows {
  const Bf16* p;
  size_t stride;
  size_t length;
  HWY_INLINE __m512i operator()(size_t row, size_t i) const { return load(p + row * stride, i, length); }
};

// Weights of four outputs where they lie, asked for ahead.
struct Streams {
  const Bf16* p[kStreams];
  size_t length;
  HWY_INLINE void fetch(size_t i) const {
    constexpr size_t kTogether = 4;  // lines of a stream
    if (i % (kTogether * kLanes) != 0) return;
    for (const Bf16* stream : p)
      for (size_t line = 0; line < kTogether; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(stream + i + line * kLanes) + kFetchAhead, _MM_HINT_T0);
  }
  HWY_INLINE __m512i operator()(size_t output, size_t i) const { return load(p[output], i, length); }
};

HWY_INLINE __m128 sum_four(__m512 a, __m512 b, __m512 c, __m512 e) {
  const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d ce = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, e), _mm512_unpackhi_ps(c, e)));
  const __m512 blocks = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, ce)),
                                      _mm512_castpd_ps(_mm512_unpackhi_pd(ab, ce)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(blocks), _mm512_extractf32x8_ps(blocks, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// totals[row][output] += the sums of kRows rows x and four outputs w over a chunk.
template <size_t kRows, class W, class X>
HWY_INLINE void tile(const W& w, const X& x, size_t length, float* totals) {
  __m512 c[kRows][kStreams];
#pragma GCC unroll 6
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (size_t j = 0; j < kStreams; ++j) c[r][j] = _mm512_setzero_ps();
  for (size_t i = 0; i < length; i += kLanes) {
    w.fetch(i);
    __m512bh weights[kStreams];
#pragma GCC unroll 4
    for (size_t j = 0; j < kStreams; ++j) weights[j] = (__m512bh)w(j, i);
#pragma GCC unroll 6
    for (size_t r = 0; r < kRows; ++r) {
      __m512bh row = (__m512bh)x(r, i);
      asm("" : "+v"(row));  // in a register: gcc would read it from memory again for every use
#pragma GCC unroll 4
      for (size_t j = 0; j < kStreams; ++j) c[r][j] = _mm512_dpbf16_ps(c[r][j], row, weights[j]);
    }
  }
#pragma GCC unroll 6
  for (size_t r = 0; r < kRows; ++r, totals += kStreams)
    _mm_store_ps(totals, _mm_add_ps(_mm_load_ps(totals), sum_four(c[r][0], c[r][1], c[r][2], c[r][3])));
}

// Outputs n, n + step, ... of few rows, read where they are: `count` of them, at most kStreams.
void strip(const Product& p, size_t n, size_t step, size_t count) {
  alignas(64) float totals[kStripRows * kStreams] = {};
  const size_t K = static_cast<size_t>(p.weight.shape[1]);
  for (size_t k = 0; k < K; k += kChunk) {
    const size_t length = std::min(kChunk, K - k);
    Streams weights{{}, length};
    for (size_t j = 0; j < kStreams; ++j)  // where there are fewer outputs, the last repeats
      weights.p[j] = p.weight.as<Bf16>() + (n + std::min(j, count - 1) * step) * K + k;
    by_tiles<1>(p.rows, [&](size_t row, auto take) {
      const Rows rows{p.rounded + row * p.x_stride + k, p.x_stride, length};
      tile<decltype(take)::value>(weights, rows, length, totals + row * kStreams);
    });
  }
  for (size_t row = 0; row < p.rows; ++row)
    for (size_t j = 0; j < count; ++j) finish(p, row, n + j * step, totals[row * kStreams + j]);
}

// finish() for `count` neighbouring outputs, at most kStreams.
HWY_INLINE void finish_group(const Product& p, size_t row, size_t output, size_t count, const float* sums) {
  if (p.bias || count < kStreams) {
    for (size_t j = 0; j < count; ++j) finish(p, row, output + j, sums[j]);
    return;
  }
  float* y = p.y + row * p.y_stride + output;
  const __m128 four = _mm_load_ps(sums);
  _mm_storeu_ps(y, p.add ? _mm_add_ps(_mm_loadu_ps(y), four) : four);
}

struct Scratch {
  Bf16* weights;  // kPanel * kChunk
  Bf16* rows;     // kTileRows * kChunk
  float* totals;  // [tile][four outputs][row of the tile][output], kRowBlock * kPanel
};

// A tile of rows of a chunk against the panel.
template <size_t kRows>
HWY_NOINLINE void pass(const Scratch& s, const Bf16* x, size_t x_stride, size_t outputs, size_t length,
                       float* totals) {
  pack<kRows>(x, x_stride, kRows, length, s.rows);
  for (size_t n = 0; n < outputs; n += kStreams, totals += kRows * kStreams) {
    const Packed<kStreams> weights{s.weights + n * vectors(length) * kLanes};
    tile<kRows>(weights, Packed<kRows>{s.rows}, length, totals);
  }
}

// Outputs begin .. end - 1, at most kPanel, of rows first .. first + rows - 1, at most kRowBlock.
void panel(const Product& p, size_t first, size_t rows, size_t begin, size_t end, const Scratch& s) {
  const size_t K = static_cast<size_t>(p.weight.shape[1]), outputs = end - begin;
  const Bf16* weights = p.weight.as<Bf16>() + begin * K;
  std::fill(s.totals, s.totals + rows * kPanel, 0.0f);
  for (size_t k = 0; k < K; k += kChunk) {
    const size_t length = std::min(kChunk, K - k);
    for (size_t n = 0; n < outputs; n += kStreams)
      pack<kStreams>(weights + n * K + k, K, std::min(kStreams, outputs - n), length,
                     s.weights + n * vectors(length) * kLanes);
    by_tiles<1>(rows, [&](size_t row, auto take) {
      pass<decltype(take)::value>(s, p.rounded + (first + row) * p.x_stride + k, p.x_stride, outputs, length,
                                  s.totals + row * kPanel);
    });
  }
  by_tiles<1>(rows, [&](size_t row, auto take) {
    constexpr size_t kRows = decltype(take)::value;
    const float* totals = s.totals + row * kPanel;
    for (size_t n = 0; n < outputs; n += kStreams, totals += kRows * kStreams)
      for (size_t r = 0; r < kRows; ++r)
        finish_group(p, first + row + r, begin + n, std::min(kStreams, outputs - n), totals + r * kStreams);
  });
}

}  // namespace

void round_to_bf16(const float* x, size_t n, uint16_t* y) {
  for (size_t i = 0; i < n; i += 16) {
    const auto lanes = static_cast<__mmask16>(n - i < 16 ? (1u << (n - i)) - 1 : 0xFFFFu);
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + i));
    _mm256_mask_storeu_epi16(y + i, lanes, (__m256i)half);
  }
}

void multiply_pairs(const Product& p, size_t begin, size_t end, float* scratch) {
  if (p.rows <= kStripRows) {
    by_streams(begin, end, [&](size_t n, size_t step, size_t count) { strip(p, n, step, count); });
    return;
  }
  const size_t off = reinterpret_cast<uintptr_t>(scratch) % 64 / sizeof(float);
  scratch += off ? 16 - off : 0;
  Scratch s;
  s.weights = reinterpret_cast<Bf16*>(scratch);
  s.rows = s.weights + kPanel * kChunk;
  s.totals = scratch + (kPanel + kTileRows) * kChunk / 2;
  for (size_t row = 0, rows; row < p.rows; row += rows) {
    rows = even_share(p.rows - row, kRowBlock);
    for (size_t n = begin; n < end; n += kPanel) panel(p, row, rows, n, std::min(n + kPanel, end), s);
  }
}

}  // namespace rondo
HWY_POP_ATTRIBUTES

namespace rondo {
size_t pairs_scratch_floats() { return 16 + (kPanel + kTileRows) * kChunk / 2 + kRowBlock * kPanel; }
bool has_pairs() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
}  // namespace rondo
#else
namespace rondo {
size_t pairs_scratch_floats() { return 0; }
bool has_pairs() { return false; }
void round_to_bf16(const float*, size_t, uint16_t*) { HWY_ABORT("no products of pairs here"); }
void multiply_pairs(const Product&, size_t, size_t, float*) { HWY_ABORT("no products of pairs here"); }
}  // namespace rondo
#endif
