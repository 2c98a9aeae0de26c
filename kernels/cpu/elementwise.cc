// What happens to one row between products: norm, activation, widening, and the softmax sum of the logits.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
// foreach_target.h comes first, for it includes this file once per instruction set.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/widen-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace rondo {
namespace HWY_NAMESPACE {

constexpr size_t kExpBlock = 4096;  // exponentials summed in fp32 before they join the double

float sum_of_squares(const float* x, size_t n) {
  const Float d;
  const size_t N = hn::Lanes(d);
  Floats s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    const Floats a0 = hn::LoadU(d, x + i), a1 = hn::LoadU(d, x + i + N);
    const Floats a2 = hn::LoadU(d, x + i + 2 * N), a3 = hn::LoadU(d, x + i + 3 * N);
    s0 = hn::MulAdd(a0, a0, s0);
    s1 = hn::MulAdd(a1, a1, s1);
    s2 = hn::MulAdd(a2, a2, s2);
    s3 = hn::MulAdd(a3, a3, s3);
  }
  for (; i < n; i += N) {
    const Floats a = i + N <= n ? hn::LoadU(d, x + i) : load_first(d, x + i, n - i);
    s0 = hn::MulAdd(a, a, s0);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

// y[i] = f(i, load(p, i)) over n elements, where load(p, i) reads N lanes at p + i, or the last n - i of
// them.
template <class F>
HWY_INLINE void map(size_t n, float* y, const F& f) {
  const Float d;
  const size_t N = hn::Lanes(d);
  size_t i = 0;
  for (; i + N <= n; i += N) hn::StoreU(f([&](auto* p) HWY_ATTR { return load(d, p + i); }), d, y + i);
  if (i < n) store_first(f([&](auto* p) HWY_ATTR { return load_first(d, p + i, n - i); }), d, y + i, n - i);
}

void rms_norm(const float* x, const View& weight, float eps, size_t n, float* y) {
  const Float d;
  const Floats scale = hn::Set(d, 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  with_elements(weight.dtype, weight.data, [&](auto* w) HWY_ATTR {
    map(n, y, [&](const auto& at) HWY_ATTR { return hn::Mul(hn::Mul(at(x), scale), at(w)); });
  });
}

void silu_multiply(const float* gate, const float* up, size_t n, float* h) {
  const Float d;
  map(n, h, [&](const auto& at) HWY_ATTR {
    const Floats g = at(gate);
    const Floats e =
        hn::Exp(d, hn::Min(hn::Neg(g), hn::Set(d, 88.0f)));  // beyond 88 exp overflows, and silu is 0 already
    return hn::Mul(hn::Div(g, hn::Add(hn::Set(d, 1.0f), e)), at(up));
  });
}

void widen(const View& weight, size_t offset, size_t n, float* y) {
  with_elements(weight.dtype, weight.data, [&](auto* w) HWY_ATTR {
    map(n, y, [&](const auto& at) HWY_ATTR { return at(w + offset); });
  });
}

LogitStats logit_stats(const float* logits, size_t n) {
  const Float d;
  const size_t N = hn::Lanes(d);
  const float infinity = std::numeric_limits<float>::infinity();
  HWY_ALIGN float last[kMaxLanes];  // the end of the row, filled up with -inf, which adds nothing
  for (size_t i = 0; i < kMaxLanes; ++i) last[i] = -infinity;
  const size_t whole = n / N * N;
  memcpy(last, logits + whole, (n - whole) * sizeof(float));

  Floats max = hn::LoadU(d, last), nans = hn::Zero(d);
  const auto look = [&](Floats v) HWY_ATTR {
    nans = hn::Or(nans, hn::VecFromMask(d, hn::IsNaN(v)));  // Ne(v, v) is not: x86 compares ordered
    max = hn::Max(max, v);
  };
  look(max);
  for (size_t i = 0; i < whole; i += N) look(hn::LoadU(d, logits + i));
  LogitStats stats;
  const bool has_nan = !hn::AllFalse(d, hn::MaskFromVec(nans));
  if (has_nan) return stats;
  stats.max = hn::GetLane(hn::MaxOfLanes(d, max));
  if (!std::isfinite(stats.max)) return stats;
  stats.ok = true;

  const Floats shift = hn::Set(d, stats.max);
  const auto add = [&](Floats sum, Floats v) HWY_ATTR { return hn::Add(sum, hn::Exp(d, hn::Sub(v, shift))); };
  double sum = hn::GetLane(hn::SumOfLanes(d, add(hn::Zero(d), hn::LoadU(d, last))));
  for (size_t block = 0; block < whole; block += kExpBlock) {
    Floats part = hn::Zero(d);
    for (size_t i = block; i < HWY_MIN(whole, block + kExpBlock); i += N)
      part = add(part, hn::LoadU(d, logits + i));
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, part)));
  }
  stats.log_sum = std::log(sum);
  return stats;
}

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo {
HWY_EXPORT(rms_norm);
HWY_EXPORT(silu_multiply);
HWY_EXPORT(widen);
HWY_EXPORT(logit_stats);

void rms_norm(const float* x, const View& weight, float eps, size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(x, weight, eps, n, y);
}
void silu_multiply(const float* gate, const float* up, size_t n, float* h) {
  HWY_DYNAMIC_DISPATCH(silu_multiply)(gate, up, n, h);
}
void widen(const View& weight, size_t offset, size_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(widen)(weight, offset, n, y);
}
LogitStats logit_stats(const float* logits, size_t n) { return HWY_DYNAMIC_DISPATCH(logit_stats)(logits, n); }
}  // namespace rondo
#endif
