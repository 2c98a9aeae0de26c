// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/rotate.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 128;

// The kernel.
//
// x[r] = table[rows[r].token], in fp32; history[rows[r].slot] has that token at the row's position. The next
// turn becomes this step's. And what all layers would make anew: the angles that RoPE turns the row's pairs
// by, and where its K and V lie in the pages. Padding rows, which all have one place, write none.
// A block per multiprocessor, of 128 threads, 8 elements or an angle a thread and turn.
template <class T>
__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedArgs a) {
  let_next_start();
  wait_for_previous();
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const int32_t turn = a.turns[0];
    a.turns[0] = turn ^ 1;
    a.turns[1] = turn;
  }
  const int64_t pieces = a.hidden_size / 8, pairs = a.head_dim / 2;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < a.rows_in_step * (pieces + pairs); i += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (const int64_t j = i - a.rows_in_step * pieces; j >= 0) {
      const int64_t r = j / pairs;
      const int pair = static_cast<int>(j % pairs);
      const Row row = a.rows[r];
      a.angles[j] = angle(row_rope(a.rope, row, a.slots, a.head_dim), row.position, pair, a.head_dim);
      if (pair == 0) a.places[r] = row.slot == 0 ? -1 : page_place(a.map, row, 0, a.kv_heads);
      continue;
    }
    const int64_t r = i / pieces, column = i % pieces * 8;
    const Row row = a.rows[r];
    if (column == 0 && row.slot != 0) a.history[row.slot * a.max_context + row.position] = row.token;
    float values[8];
    load8(static_cast<const T*>(a.table) + row.token * a.hidden_size + column, values);
    store8(a.x + r * a.hidden_size + column, values);
  }
}

}  // namespace

// The launcher.

void enqueue_embed(DType dtype, const EmbedArgs& args, Queue& queue) {
  dispatch(dtype, "embed",
           [&]<class T>(T*) { launch_spread(queue, embed_kernel<T>, dim3(kThreads), 0, args); });
}

}  // namespace rondo::cuda
