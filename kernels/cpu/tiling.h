// How products go over rows and outputs, whatever multiplies them: few rows by streams of weights, many in
// even tiles; and what becomes of a sum.
#pragma once

#include <algorithm>
#include <type_traits>

#include "hwy/base.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/simd.h"

namespace rondo {

// f(n, step, count): outputs n, n + step, ... to be summed at a time, `count` of them, at most kStreams,
// until all of begin .. end - 1 were. Rows of weights next to one another would be short streams, which the
// hardware's prefetcher loses at every row's end; so the outputs at a time are a quarter of a block apart,
// and a stream runs on for 32 rows.
constexpr size_t kStreams = 4;
template <class F>
HWY_INLINE void by_streams(size_t begin, size_t end, const F& f) {
  constexpr size_t kBlock = 32 * kStreams;
  for (size_t n = begin; n < end; n += kBlock) {
    const size_t count = std::min(kBlock, end - n), step = count / kStreams, rest = count % kStreams;
    for (size_t j = 0; j < step; ++j) f(n + j, step, kStreams);
    if (rest > 0) f(n + kStreams * step, 1, rest);
  }
}
// Streams ask for what they come to so many bytes later.
constexpr size_t kFetchAhead = 1024;

// Up to so many rows weights are read where they lie: a copy nearby would not pay.
constexpr size_t kTileRows = 6;
constexpr size_t kStripRows = 2 * kTileRows;

// The first of as few equal shares of n as keep to `most`.
constexpr size_t even_share(size_t n, size_t most) {
  const size_t shares = (n + most - 1) / most;
  return (n + shares - 1) / shares;
}

// f(first row, how many as a constant) over the rows in even tiles: 8 rows as 4 and 4, not 6 and 2. No tile
// has fewer than kFewest rows, if `rows` are more than kFewest.
template <size_t kFewest, class F>
HWY_INLINE void by_tiles(size_t rows, const F& f) {
  for (size_t row = 0, take; row < rows; row += take) {
    take = even_share(rows - row, kTileRows);
    if constexpr (kFewest <= 1)
      if (take == 1) {
        f(row, std::integral_constant<size_t, 1>());
        continue;
      }
    if constexpr (kFewest <= 2)
      if (take == 2) {
        f(row, std::integral_constant<size_t, 2>());
        continue;
      }
    switch (take) {
      case 3: f(row, std::integral_constant<size_t, 3>()); break;
      case 4: f(row, std::integral_constant<size_t, 4>()); break;
      case 5: f(row, std::integral_constant<size_t, 5>()); break;
      default: f(row, std::integral_constant<size_t, 6>());
    }
  }
}

// y[row, output] from its sum.
inline void finish(const Product& p, size_t row, size_t output, float sum) {
  if (p.bias) {
    switch (p.bias.dtype) {
      case DType::f32: sum += p.bias.as<float>()[output]; break;
      case DType::f16: sum += f32_from_f16(p.bias.as<uint16_t>()[output]); break;
      default: sum += f32_from_bf16(p.bias.as<uint16_t>()[output]);
    }
  }
  float& y = p.y[row * p.y_stride + output];
  y = p.add ? y + sum : sum;
}

}  // namespace rondo
