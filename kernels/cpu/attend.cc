// One row's query heads over the pages of one K/V head: softmax(q k^T scale) v, each page read once for the
// whole group.
//
// Positions are taken in chunks that end at multiples of kChunk (or of the page, where that is shorter). Per
// chunk: scores, then a running maximum and sum for each head, then the weighted values join the output,
// rescaled when the maximum grew. Chunks follow one another in order, so that a row's bits depend on its own
// positions only.
#include <limits>
#include <type_traits>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend.cc"
// foreach_target.h comes first, for it includes this file once per instruction set.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/widen-inl.h"
// clang-format on

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

// f(first head, how many as a constant, at most 4) over all heads of the group.
template <class F>
HWY_INLINE void by_four(size_t group, const F& f) {
  size_t h = 0;
  for (; h + 4 <= group; h += 4) f(h, std::integral_constant<size_t, 4>());
  switch (group - h) {
    case 1: return f(h, std::integral_constant<size_t, 1>());
    case 2: return f(h, std::integral_constant<size_t, 2>());
    case 3: return f(h, std::integral_constant<size_t, 3>());
    default: return;
  }
}

// scores[h * kChunk + i] = scale * q[h] . k[i] for i < count.
template <class T>
HWY_INLINE void score(const HeadGroup& a, const T* k, size_t count, float* scores) {
  const Float d;
  const size_t N = hn::Lanes(d), D = a.head_dim;
  by_four(a.group, [&](size_t h, auto heads) HWY_ATTR {
    constexpr size_t kHeads = decltype(heads)::value;
    const float* q = a.q + h * D;
    for (size_t i = 0; i < count; ++i) {
      const T* key = k + i * D;
      [[maybe_unused]] Floats s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
      const auto add = [&](Floats v, const auto& query) HWY_ATTR {
        s0 = hn::MulAdd(query(q), v, s0);
        if constexpr (kHeads > 1) s1 = hn::MulAdd(query(q + D), v, s1);
        if constexpr (kHeads > 2) s2 = hn::MulAdd(query(q + 2 * D), v, s2);
        if constexpr (kHeads > 3) s3 = hn::MulAdd(query(q + 3 * D), v, s3);
      };
      size_t j = 0;
      for (; j + N <= D; j += N)
        add(load(d, key + j), [&](const float* p) HWY_ATTR { return hn::LoadU(d, p + j); });
      if (j < D)
        add(load_first(d, key + j, D - j),
            [&](const float* p) HWY_ATTR { return load_first(d, p + j, D - j); });
      float* out = scores + h * kChunk + i;
      if constexpr (kHeads == 1) {
        out[0] = a.scale * hn::GetLane(hn::SumOfLanes(d, s0));
      } else {
        float sums[4];
        sum_four(s0, s1, s2, s3, sums);
        for (size_t head = 0; head < kHeads; ++head) out[head * kChunk] = a.scale * sums[head];
      }
    }
  });
}

// o[h] = o[h] * factors[h] + sum_i weights[h * kChunk + i] v[i], i < count.
template <class T>
HWY_INLINE void add_values(const HeadGroup& a, const T* v, size_t count, const float* weights,
                           const float* factors) {
  const Float d;
  const size_t N = hn::Lanes(d), D = a.head_dim;
  by_four(a.group, [&](size_t h, auto heads) HWY_ATTR {
    constexpr size_t kHeads = decltype(heads)::value;
    const float* p = weights + h * kChunk;
    for (size_t j = 0; j < D; j += N) {
      const size_t lanes = HWY_MIN(N, D - j);
      float* o = a.o + h * D + j;
      const auto before = [&](size_t i) HWY_ATTR {
        const Floats sum = lanes == N ? hn::LoadU(d, o + i * D) : load_first(d, o + i * D, lanes);
        return hn::Mul(hn::Set(d, factors[h + i]), sum);
      };
      [[maybe_unused]] Floats s0 = before(0), s1 = s0, s2 = s0, s3 = s0;
      if constexpr (kHeads > 1) s1 = before(1);
      if constexpr (kHeads > 2) s2 = before(2);
      if constexpr (kHeads > 3) s3 = before(3);
      const auto add = [&](Floats value, size_t i) HWY_ATTR {
        s0 = hn::MulAdd(hn::Set(d, p[i]), value, s0);
        if constexpr (kHeads > 1) s1 = hn::MulAdd(hn::Set(d, p[kChunk + i]), value, s1);
        if constexpr (kHeads > 2) s2 = hn::MulAdd(hn::Set(d, p[2 * kChunk + i]), value, s2);
        if constexpr (kHeads > 3) s3 = hn::MulAdd(hn::Set(d, p[3 * kChunk + i]), value, s3);
      };
      if (lanes == N) {
        for (size_t i = 0; i < count; ++i) add(load(d, v + i * D + j), i);
      } else {
        for (size_t i = 0; i < count; ++i) add(load_first(d, v + i * D + j, lanes), i);
      }
      const auto keep = [&](size_t i, Floats s) HWY_ATTR {
        if (lanes == N) {
          hn::StoreU(s, d, o + i * D);
        } else {
          store_first(s, d, o + i * D, lanes);
        }
      };
      keep(0, s0);
      if constexpr (kHeads > 1) keep(1, s1);
      if constexpr (kHeads > 2) keep(2, s2);
      if constexpr (kHeads > 3) keep(3, s3);
    }
  });
}

// Turns a chunk's scores into exp(score - max) and brings the running maximum and sum up to date. Returns the
// factor by which all that came before shrinks.
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
  const float factor =
      hn::GetLane(hn::Exp(d, hn::Set(d, max - now)));  // 0 before the first chunk, where max is -inf
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
