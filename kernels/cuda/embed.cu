// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 128;

// The kernel.
//
// x[r] = table[rows[r].token], in fp32; bit rows[r].token of seen[rows[r].slot] is set.
// Grid [ceil(H / 1024), R], block 128, 8 elements a thread. The bit is set by an integer atomic: two rows of
// a step may belong to one slot, and OR does not mind in which order.
template <class T>
__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedArgs a) {
  const int64_t r = blockIdx.y;
  const Row row = a.rows[r];
  if (blockIdx.x == 0 && threadIdx.x == 0)
    atomicOr(&a.seen[row.slot * a.seen_words + row.token / 32], 1u << (row.token % 32));
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
