// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 128;

// The kernel.
//
// x[r] = table[rows[r].token], in fp32; history[rows[r].slot] has that token at the row's position.
// Grid [ceil(H / 1024), R], block 128, 8 elements a thread. Padding rows, which all have one place, write none.
template <class T>
__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedArgs a) {
  const int64_t r = blockIdx.y;
  const Row row = a.rows[r];
  if (blockIdx.x == 0 && threadIdx.x == 0 && row.slot != 0)
    a.history[row.slot * a.max_context + row.position] = row.token;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= a.hidden_size) return;
  float values[8];
  load8(static_cast<const T*>(a.table) + row.token * a.hidden_size + i, values);
  store8(a.x + r * a.hidden_size + i, values);
}

}  // namespace

// The launcher.

void enqueue_embed(DType dtype, const EmbedArgs& args, int rows, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.hidden_size + 8 * kThreads - 1) / (8 * kThreads));
  dispatch(dtype, "embed", [&]<class T>(T*) {
    launch(embed_kernel<T>, dim3(blocks, static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, args);
  });
}

}  // namespace rondo::cuda
