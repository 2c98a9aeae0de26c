// Products of tiles: what the tensor cores make of a warpgroup's. Part of the executor, and like it never
// built with -fsanitize=thread: a warp's last lane computes for all.
#include <cstring>

#include "tests/simt/simt.h"

namespace simt {
namespace {

constexpr int kDepth = 64, kWarpRows = 16, kPlaces = 8, kPlaceElements = 8;
constexpr size_t kPlaceBytes = kPieceBytes / kPlaces;

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
float widen_bf16(uint16_t bits) { return from_bits(uint32_t{bits} << 16); }
// Exact for all values: a half's exponent is 112 below a float's, and numbers below both stay in proportion.
float widen_half(uint16_t bits) {
  const uint32_t rest = uint32_t(bits & 0x7fff) << 13, sign = uint32_t(bits & 0x8000) << 16;
  const float magnitude =
      (bits & 0x7c00) == 0x7c00 ? from_bits(rest | 0x7f800000) : from_bits(rest) * 0x1p112f;
  return sign ? -magnitude : magnitude;
}

// Row r of a tile whose groups of eight rows are that far apart.
void widen_row(const void* tile, int r, int group_bytes, bool bf16, float (&out)[kDepth]) {
  const char* const from = static_cast<const char*>(tile) + r / 8 * group_bytes + r % 8 * kPieceBytes;
  for (int i = 0; i < kPlaces; ++i) {
    uint16_t place[kPlaceElements];
    std::memcpy(place, from + (i ^ r % kPlaces) * kPlaceBytes, kPlaceBytes);
    float* const to = out + i * kPlaceElements;
    if (bf16)
      for (int e = 0; e < kPlaceElements; ++e) to[e] = widen_bf16(place[e]);
    else
      for (int e = 0; e < kPlaceElements; ++e) to[e] = widen_half(place[e]);
  }
}

struct Call {
  const Products* products;
  float* sum;
  Where at;
};
const Call& call_of(void* const* payloads, int lane) { return *static_cast<const Call*>(payloads[lane]); }

bool same(const Products::Pair& x, const Products::Pair& y) {
  return x.a == y.a && x.b == y.b && x.group_bytes == y.group_bytes;
}
bool same(const Products& x, const Products& y) {
  if (x.columns != y.columns || x.bf16 != y.bf16 || x.started != y.started) return false;
  for (int i = 0; i < x.started; ++i)
    if (!same(x.pairs[i], y.pairs[i])) return false;
  return true;
}

void check_same(void* const* payloads) {
  const Call& first = call_of(payloads, 0);
  for (int l = 1; l < 32; ++l)
    if (!same(*first.products, *call_of(payloads, l).products))
      fail("lanes of one warp have started different products", first.at);
  for (int i = 0; i < first.products->started; ++i) {
    note_products(reinterpret_cast<uintptr_t>(first.products->pairs[i].a));
    note_products(reinterpret_cast<uintptr_t>(first.products->pairs[i].b));
    note_products(uint64_t(first.products->pairs[i].group_bytes));
  }
}

// Four rows of D, of one column.
using Vector = float __attribute__((vector_size(16)));
constexpr int kLanes = 4, kVectors = kWarpRows / kLanes, kColumnsAtOnce = 2;

// A warp's 16 rows of D. It is the hot loop of tests: what it adds to at once stays in registers.
template <int N>
struct Share {
  Vector d[N][kVectors];

  // Calls each(sum, vector, its lane) for each element of D that a lane has.
  template <class F>
  void visit(void* const* payloads, const F& each) {
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < N / 2; ++i) {
        const int row = l / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * (l % 4) + i % 2;
        each(call_of(payloads, l).sum[i], d[column][row / kLanes], row % kLanes);
      }
  }

  void add(const Products::Pair& pair, bool bf16, int first_row) {
    float row[kDepth], b[N][kDepth];
    Vector a[kDepth][kVectors];
    for (int m = 0; m < kWarpRows; ++m) {
      widen_row(pair.a, first_row + m, pair.group_bytes, bf16, row);
      for (int k = 0; k < kDepth; ++k) a[k][m / kLanes][m % kLanes] = row[k];
    }
    for (int n = 0; n < N; ++n) widen_row(pair.b, n, kTileAlignment, bf16, b[n]);
    for (int n = 0; n < N; n += kColumnsAtOnce) {
      Vector sums[kColumnsAtOnce][kVectors];
      std::memcpy(sums, d[n], sizeof sums);
      for (int k = 0; k < kDepth; ++k)
        for (int i = 0; i < kColumnsAtOnce; ++i)
          for (int v = 0; v < kVectors; ++v) sums[i][v] += b[n + i][k] * a[k][v];
      std::memcpy(d[n], sums, sizeof sums);
    }
  }
};

template <int N>
void resolve(void* const* payloads, uint32_t) {
  check_same(payloads);
  const Products& products = *call_of(payloads, 0).products;
  Share<N> share;
  share.visit(payloads, [](float& sum, Vector& rows, int lane) { rows[lane] = sum; });
  for (int i = 0; i < products.started; ++i)
    share.add(products.pairs[i], products.bf16, int(here.warp % 4) * kWarpRows);
  share.visit(payloads, [](float& sum, Vector& rows, int lane) { sum = rows[lane]; });
}

Resolve resolve_for(int columns) {
  switch (columns) {
    case 8: return resolve<8>;
    case 16: return resolve<16>;
    case 32: return resolve<32>;
    default: return resolve<64>;
  }
}

}  // namespace

void multiply_tiles(float* sum, const Products& products, Where at) {
  Call call{&products, sum, at};
  collective(~0u, &call, resolve_for(products.columns), at);
}

}  // namespace simt
