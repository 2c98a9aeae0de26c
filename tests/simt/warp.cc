// Shuffles, votes and reductions: what the last lane to arrive computes for all. Part of the executor, and
// like it never built with -fsanitize=thread: lanes read each other's registers here.
#include <cstdlib>
#include <cstring>

#include "tests/simt/simt.h"

namespace simt {
namespace {

struct ShuffleCall {
  uint64_t in, out;
  int source;
};
void resolve_shuffle(void* const* payloads, uint32_t mask) {
  auto call = [&](int l) -> ShuffleCall& { return *static_cast<ShuffleCall*>(payloads[l]); };
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    const int source = call(l).source;
    call(l).out = mask >> source & 1 ? call(source).in : ~0ull;  // undefined on the device: NaN here
  }
}

// memcpy() of a size that is known is a move.
void copy(void* to, const void* from, size_t bytes) {
  if (bytes == 4)
    std::memcpy(to, from, 4);
  else if (bytes == 8)
    std::memcpy(to, from, 8);
  else
    std::memcpy(to, from, bytes);
}

struct VoteCall {
  uint64_t in;
  uint32_t out;
  Reduce op;
};
VoteCall& vote(void* const* payloads, int lane) { return *static_cast<VoteCall*>(payloads[lane]); }

void resolve_ballot(void* const* payloads, uint32_t mask) {
  uint32_t bits = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1 && vote(payloads, l).in) bits |= 1u << l;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) vote(payloads, l).out = bits;
}
void resolve_match(void* const* payloads, uint32_t mask) {
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    uint32_t same = 0;
    for (int o = 0; o < 32; ++o)
      if (mask >> o & 1 && vote(payloads, o).in == vote(payloads, l).in) same |= 1u << o;
    vote(payloads, l).out = same;
  }
}

uint32_t combine(uint32_t a, uint32_t b, Reduce op) {
  switch (op) {
    case Reduce::add: return a + b;
    case Reduce::min_signed: return int32_t(a) < int32_t(b) ? a : b;
    case Reduce::min_unsigned: return a < b ? a : b;
    case Reduce::max_signed: return int32_t(a) > int32_t(b) ? a : b;
    case Reduce::max_unsigned: return a > b ? a : b;
    case Reduce::bit_and: return a & b;
    case Reduce::bit_or: return a | b;
    case Reduce::bit_xor: return a ^ b;
  }
  std::abort();
}
void resolve_reduce(void* const* payloads, uint32_t mask) {
  const int first = __builtin_ctz(mask);
  uint32_t value = uint32_t(vote(payloads, first).in);
  for (int l = first + 1; l < 32; ++l)
    if (mask >> l & 1) value = combine(value, uint32_t(vote(payloads, l).in), vote(payloads, first).op);
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) vote(payloads, l).out = value;
}

struct MatrixRows {
  const uint32_t* row;
  uint32_t* words;
};
const uint32_t* matrix_row(void* const* payloads, int matrix, int row) {
  return static_cast<MatrixRows*>(payloads[8 * matrix + row])->row;
}
void resolve_load(void* const* payloads, uint32_t) {
  for (int l = 0; l < 32; ++l)
    for (int m = 0; m < 4; ++m)
      static_cast<MatrixRows*>(payloads[l])->words[m] = matrix_row(payloads, m, l / 4)[l % 4];
}
void resolve_load_transposed(void* const* payloads, uint32_t) {
  for (int l = 0; l < 32; ++l)
    for (int m = 0; m < 4; ++m) {
      const int column = l / 4, row = 2 * (l % 4);
      const auto element = [&](int r) { return matrix_row(payloads, m, r)[column / 2] >> 16 * (column % 2); };
      static_cast<MatrixRows*>(payloads[l])->words[m] = (element(row) & 0xffff) | element(row + 1) << 16;
    }
}

struct Fragments {
  float* d;
  const float *a, *b;
};
void resolve_multiply(void* const* payloads, uint32_t) {
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; ++l) {
    const auto* own = static_cast<const Fragments*>(payloads[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 8; ++i) a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = own->a[i];
    for (int i = 0; i < 4; ++i) b[2 * t + i % 2 + 8 * (i / 2)][g] = own->b[i];
  }
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[l / 4 + 8 * (i / 2)][k] * b[k][2 * (l % 4) + i % 2];
      static_cast<Fragments*>(payloads[l])->d[i] += sum;
    }
}

}  // namespace

void load_matrices(const uint32_t (&row)[4], uint32_t (&words)[4], Where at) {
  MatrixRows call{row, words};
  collective(~0u, &call, resolve_load, at);
}
void load_matrices_transposed(const uint32_t (&row)[4], uint32_t (&words)[4], Where at) {
  MatrixRows call{row, words};
  collective(~0u, &call, resolve_load_transposed, at);
}
void multiply_matrices(float (&d)[4], const float (&a)[8], const float (&b)[4], Where at) {
  Fragments call{d, a, b};
  collective(~0u, &call, resolve_multiply, at);
}

void shuffle(uint32_t mask, const void* in, void* out, size_t bytes, int source_lane, Where at) {
  ShuffleCall call{0, 0, source_lane};
  copy(&call.in, in, bytes);
  collective(mask, &call, resolve_shuffle, at);
  copy(out, &call.out, bytes);
}
uint32_t ballot(uint32_t mask, int predicate, Where at) {
  VoteCall call{predicate != 0, 0, Reduce::add};
  collective(mask, &call, resolve_ballot, at);
  return call.out;
}
uint32_t match_any(uint32_t mask, uint64_t value, Where at) {
  VoteCall call{value, 0, Reduce::add};
  collective(mask, &call, resolve_match, at);
  return call.out;
}
uint32_t reduce(uint32_t mask, uint32_t value, Reduce op, Where at) {
  VoteCall call{value, 0, op};
  collective(mask, &call, resolve_reduce, at);
  return call.out;
}

}  // namespace simt
