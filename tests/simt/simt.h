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

// Runs the kernel to its end; `body` is one CUDA thread's call. Throws simt::error.
void run(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body);

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

struct BulkCopy {
  void* to;  // shared memory of the block
  const void* from;
  uint32_t bytes;
};
void prepare_landing(const void* word, Where at);
void prepare_landings_done();
// Fails where the copy is one that the hardware refuses, or that would race with another.
void check_bulk_copy(const void* word, uint64_t content, const BulkCopy& copy, Where at);
void start_bulk_copy(const void* word, const BulkCopy& copy, Where at);  // after its check
// Until the landing's use of that parity has landed. Other threads run meanwhile, one of which may start it.
void wait_landed(const void* word, uint64_t content, int parity, Where at);

void* shared(const void* key, size_t bytes);  // the block's static shared variable of that key
void* dynamic_shared();
[[noreturn]] void trap(Where at);
[[noreturn]] void fail(const char* what, Where at);  // ends the launch with an error that says where

}  // namespace simt
