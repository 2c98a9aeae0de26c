// The model on one page.
#pragma once

#include "kernels/ops.h"

namespace rondo {

// Enqueues one decode step over the first bucket.rows rows of the input block: what is captured, and what
// runs eagerly.
void run_step(Ops& ops, const Model& model, const StepBuffers& buffers, Bucket bucket);

}  // namespace rondo
