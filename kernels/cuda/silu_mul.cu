// What the kernels need.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 128;

unsigned blocks_for(int64_t columns) {
  return static_cast<unsigned>((columns + 8 * kThreads - 1) / (8 * kThreads));
}

// The kernels: grid [ceil(columns / 1024), R], block 128, 8 elements a thread.

// h = silu(gate) * up, silu(g) = g / (1 + exp(-g)) (Shazeer, "GLU Variants Improve Transformer"), in fp32,
// rounded once. gate_up [R, 2 F]: a row's F gate values, then its F up values; the bias is laid out likewise.
template <class T>
__global__ void __launch_bounds__(kThreads) silu_mul_kernel(const SiluMulArgs a) {
  let_next_start();
  wait_for_previous();
  const int64_t r = blockIdx.y, i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  const int64_t F = a.intermediate_size;
  if (i >= F) return;
  const T* row = static_cast<const T*>(a.gate_up) + r * 2 * F;
  float gate[8], up[8];
  load8(row + i, gate);
  load8(row + F + i, up);
  if (a.bias) {
    float b[8];
    load8(static_cast<const T*>(a.bias) + i, b);
#pragma unroll
    for (int j = 0; j < 8; ++j) gate[j] += b[j];
    load8(static_cast<const T*>(a.bias) + F + i, b);
#pragma unroll
    for (int j = 0; j < 8; ++j) up[j] += b[j];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) gate[j] = gate[j] / (1.0f + expf(-gate[j])) * up[j];
  store8(static_cast<T*>(a.h) + r * F + i, gate);
}

// x[r] += bias, [R, N] in fp32. N need not be a multiple of 8 (a vocabulary), so elements go one by one.
template <class T>
__global__ void __launch_bounds__(kThreads) add_bias_kernel(const AddBiasArgs a) {
  let_next_start();
  wait_for_previous();
  float* row = a.x + blockIdx.y * a.columns;
  const T* bias = static_cast<const T*>(a.bias);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * 8 + threadIdx.x;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int64_t i = first + j * kThreads;
    if (i < a.columns) row[i] += static_cast<float>(bias[i]);
  }
}

}  // namespace

// The launchers.

void enqueue_silu_mul(DType dtype, const SiluMulArgs& args, int rows, Queue& queue) {
  const dim3 grid(blocks_for(args.intermediate_size), static_cast<unsigned>(rows));
  dispatch(dtype, "silu_mul",
           [&]<class T>(T*) { launch(queue, silu_mul_kernel<T>, grid, dim3(kThreads), 0, args); });
}

void enqueue_add_bias(DType dtype, const AddBiasArgs& args, int rows, Queue& queue) {
  const dim3 grid(blocks_for(args.columns), static_cast<unsigned>(rows));
  dispatch(dtype, "add_bias",
           [&]<class T>(T*) { launch(queue, add_bias_kernel<T>, grid, dim3(kThreads), 0, args); });
}

}  // namespace rondo::cuda
