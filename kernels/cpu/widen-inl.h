// Loads of any weight dtype as fp32 lanes, once per instruction set (see hwy/foreach_target.h for why the
// guard toggles).
#if defined(RONDO_KERNELS_CPU_WIDEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RONDO_KERNELS_CPU_WIDEN_INL_H_
#undef RONDO_KERNELS_CPU_WIDEN_INL_H_
#else
#define RONDO_KERNELS_CPU_WIDEN_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/tiling.h"

HWY_BEFORE_NAMESPACE();
namespace rondo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using Floats = hn::Vec<Float>;
constexpr size_t kMaxLanes = hn::MaxLanes(Float());

HWY_INLINE Floats load(Float d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE Floats load(Float d, const hwy::bfloat16_t* p) {
  const hn::Rebind<hwy::bfloat16_t, Float> half;
  return hn::PromoteTo(d, hn::LoadU(half, p));
}
HWY_INLINE Floats load(Float d, const hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, Float> half;
  return hn::PromoteTo(d, hn::LoadU(half, p));
}

// The first n < Lanes elements, then zeros. Weights end where their memory ends, so nothing beyond may be
// read.
template <class T>
HWY_INLINE Floats load_first(Float d, const T* p, size_t n) {
  HWY_ALIGN T lanes[kMaxLanes];
  memset(static_cast<void*>(lanes), 0, sizeof(lanes));
  memcpy(static_cast<void*>(lanes), p, n * sizeof(T));
  return load(d, lanes);
}

HWY_INLINE void store_first(Floats v, Float d, float* p, size_t n) {
  HWY_ALIGN float lanes[kMaxLanes];
  hn::Store(v, d, lanes);
  memcpy(p, lanes, n * sizeof(float));
}

// The sums of four vectors' lanes, side by side: a third of the shuffles of four separate sums.
HWY_INLINE void sum_four(Floats a, Floats b, Floats c, Floats e, float* HWY_RESTRICT sums) {
#if HWY_TARGET == HWY_SCALAR
  sums[0] = hn::GetLane(a);
  sums[1] = hn::GetLane(b);
  sums[2] = hn::GetLane(c);
  sums[3] = hn::GetLane(e);
#else
  const Float d;
  const hn::RepartitionToWide<hn::RebindToUnsigned<Float> > pairs;
  const auto ab = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const Floats blocks =
      hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)),
              hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce)));  // a b c e in each four lanes
  HWY_ALIGN float lanes[kMaxLanes];
  hn::Store(blocks, d, lanes);
  const hn::Full128<float> four;
  auto sum = hn::Load(four, lanes);
  for (size_t i = 4; i < hn::Lanes(d); i += 4) sum = hn::Add(sum, hn::Load(four, lanes + i));
  hn::StoreU(sum, four, sums);
#endif
}

// f(typed pointer) for the dtype that a weight is in.
template <class F>
HWY_INLINE void with_elements(DType dtype, const void* data, const F& f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<const float*>(data));
    case DType::f16: return f(static_cast<const hwy::float16_t*>(data));
    default: return f(static_cast<const hwy::bfloat16_t*>(data));
  }
}

// Four streams ask for what they come to later, once per kUnroll vectors.
constexpr size_t kUnroll = 4;
template <size_t kBytes>
HWY_INLINE void fetch(const char* p) {
  __builtin_prefetch(p, 0, 3);
  if constexpr (kBytes > 64) fetch<kBytes - 64>(p + 64);
}
template <class T>
HWY_INLINE void fetch_ahead(const T* p0, const T* p1, const T* p2, const T* p3) {
  for (const T* p : {p0, p1, p2, p3})
    fetch<kUnroll * kMaxLanes * sizeof(T)>(reinterpret_cast<const char*>(p) + kFetchAhead);
}

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#endif
