// From a model's config and the caller's options to checked sizes, and to the memory plan that they make.
#pragma once

#include <string>
#include <vector>

#include "buffers/step_buffers.h"
#include "kernels/model.h"
#include "runner/engine.h"
#include "runner/model_config.h"

namespace rondo {

// All sizes of the step. Throws InvalidArgument naming the option, the value found and what is allowed.
// `cuda`: for that backend; `weight_dtype`: of the checkpoint's tensors.
StepDims make_dims(const ModelConfig& config, DType weight_dtype, const EngineOptions& options, bool cuda);

// Where one tensor of a checkpoint goes.
struct WeightSlot {
  std::string name;  // as in the checkpoint: "model.layers.0.mlp.gate_proj.weight"
  View view;
};

struct WeightLayout {
  Model model;                    // its rope holds the tables' views, unfilled; its layers no pages
  std::vector<WeightSlot> slots;  // in the order that they lie in memory
};
WeightLayout lay_out_weights(Layout& layout, const ModelConfig& config, DType weight_dtype);

}  // namespace rondo
