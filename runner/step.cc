#include "runner/step.h"

namespace rondo {

void run_step(Ops& ops, const Model& model, const StepBuffers& buffers, Bucket bucket) {
  ops.embed(bucket);
  for (const Layer& layer : model.layers) {
    ops.qkv(bucket, layer);
    ops.attend(bucket, layer);
    ops.add_project(bucket, buffers.o, layer.o_proj);
    ops.gate_up(bucket, layer);
    ops.add_project(bucket, buffers.h, layer.down_proj);
  }
  ops.logits(bucket);
  ops.sample(bucket);
}

}  // namespace rondo
