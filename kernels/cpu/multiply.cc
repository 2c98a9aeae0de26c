// Rows times a weight matrix. Needs: each weight read from memory once per step, and every (row, output)
// summed in one order: one accumulator of vector width runs along k, then its lanes are added.
//
// A tile is up to kTileRows rows x 4 outputs of such accumulators in registers: at one row that is four
// streams of weights, read at the speed of memory; at many rows each loaded vector is used four to six times.
// For more rows than a tile has, outputs are taken in panels whose weights stay in the L2 cache while all
// rows pass, and k in chunks whose rows stay in L1; accumulators wait in memory between chunks, which changes
// no bit of them.
//
// Four streams a row apart defeat the hardware's prefetcher. So the weights that come next are asked for in
// the order of their addresses, into L2, while these are used: measured on a Zen 4 core, 25 GB/s where the
// streams alone reach 17.
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

// 24 accumulators where there are 32 vector registers, 8 where there are 16.
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3  // the better a target, the smaller its number
constexpr bool kManyRegisters = false;
#else
constexpr bool kManyRegisters = true;
#endif
constexpr size_t kTileRows = kManyRegisters ? 6 : 4;
constexpr size_t kGroup = static_cast<size_t>(kProductGroup);
constexpr size_t kPanelOutputs = 32;
constexpr size_t kPanelBytes = 256 * 1024;    // a quarter of a common L2 cache
constexpr size_t kChunk = 512;                // 6 rows of it are 12 KiB, beside 4 KiB of bf16 weights
constexpr size_t kChunkStride = kChunk + 16;  // rows a power of two apart would fight for the same cache ways

// Highway's vectors cannot be elements of arrays on every target, so the accumulators are variables,
// c[row][output].
#define RONDO_ROWS(M) M(0) M(1) M(2) M(3) M(4) M(5)
#define RONDO_DECLARE(r) \
  [[maybe_unused]] Floats c##r##0 = hn::Zero(d), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define RONDO_RESUME(r)                                                             \
  if constexpr (kRows > r) {                                                        \
    c##r##0 = hn::Load(d, sums + (r * kGroup + 0) * N);                             \
    if constexpr (kOutputs > 1) c##r##1 = hn::Load(d, sums + (r * kGroup + 1) * N); \
    if constexpr (kOutputs > 2) c##r##2 = hn::Load(d, sums + (r * kGroup + 2) * N); \
    if constexpr (kOutputs > 2) c##r##3 = hn::Load(d, sums + (r * kGroup + 3) * N); \
  }
#define RONDO_SUSPEND(r)                                                            \
  if constexpr (kRows > r) {                                                        \
    hn::Store(c##r##0, d, sums + (r * kGroup + 0) * N);                             \
    if constexpr (kOutputs > 1) hn::Store(c##r##1, d, sums + (r * kGroup + 1) * N); \
    if constexpr (kOutputs > 2) hn::Store(c##r##2, d, sums + (r * kGroup + 2) * N); \
    if constexpr (kOutputs > 2) hn::Store(c##r##3, d, sums + (r * kGroup + 3) * N); \
  }
#define RONDO_ACCUMULATE(r)                                           \
  if constexpr (kRows > r) {                                          \
    const Floats a = row(r);                                          \
    c##r##0 = hn::MulAdd(a, w0, c##r##0);                             \
    if constexpr (kOutputs > 1) c##r##1 = hn::MulAdd(a, w1, c##r##1); \
    if constexpr (kOutputs > 2) c##r##2 = hn::MulAdd(a, w2, c##r##2); \
    if constexpr (kOutputs > 2) c##r##3 = hn::MulAdd(a, w3, c##r##3); \
  }

// Asks for kBytes from p on, whole cache lines.
template <size_t kBytes>
HWY_INLINE void fetch(const char* p) {
  __builtin_prefetch(p, 0, 2);
  if constexpr (kBytes > 64) fetch<kBytes - 64>(p + 64);
}

// sums[row][output], vectors of N lanes, kGroup outputs a row: of k elements, begun from zero or resumed.
// kOutputs 1, 2, 4. Meanwhile fetches as many bytes as it reads from `ahead` on, unless null.
template <int kRows, int kOutputs, class T>
HWY_INLINE void tile(const float* HWY_RESTRICT x, size_t x_stride, const T* HWY_RESTRICT w, size_t w_stride,
                     size_t k, const char* ahead, bool resume, float* HWY_RESTRICT sums) {
  const Float d;
  const size_t N = hn::Lanes(d);
  RONDO_ROWS(RONDO_DECLARE)
  if (resume) {
    RONDO_ROWS(RONDO_RESUME)
  }
  const T* HWY_RESTRICT p0 = w;
  const T* HWY_RESTRICT p1 = w + (kOutputs > 1 ? w_stride : 0);
  const T* HWY_RESTRICT p2 = w + (kOutputs > 2 ? 2 * w_stride : 0);
  const T* HWY_RESTRICT p3 = w + (kOutputs > 2 ? 3 * w_stride : 0);
  size_t i = 0;
  for (; i + N <= k; i += N) {
    if (ahead) {
      fetch<kOutputs * kMaxLanes * sizeof(T)>(ahead);
      ahead += kOutputs * N * sizeof(T);
    }
    const Floats w0 = load(d, p0 + i);
    [[maybe_unused]] const Floats w1 = kOutputs > 1 ? load(d, p1 + i) : w0;
    [[maybe_unused]] const Floats w2 = kOutputs > 2 ? load(d, p2 + i) : w0;
    [[maybe_unused]] const Floats w3 = kOutputs > 2 ? load(d, p3 + i) : w0;
    const auto row = [&](size_t r) HWY_ATTR { return hn::LoadU(d, x + r * x_stride + i); };
    RONDO_ROWS(RONDO_ACCUMULATE)
  }
  if (i < k) {
    const Floats w0 = load_first(d, p0 + i, k - i);
    [[maybe_unused]] const Floats w1 = kOutputs > 1 ? load_first(d, p1 + i, k - i) : w0;
    [[maybe_unused]] const Floats w2 = kOutputs > 2 ? load_first(d, p2 + i, k - i) : w0;
    [[maybe_unused]] const Floats w3 = kOutputs > 2 ? load_first(d, p3 + i, k - i) : w0;
    const auto row = [&](size_t r) HWY_ATTR { return load_first(d, x + r * x_stride + i, k - i); };
    RONDO_ROWS(RONDO_ACCUMULATE)
  }
  RONDO_ROWS(RONDO_SUSPEND)
}

// `outputs` of a group, 4 but at a matrix's end.
template <int kRows, class T>
HWY_INLINE void tile_group(const float* x, size_t x_stride, const T* w, size_t w_stride, size_t k,
                           const char* ahead, bool resume, float* sums, size_t outputs) {
  const size_t N = hn::Lanes(Float());
  if (outputs == kGroup) {
    if constexpr (kManyRegisters || kRows <= 2) {
      tile<kRows, 4>(x, x_stride, w, w_stride, k, ahead, resume, sums);
    } else {
      tile<kRows, 2>(x, x_stride, w, w_stride, k, ahead, resume, sums);
      if (ahead) ahead += 2 * k * sizeof(T);
      tile<kRows, 2>(x, x_stride, w + 2 * w_stride, w_stride, k, ahead, resume, sums + 2 * N);
    }
    return;
  }
  for (size_t j = 0; j < outputs; ++j)
    tile<kRows, 1>(x, x_stride, w + j * w_stride, w_stride, k, nullptr, resume, sums + j * N);
}

void finish(const Product& p, size_t row, size_t rows, size_t output, size_t outputs, const float* sums) {
  const Float d;
  const size_t N = hn::Lanes(d);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t j = 0; j < outputs; ++j) {
      float value = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + (r * kGroup + j) * N)));
      if (p.bias)
        with_elements(p.bias.dtype, p.bias.data, [&](auto* bias) HWY_ATTR {
          value += hn::GetLane(load_first(d, bias + output + j, 1));
        });
      float& y = p.y[(row + r) * p.y_stride + output + j];
      y = p.add ? y + value : value;
    }
  }
}

// Rows row .. row + kRows - 1 of outputs begin .. end - 1, at most kPanelOutputs where the rows are more than
// one tile.
template <int kRows, class T>
HWY_NOINLINE void panel(const Product& p, const T* weights, size_t row, size_t begin, size_t end) {
  HWY_ALIGN float sums[kPanelOutputs * kTileRows * kMaxLanes];
  const size_t N = hn::Lanes(Float()), K = static_cast<size_t>(p.weight.shape[1]);
  const auto address = [&](size_t n) { return reinterpret_cast<const char*>(weights + n * K); };
  const float* x = p.x + row * p.x_stride;
  if (p.rows == kRows) {
    for (size_t n = begin; n < end; n += kGroup) {
      const size_t outputs = std::min(kGroup, end - n);
      tile_group<kRows>(x, p.x_stride, weights + n * K, K, K, address(n + kGroup), false, sums, outputs);
      finish(p, row, kRows, n, outputs, sums);
    }
    return;
  }
  HWY_ALIGN float near[kTileRows * kChunkStride];
  const size_t group_sums = kGroup * kRows * N;
  const char* ahead = row == 0 ? address(end) : nullptr;  // the next panel, once
  for (size_t k = 0; k < K; k += kChunk) {
    const size_t length = std::min(kChunk, K - k);
    for (size_t r = 0; r < kRows; ++r)
      memcpy(near + r * kChunkStride, x + r * p.x_stride + k, length * sizeof(float));
    for (size_t n = begin; n < end; n += kGroup) {
      tile_group<kRows>(near, kChunkStride, weights + n * K + k, K, length, ahead, k > 0,
                        sums + (n - begin) / kGroup * group_sums, std::min(kGroup, end - n));
      if (ahead) ahead += kGroup * length * sizeof(T);
    }
  }
  for (size_t n = begin; n < end; n += kGroup)
    finish(p, row, kRows, n, std::min(kGroup, end - n), sums + (n - begin) / kGroup * group_sums);
}

template <class T>
void multiply_range(const Product& p, const T* weights, size_t begin, size_t end) {
  const size_t row_bytes = std::max<size_t>(1, static_cast<size_t>(p.weight.shape[1]) * sizeof(T));
  const size_t fitting = std::clamp(kPanelBytes / row_bytes / kGroup * kGroup, kGroup, kPanelOutputs);
  const size_t width = p.rows <= kTileRows ? end - begin : fitting;
  for (size_t n = begin; n < end; n += width) {
    const size_t stop = std::min(end, n + width);
    for (size_t row = 0, take; row < p.rows; row += take) {
      const size_t left = p.rows - row, tiles = (left + kTileRows - 1) / kTileRows;
      take = (left + tiles - 1) / tiles;  // 8 rows as 4 and 4, not 6 and 2
      switch (take) {
        case 1:
          panel<1>(p, weights, row, n, stop);
          break;
        case 2:
          panel<2>(p, weights, row, n, stop);
          break;
        case 3:
          panel<3>(p, weights, row, n, stop);
          break;
        case 4:
          panel<4>(p, weights, row, n, stop);
          break;
        default:
          if constexpr (kManyRegisters)
            take == 5 ? panel<5>(p, weights, row, n, stop) : panel<6>(p, weights, row, n, stop);
      }
    }
  }
}

void multiply(const Product& p, size_t begin, size_t end) {
  with_elements(p.weight.dtype, p.weight.data,
                [&](auto* weights) HWY_ATTR { multiply_range(p, weights, begin, end); });
}

const char* simd_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace rondo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo {
HWY_EXPORT(multiply);
HWY_EXPORT(simd_name);

void multiply(const Product& product, size_t begin, size_t end) {
  HWY_DYNAMIC_DISPATCH(multiply)(product, begin, end);
}
const char* simd_name() { return HWY_DYNAMIC_DISPATCH(simd_name)(); }
}  // namespace rondo
#endif
