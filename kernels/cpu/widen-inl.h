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

// f(typed pointer) for the dtype that a weight is in.
template <class F>
HWY_INLINE void with_elements(DType dtype, const void* data, const F& f) {
  switch (dtype) {
    case DType::f32:
      return f(static_cast<const float*>(data));
    case DType::f16:
      return f(static_cast<const hwy::float16_t*>(data));
    default:
      return f(static_cast<const hwy::bfloat16_t*>(data));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#endif
