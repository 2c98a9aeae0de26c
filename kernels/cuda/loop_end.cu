// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"

namespace rondo::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ bool stops(const LoopSlot& slot, int32_t token) {
  bool found = false;
  for (int i = 0; i < slot.stops; ++i) found |= slot.stop_ids[i] == token;
  return found;
}

// The kernel.
//
// mail[made] = what the step drew; rows of sequences that have ended become padding; the condition says
// whether there is another step. One block of 128 threads, a thread per logit row and turn. The rows were
// moved on by `sample`, and nobody else reads them now.
__global__ void __launch_bounds__(kThreads) loop_end_kernel(const LoopEndArgs a) {
  const int tid = static_cast<int>(threadIdx.x);
  const LoopControl control = *a.control;
  const int64_t step = control.made;
  // Asked by a thread that has no row, mostly, while others work: the answer comes from the host's memory.
  const int unwanted = tid == kThreads - 1 && load_from_host(&a.mail->stop) != 0;
  int live = 0;
  for (int i = tid; i < control.rows; i += kThreads) {
    const Sampled drawn = a.sampled[i];
    a.mail_sampled[step * a.logit_rows_capacity + i] = drawn;
    const int32_t at = a.logit_rows[i];
    const int slot = a.rows[at].slot;
    if (slot == 0) continue;  // ended in an earlier step
    const int left = --a.slots[slot].left;
    const bool goes_on = drawn.status == Sampled::kOk && left > 0 && !stops(a.slots[slot], drawn.token);
    if (!goes_on) a.rows[at] = Row{0, 0, 0, 0};
    live |= goes_on;
  }
  if (control.listed)
    for (int i = tid; i < control.rows * kMaxTopTokens; i += kThreads)
      a.mail_top[step * a.logit_rows_capacity * kMaxTopTokens + i] = a.top[i];
  __threadfence_system();  // before the count that says they are there
  const int any = __syncthreads_or(live);
  const int stopped = __syncthreads_or(unwanted);
  if (tid != 0) return;
  a.control->made = control.made + 1;
  store_for_host(&a.mail->made, static_cast<uint32_t>(control.made + 1));
  set_condition(a.condition, any && !stopped && control.made + 1 < control.steps);
}

}  // namespace

// The launcher.

void prepare_loop_end() { allow_shared(loop_end_kernel, 0); }

void enqueue_loop_end(const LoopEndArgs& args, const Queue& queue) {
  launch(queue, loop_end_kernel, dim3(1), dim3(kThreads), 0, args);
}

}  // namespace rondo::cuda
