// One row's query heads over the pages of one K/V head: softmax(q k^T scale) v, each page read once for the whole group.
//
// Positions are taken in chunks that end at multiples of kChunk (or of the page, where that is shorter). Per chunk: scores,
// then a running maximum and sum for each head, then the weighted values join the output, rescaled when the maximum grew.
// Chunks follow one another in order, so that a row's bits depend on its own positions only.
#include "kernels/cpu/simd.h"

#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/widen-inl.h"

#ifndef RONDO_KERNELS_CPU_ATTEND_CHUNK
#define RONDO_KERNELS_CPU_ATTEND_CHUNK
namespace rondo {
constexpr size_t kChunk = 64;  // positions; scores of a group of 8 are 2 KiB
}
#endif

HWY_BEFORE_NAMESPACE();
namespace rondo {
namespace HWY_NAMESPACE {

static_assert(kChunk % kMaxLanes == 0 || kMaxLanes > kChunk);

// f(first head, at most 4 of them) over all heads of the group.
template <class F>
HWY_INLINE void by_four(size_t group, const F& f) {
  for (size_t h = 0; h < group; h += 4) f(h, HWY_MIN(size_t{4}, group - h));
}

// scores[h * kChunk + i] = scale * q[h] . k[i] for i < count.
template <class T>
HWY_INLINE void score(const HeadGroup& a, const T* k, size_t count, float* scores) {
  const Float d;
  const size_t N = hn::Lanes(d), D = a.head_dim;
  const auto scaled = [&](Floats sum) HWY_ATTR { return a.scale * hn::GetLane(hn::SumOfLanes(d, sum)); };
  by_four(a.group, [&](size_t h, size_t heads) HWY_ATTR {
    const float* q0 = a.q + h * D;  // heads that are not there repeat the first one, and are not stored
    const float* q1 = q0 + (heads > 1 ? D : 0);
    const float* q2 = q0 + (heads > 2 ? 2 * D : 0);
    const float* q3 = q0 + (heads > 3 ? 3 * D : 0);
    for (size_t i = 0; i < count; ++i) {
      const T* key = k + i * D;
      Floats s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
      size_t j = 0;
      if (heads == 1) {
        for (; j + N <= D; j += N) s0 = hn::MulAdd(hn::LoadU(d, q0 + j), load(d, key + j), s0);
      }
      for (; j + N <= D; j += N) {
        const Floats v = load(d, key + j);
        s0 = hn::MulAdd(hn::LoadU(d, q0 + j), v, s0);
        s1 = hn::MulAdd(hn::LoadU(d, q1 + j), v, s1);
        s2 = hn::MulAdd(hn::LoadU(d, q2 + j), v, s2);
        s3 = hn::MulAdd(hn::LoadU(d, q3 + j), v, s3);
      }
      if (j < D) {
        const Floats v = load_first(d, key + j, D - j);
        s0 = hn::MulAdd(load_first(d, q0 + j, D - j), v, s0);
        s1 = hn::MulAdd(load_first(d, q1 + j, D - j), v, s1);
        s2 = hn::MulAdd(load_first(d, q2 + j, D - j), v, s2);
        s3 = hn::MulAdd(load_first(d, q3 + j, D - j), v, s3);
      }
      float* out = scores + h * kChunk + i;
      out[0] = scaled(s0);
      if (heads > 1) out[kChunk] = scaled(s1);
      if (heads > 2) out[2 * kChunk] = scaled(s2);
      if (heads > 3) out[3 * kChunk] = scaled(s3);
    }
  });
}

// o[h] = o[h] * factors[h] + sum_i weights[h * kChunk + i] v[i], i < count.
template <class T>
HWY_INLINE void add_values(const HeadGroup& a, const T* v, size_t count, const float* weights, const float* factors) {
  const Float d;
  const size_t N = hn::Lanes(d), D = a.head_dim;
  by_four(a.group, [&](size_t h, size_t heads) HWY_ATTR {
    const size_t h1 = heads > 1 ? h + 1 : h, h2 = heads > 2 ? h + 2 : h, h3 = heads > 3 ? h + 3 : h;
    const float *p0 = weights + h * kChunk, *p1 = weights + h1 * kChunk;
    const float *p2 = weights + h2 * kChunk, *p3 = weights + h3 * kChunk;
    for (size_t j = 0; j < D; j += N) {
      const size_t lanes = HWY_MIN(N, D - j);
      const auto output = [&](size_t head) HWY_ATTR {
        const float* o = a.o + head * D + j;
        return hn::Mul(hn::Set(d, factors[head]), lanes == N ? hn::LoadU(d, o) : load_first(d, o, lanes));
      };
      Floats s0 = output(h), s1 = output(h1), s2 = output(h2), s3 = output(h3);
      const auto add = [&](Floats value, size_t i) HWY_ATTR {
        s0 = hn::MulAdd(hn::Set(d, p0[i]), value, s0);
        s1 = hn::MulAdd(hn::Set(d, p1[i]), value, s1);
        s2 = hn::MulAdd(hn::Set(d, p2[i]), value, s2);
        s3 = hn::MulAdd(hn::Set(d, p3[i]), value, s3);
      };
      if (lanes == N) {
        for (size_t i = 0; i < count; ++i) add(load(d, v + i * D + j), i);
      } else {
        for (size_t i = 0; i < count; ++i) add(load_first(d, v + i * D + j, lanes), i);
      }
      const auto keep = [&](size_t head, Floats s) HWY_ATTR {
        float* o = a.o + head * D + j;
        if (lanes == N) hn::StoreU(s, d, o);
        else store_first(s, d, o, lanes);
      };
      keep(h, s0);
      if (heads > 1) keep(h1, s1);
      if (heads > 2) keep(h2, s2);
      if (heads > 3) keep(h3, s3);
    }
  });
}

// Turns a chunk's scores into exp(score - max) and brings the running maximum and sum up to date. Returns the factor by
// which all that came before shrinks.
HWY_INLINE float soften(float* scores, size_t count, float& max, float& sum) {
  const Float d;
  const size_t N = hn::Lanes(d);
  for (size_t i = count; i < kChunk; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  Floats top = hn::Set(d, max);
  for (size_t i = 0; i < kChunk; i += N) top = hn::Max(top, hn::LoadU(d, scores + i));
  const float now = hn::GetLane(hn::MaxOfLanes(d, top));
  const Floats shift = hn::Set(d, now);
  Floats part = hn::Zero(d);
  for (size_t i = 0; i < kChunk; i += N) {
    const Floats e = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + i), shift));
    hn::StoreU(e, d, scores + i);
    part = hn::Add(part, e);
  }
  const float factor = hn::GetLane(hn::Exp(d, hn::Set(d, max - now)));  // 0 before the first chunk, where max is -inf
  max = now;
  sum = sum * factor + hn::GetLane(hn::SumOfLanes(d, part));
  return factor;
}

template <class T>
void attend_pages(const HeadGroup& a, const T* k_pages, const T* v_pages) {
  float* scores = a.scratch;
  float* max = scores + a.group * kChunk;
  float* sum = max + a.group;
  float* factors = sum + a.group;
  for (size_t h = 0; h < a.group; ++h) {
    max[h] = -std::numeric_limits<float>::infinity();
    sum[h] = 0;
  }
  for (size_t i = 0; i < a.group * a.head_dim; ++i) a.o[i] = 0;
  const size_t step = HWY_MIN(kChunk, a.page_size);
  for (size_t position = a.begin; position < a.end;) {
    const size_t next = HWY_MIN((position / step + 1) * step, a.end), count = next - position;
    const size_t page = static_cast<size_t>(a.page_table[position / a.page_size]);
    const size_t first = page * a.page_stride + a.head_offset + position % a.page_size * a.head_dim;
    score(a, k_pages + first, count, scores);
    for (size_t h = 0; h < a.group; ++h) factors[h] = soften(scores + h * kChunk, count, max[h], sum[h]);
    add_values(a, v_pages + first, count, scores, factors);
    position = next;
  }
  for (size_t h = 0; h < a.group; ++h) {
    const float scale = 1.0f / sum[h];
    for (size_t j = 0; j < a.head_dim; ++j) a.o[h * a.head_dim + j] *= scale;
  }
}

void attend_group(const HeadGroup& a) {
  with_elements(a.dtype, a.k, [&](auto* k) HWY_ATTR { attend_pages(a, k, static_cast<decltype(k)>(a.v)); });
}

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo {
HWY_EXPORT(attend_group);

void attend_group(const HeadGroup& heads) { HWY_DYNAMIC_DISPATCH(attend_group)(heads); }
size_t attend_scratch_floats(size_t group) { return group * (kChunk + 3); }
}  // namespace rondo
#endif
