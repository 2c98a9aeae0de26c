// The rotary part of a config.json, in the spellings of transformers 4 and 5. Internal to model_config.cc.
#pragma once

#include "runner/json.h"
#include "runner/model_config.h"

namespace rondo {

constexpr int64_t kMaxPositions = INT32_MAX;  // what a config.json may name: struct Row has 32 bits for one

// Reads rope_theta, rope_scaling, rope_parameters, partial_rotary_factor and original_max_position_embeddings
// of a config.json whose sizes are already in `config`. Throws InvalidModel naming the field.
RopeConfig read_rope_config(JsonFields& fields, const ModelConfig& config);

}  // namespace rondo
