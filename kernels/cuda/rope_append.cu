// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/rope_append_head.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 8;

// The kernel: rope_append_head() for every head of every row. A block per multiprocessor, of 256 threads; a
// warp takes heads of rows in turn.
template <class T>
__global__ void __launch_bounds__(32 * kWarps) rope_append_kernel(const RopeAppendArgs a) {
  let_next_start();
  wait_for_previous();
  const int heads = a.heads + 2 * a.kv_heads;
  for (int task =
           static_cast<int>(threadIdx.x) / 32 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
       task < a.rows_in_step * heads; task += kWarps * static_cast<int>(gridDim.x))
    rope_append_head<T>(a, task / heads, task % heads);
}

}  // namespace

// The launcher.

void enqueue_rope_append(DType dtype, const RopeAppendArgs& args, Queue& queue) {
  dispatch(dtype, "rope_append",
           [&]<class T>(T*) { launch_spread(queue, rope_append_kernel<T>, dim3(32 * kWarps), 0, args); });
}

}  // namespace rondo::cuda
