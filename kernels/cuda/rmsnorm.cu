// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 256;

// The kernel.
//
// out[r] = x[g] / sqrt(mean(x[g]^2) + eps) * weight, g = gather[r] or r (Zhang and Sennrich, "Root Mean
// Square Layer Normalization"). All in fp32 and rounded to T once. A block of 256 for each row, and one for
// each multiprocessor at least, 8 elements a thread and turn. x is read twice, the second time out of L1.
template <class T>
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(const RmsNormArgs a) {
  RONDO_SHARED(scratch, float[32]);
  let_next_start();
  wait_for_previous();
  const int64_t r = blockIdx.x;
  if (r >= a.rows) return;
  const int64_t source = a.gather ? a.gather[r] : r;
  const float* x = a.x + source * a.hidden_size;
  T* out = static_cast<T*>(a.out) + r * a.hidden_size;

  float sum = 0;
  for (int64_t i = threadIdx.x * 8; i < a.hidden_size; i += kThreads * 8) {
    float v[8];
    load8(x + i, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += v[j] * v[j];
  }
  sum = block_reduce(sum, scratch, 0.0f, Add());
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(a.hidden_size) + a.eps);

  for (int64_t i = threadIdx.x * 8; i < a.hidden_size; i += kThreads * 8) {
    float v[8], w[8];
    load8(x + i, v);
    load8(static_cast<const T*>(a.weight) + i, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = v[j] * factor * w[j];
    store8(out + i, v);
  }
}

}  // namespace

// The launcher.

void enqueue_rmsnorm(DType dtype, const RmsNormArgs& args, Queue& queue) {
  dispatch(dtype, "rmsnorm", [&]<class T>(T*) {
    if (args.rows <= queue.multiprocessors)
      launch_spread(queue, rmsnorm_kernel<T>, dim3(kThreads), 0, args);
    else
      launch(queue, rmsnorm_kernel<T>, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), 0, args);
  });
}

}  // namespace rondo::cuda
