// Runs CUDA kernels on the host, in tests: one fiber per CUDA thread, one block at a time. This header is the
// executor's interface; device.h is what a kernel's own text sees of it. README.md says what it catches and
// what it cannot.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

// The built-in variables. Not macros: host code beside a kernel has members of these names
// (cudaKernelNodeParams).
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

namespace simt {

// A kernel did what no kernel may: the message names the block, the thread and the line.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- for tests

// The order in which a block's threads run, and run on after a barrier. A kernel whose result depends on it
// is wrong.
enum class Order { forward, reverse, random };

struct Options {
  Order order = Order::forward;
  uint64_t seed = 1;          // for Order::random
  bool poison_shared = true;  // shared memory is NaN at the start of each block
};

// For every launch that starts afterwards, in whichever thread. Thread-safe.
void set_options(const Options& options);
Options options();

// ---- for the runtime's stand-in

enum class LaunchProblem { none, configuration, shared_memory };

// What is wrong with a launch before it starts: block over 1024 threads or grid out of range; dynamic shared
// memory over the kernel's limit.
LaunchProblem check_launch(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared);

// Runs the kernel to its end; `body` is one CUDA thread's call. Blocks come in the order of the options, or
// `in_order`, by their index. Throws simt::error.
void run(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body,
         bool in_order = false);

constexpr size_t kMaxSharedBytes = 227 * 1024;     // a block's most, after opting in
constexpr size_t kDefaultSharedBytes = 48 * 1024;  // without opting in

// cudaFuncAttributeMaxDynamicSharedMemorySize of one kernel. Thread-safe.
void set_dynamic_shared_limit(const void* kernel, size_t bytes);
size_t dynamic_shared_limit(const void* kernel);

// ---- for device.h

struct Where {
  const char* file;
  unsigned line;
  static constexpr Where current(const char* f = __builtin_FILE(), unsigned l = __builtin_LINE()) {
    return {f, l};
  }
};

// The CUDA thread that is running, besides its indices.
struct Here {
  unsigned lane, warp;
};
inline thread_local Here here;

// Waits for every thread of the block; returns for how many of them the predicate was true.
int barrier(int predicate, Where at);

// Waits for the lanes of `mask`; the last to arrive runs `resolve` over all payloads (null for lanes outside
// the mask).
using Resolve = void (*)(void* const* payloads, uint32_t mask);
void collective(uint32_t mask, void* payload, Resolve resolve, Where at);
// Whole warps. Lane 8 m + i gives row i of matrix m, four words; lane l gets word l % 4 of row l / 4 of each
// matrix, or, transposed, the two 16-bit elements 2 (l % 4) and the next of column l / 4.
void load_matrices(const uint32_t (&row)[4], uint32_t (&words)[4], Where at);
void load_matrices_transposed(const uint32_t (&row)[4], uint32_t (&words)[4], Where at);
// d += a b, 16 x 16 by 16 x 8; fragments as PTX's mma.m16n8k16 has them, widened to fp32.
void multiply_matrices(float (&d)[4], const float (&a)[8], const float (&b)[4], Where at);

void shuffle(uint32_t mask, const void* in, void* out, size_t bytes, int source_lane, Where at);
uint32_t ballot(uint32_t mask, int predicate, Where at);
uint32_t match_any(uint32_t mask, uint64_t value, Where at);
enum class Reduce { add, min_signed, min_unsigned, max_signed, max_unsigned, bit_and, bit_or, bit_xor };
uint32_t reduce(uint32_t mask, uint32_t value, Reduce op, Where at);

// A landing's word holds this from its preparation on. The dialect writes and reads it, so that
// ThreadSanitizer sees a landing that is used without a barrier behind its preparation; what the hardware
// keeps in the word lies in the executor.
constexpr uint64_t kPreparedLanding = 0x1A2D196A11C0DE5Aull;

// An array of pieces of 128 bytes as the copy engine knows it, and the box that one copy takes of it,
// innermost dimension first. Strides are in bytes.
struct Tiles {
  const void* base;
  int64_t size[4], stride[4];
  int box[4];
};

// Contiguous bytes, or a tile: the box whose first piece is at `corner`. Its pieces lie one after the other;
// the 16 bytes at place i of piece p at place i ^ p % 8. Pieces outside the array come as zeros.
struct BulkCopy {
  void* to;  // shared memory of the block
  const void* from;
  uint32_t bytes;
  Tiles tiles{};  // without a base where it is no tile
  int corner[4] = {};
};
constexpr size_t kTileAlignment = 1024, kPieceBytes = 128;

// Calls visit(p, from) for each piece of a tile; `from` is null outside the array. A template, so that files
// that a sanitizer watches and the executor have each their own.
template <class F>
void visit_pieces(const Tiles& tiles, const int (&corner)[4], const F& visit) {
  int p = 0, at[4] = {};
  for (at[3] = 0; at[3] < tiles.box[3]; ++at[3])
    for (at[2] = 0; at[2] < tiles.box[2]; ++at[2])
      for (at[1] = 0; at[1] < tiles.box[1]; ++at[1])
        for (at[0] = 0; at[0] < tiles.box[0]; ++at[0]) {
          bool inside = true;
          int64_t offset = 0;
          for (int i = 0; i < 4; ++i) {
            const int64_t place = int64_t{corner[i]} + at[i];
            inside = inside && place >= 0 && place < tiles.size[i];
            offset += place * tiles.stride[i];
          }
          visit(p++, inside ? static_cast<const char*>(tiles.base) + offset : nullptr);
        }
}

// A use of a landing is over when `arrivals` arrivals have been made and the bytes that they announced have
// landed.
void prepare_landing(const void* word, int arrivals, Where at);
void prepare_landings_done();
// One arrival, which announces copies of that many bytes.
void arrive(const void* word, uint64_t content, uint32_t bytes, Where at);
// Fails where the copy is one that the hardware refuses, or that would race with another.
void check_bulk_copy(const void* word, uint64_t content, const BulkCopy& copy, Where at);
void start_bulk_copy(const void* word, const BulkCopy& copy, Where at);  // after its check
// Until the landing's use of that parity has landed. Other threads run meanwhile, which may complete it.
void wait_landed(const void* word, uint64_t content, int parity, Where at);

// What a thread of a warpgroup has started: products of tiles that lie in shared memory as copies leave them,
// D (64 x columns) += A (64 x 64) B^T each. A's groups of eight rows are `group_bytes` apart.
struct Products {
  static constexpr int kMost = 32;
  struct Pair {
    const void *a, *b;
    int group_bytes;
  };
  int columns;
  bool bf16;  // else fp16
  int started = 0;
  Pair pairs[kMost] = {};
  Where last{};
};
void check_product_tile(const void* tile, size_t bytes, Where at);
// Whole warps: adds all of them, which read the tiles now, to the thread's share of D, `columns` / 2 sums.
void multiply_tiles(float* sum, const Products& products, Where at);
// To the executor: what the running thread's warp has multiplied, in a number. It compares a warpgroup's.
void note_products(uint64_t number);

void* shared(const void* key, size_t bytes);  // the block's static shared variable of that key
void* dynamic_shared();
[[noreturn]] void trap(Where at);
[[noreturn]] void fail(const char* what, Where at);  // ends the launch with an error that says where

}  // namespace simt
