// Keys of config.json and generation_config.json that change nothing this engine computes. Internal to
// model_config.cc.
#pragma once

#include <string>

#include "runner/json.h"

namespace rondo {

// Marks as understood the keys of a config.json that are harmless, and checks those that are harmless with
// one value only (is_encoder_decoder: false). Throws InvalidModel naming the field.
void accept_harmless_config_keys(JsonFields& fields);

// The same for generation_config.json: its sampling defaults are not applied by this engine, and all but
// eos_token_id are let pass by name.
void accept_generation_keys(JsonFields& fields);

}  // namespace rondo
