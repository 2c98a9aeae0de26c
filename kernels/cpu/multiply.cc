// A row or a few times a weight matrix: at the speed of memory, each weight read once.
//
// Four outputs are summed at a time, so that four accumulators hide the latency of a multiply-add.
#include <algorithm>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/multiply.cc"
// foreach_target.h comes first, for it includes this file once per instruction set.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/widen-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace rondo {
namespace HWY_NAMESPACE {

static_assert(kStreams == static_cast<size_t>(kProductGroup) && kProductChunk % kMaxLanes == 0);

// Outputs n, n + step, ... of all rows, `count` of them, at most kStreams.
template <size_t kRows, class T>
HWY_INLINE void outputs(const Product& p, const T* weights, size_t n, size_t step, size_t count) {
  const Float d;
  const size_t N = hn::Lanes(d), K = static_cast<size_t>(p.weight.shape[1]);
  const T* HWY_RESTRICT p0 = weights + n * K;
  const T* HWY_RESTRICT p1 = count > 1 ? p0 + step * K : p0;
  const T* HWY_RESTRICT p2 = count > 2 ? p1 + step * K : p0;
  const T* HWY_RESTRICT p3 = count > 3 ? p2 + step * K : p0;
  const float* HWY_RESTRICT x = p.x;
  float totals[kRows][kStreams] = {};
  for (size_t begin = 0; begin < K; begin += kProductChunk) {
    const size_t end = HWY_MIN(K, begin + kProductChunk);
    // Highway's vectors cannot be elements of arrays on every target.
    Floats a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0;
    [[maybe_unused]] Floats b0 = a0, b1 = a0, b2 = a0, b3 = a0, c0 = a0, c1 = a0, c2 = a0, c3 = a0;
    const auto add = [&](Floats w0, Floats w1, Floats w2, Floats w3, const auto& row) HWY_ATTR {
      const Floats a = row(0);
      a0 = hn::MulAdd(a, w0, a0);
      a1 = hn::MulAdd(a, w1, a1);
      a2 = hn::MulAdd(a, w2, a2);
      a3 = hn::MulAdd(a, w3, a3);
      if constexpr (kRows > 1) {
        const Floats b = row(1);
        b0 = hn::MulAdd(b, w0, b0);
        b1 = hn::MulAdd(b, w1, b1);
        b2 = hn::MulAdd(b, w2, b2);
        b3 = hn::MulAdd(b, w3, b3);
      }
      if constexpr (kRows > 2) {
        const Floats c = row(2);
        c0 = hn::MulAdd(c, w0, c0);
        c1 = hn::MulAdd(c, w1, c1);
        c2 = hn::MulAdd(c, w2, c2);
        c3 = hn::MulAdd(c, w3, c3);
      }
    };
    const auto whole = [&](size_t i) HWY_ATTR {
      add(load(d, p0 + i), load(d, p1 + i), load(d, p2 + i), load(d, p3 + i),
          [&](size_t r) HWY_ATTR { return hn::LoadU(d, x + r * p.x_stride + i); });
    };
    size_t i = begin;
    for (; i + kUnroll * N <= end; i += kUnroll * N) {
      fetch_ahead(p0 + i, p1 + i, p2 + i, p3 + i);
      for (size_t j = 0; j < kUnroll; ++j) whole(i + j * N);
    }
    for (; i + N <= end; i += N) whole(i);
    if (i < end)
      add(load_first(d, p0 + i, end - i), load_first(d, p1 + i, end - i), load_first(d, p2 + i, end - i),
          load_first(d, p3 + i, end - i),
          [&](size_t r) HWY_ATTR { return load_first(d, x + r * p.x_stride + i, end - i); });
    float sums[kRows][kStreams];
    sum_four(a0, a1, a2, a3, sums[0]);
    if constexpr (kRows > 1) sum_four(b0, b1, b2, b3, sums[1]);
    if constexpr (kRows > 2) sum_four(c0, c1, c2, c3, sums[2]);
    for (size_t r = 0; r < kRows; ++r)
      for (size_t j = 0; j < kStreams; ++j) totals[r][j] += sums[r][j];
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t j = 0; j < count; ++j) finish(p, r, n + j * step, totals[r][j]);
}

template <size_t kRows, class T>
HWY_NOINLINE void stream(const Product& p, const T* weights, size_t begin, size_t end) {
  by_streams(begin, end, [&](size_t n, size_t step, size_t count) HWY_ATTR {
    outputs<kRows>(p, weights, n, step, count);
  });
}

void multiply_streams(const Product& p, size_t begin, size_t end) {
  with_elements(p.weight.dtype, p.weight.data, [&](auto* weights) HWY_ATTR {
    switch (p.rows) {
      case 1: return stream<1>(p, weights, begin, end);
      case 2: return stream<2>(p, weights, begin, end);
      case 3: return stream<3>(p, weights, begin, end);
      default: HWY_DASSERT(p.rows == 0);
    }
  });
}

const char* simd_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo {
HWY_EXPORT(multiply_streams);
HWY_EXPORT(simd_name);

void multiply_streams(const Product& product, size_t begin, size_t end) {
  HWY_DYNAMIC_DISPATCH(multiply_streams)(product, begin, end);
}
size_t multiply_scratch_floats() { return std::max(blocks_scratch_floats(), pairs_scratch_floats()); }
void multiply(const Product& product, size_t begin, size_t end, float* scratch) {
  if (product.rounded) return multiply_pairs(product, begin, end, scratch);
  if (product.rows <= kStreamedRows) return multiply_streams(product, begin, end);
  multiply_blocks(product, begin, end, scratch);
}
const char* simd_name() { return HWY_DYNAMIC_DISPATCH(simd_name)(); }
}  // namespace rondo
#endif
