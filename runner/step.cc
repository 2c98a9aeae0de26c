#include "runner/step.h"

namespace rondo {

void run_step(Ops& ops, const Model& model, const StepBuffers& buffers, Bucket bucket) {
  ops.embed(bucket);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const Layer& layer = model.layers[i];
    const bool last = i + 1 == model.layers.size();
    ops.qkv(bucket, layer);
    ops.attend(bucket, layer);
    ops.add_project(bucket, buffers.o, layer.o_proj, layer.mlp_norm);
    ops.gate_up(bucket, layer);
    ops.add_project(bucket, buffers.h, layer.down_proj, last ? View{} : model.layers[i + 1].attention_norm);
  }
  ops.logits(bucket);
  ops.sample(bucket);
}

}  // namespace rondo
