// The loops that are worth SIMD, as plain functions: Highway compiles each, but for multiply_pairs.cc, for
// several instruction sets and picks one when the program runs. Weights and K/V are f32, f16 or bf16 and are
// widened on load; sums are fp32.
//
// Every result is a sum in one order that depends on its length (and on the machine's instructions) only. No
// tile size, number of rows, or number of threads enters, so a row's bits are the same whatever else is in
// the step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "buffers/view.h"

namespace rondo {

// y[r, n] = sum_k x[r, k] weight[n, k] (+ bias[n]), or y += that.
struct Product {
  const float* x = nullptr;           // [rows, in], `x_stride` elements from row to row
  const uint16_t* rounded = nullptr;  // x as bf16, in place of x, for bf16 weights where has_pairs()
  size_t x_stride = 0;
  size_t rows = 0;
  View weight;         // [out, in]
  View bias;           // [out] or absent
  float* y = nullptr;  // [rows, out], `y_stride` floats from row to row
  size_t y_stride = 0;
  bool add = false;
};

// Outputs n in [begin, end) of all rows. Threads share a product by ranges that start at multiples of
// kProductGroup. `scratch` is the thread's own, multiply_scratch_floats() of them.
//
// A sum runs in chunks of kProductChunk elements of k. Within a chunk one accumulator of vector width runs
// along k from zero, then its lanes are added; the chunks' sums are added in order, then the bias.
constexpr int64_t kProductGroup = 4;
constexpr int64_t kProductPiece = 32;  // groups of which products are made together: a piece has whole such
constexpr size_t kProductChunk = 512;
size_t multiply_scratch_floats();
void multiply(const Product& product, size_t begin, size_t end, float* scratch);

// What multiply() chooses from: many rows by blocks, few by streams.
constexpr size_t kStreamedRows = 3;
void multiply_blocks(const Product& product, size_t begin, size_t end, float* scratch);
void multiply_streams(const Product& product, size_t begin, size_t end);
// And where x is rounded, by an instruction that adds two products to a sum, in chunks and an order of its
// own.
void multiply_pairs(const Product& product, size_t begin, size_t end, float* scratch);
size_t blocks_scratch_floats();
size_t pairs_scratch_floats();

// Whether this CPU multiplies pairs of bf16 (AVX512_BF16).
bool has_pairs();
// y[i] = x[i] rounded to bf16, n elements; has_pairs() alone.
void round_to_bf16(const float* x, size_t n, uint16_t* y);

// y = x / sqrt(mean(x^2) + eps) * weight, n elements.
void rms_norm(const float* x, const View& weight, float eps, size_t n, float* y);

// h = silu(gate) * up, n elements.
void silu_multiply(const float* gate, const float* up, size_t n, float* h);

// y[i] = the `offset + i`-th element of a weight, n elements.
void widen(const View& weight, size_t offset, size_t n, float* y);

struct LogitStats {
  float max = 0;
  double log_sum = 0;  // log(sum exp(logit - max))
  bool ok = false;     // no NaN, no +inf, and at least one finite; else the others mean nothing
};
LogitStats logit_stats(const float* logits, size_t n);

// One row's query heads that share a K/V head, over positions begin .. end - 1.
struct HeadGroup {
  const float* q = nullptr;  // [group, head_dim]
  float* o = nullptr;        // [group, head_dim]
  size_t group = 0;
  size_t head_dim = 0;
  float scale = 1;
  DType dtype = DType::f32;  // of the pages
  const void* k = nullptr;   // the layer's pages
  const void* v = nullptr;
  size_t page_stride = 0;  // elements from page to page
  size_t head_offset = 0;  // elements from a page's start to this K/V head's
  size_t page_size = 0;    // positions, a power of two
  const int32_t* page_table = nullptr;
  size_t begin = 0;
  size_t end = 0;
  float* scratch = nullptr;  // attend_scratch_floats(group)
};
size_t attend_scratch_floats(size_t group);
void attend_group(const HeadGroup& heads);

// "AVX2", ...: what the loops run as on this machine.
const char* simd_name();

}  // namespace rondo
