// config.json and generation_config.json from any bytes: a config whose every field is in range, or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "buffers/error.h"
#include "runner/checkpoint.h"
#include "runner/model_config.h"
#include "runner/rope.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

void check_config(const rondo::ModelConfig& config) {
  check(config.layers >= 1 && config.sliding_window.size() == static_cast<size_t>(config.layers));
  check(config.heads >= 1 && config.kv_heads >= 1 && config.heads % config.kv_heads == 0);
  check(config.head_dim >= 8 && config.head_dim <= 256 && config.head_dim % 8 == 0);
  check(config.rms_norm_eps > 0 && config.max_position_embeddings >= 1);
  for (const int64_t window : config.sliding_window) check(window >= 0);
  for (const int32_t id : config.eos_token_ids) check(id >= 0 && id < config.vocab_size);
  const rondo::RopeTable table = rondo::make_rope_table(config);
  check(table.inv_freq.size() == static_cast<size_t>(config.head_dim / 2));
  for (const float frequency : table.inv_freq) check(frequency >= 0 && frequency < 1e30f);  // false for NaN
  for (const float frequency : table.long_inv_freq) check(frequency >= 0 && frequency < 1e30f);
  check(table.attention_scaling > 0 && table.attention_scaling < 1e30f);
  for (const rondo::WeightSpec& spec : rondo::expected_weights(config)) {
    for (const int64_t n : spec.shape) check(n >= 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    check_config(rondo::parse_model_config(text, "config.json"));
  } catch (const rondo::Error& error) {
    check(error.kind() == rondo::ErrorKind::InvalidModel);
  }
  rondo::ModelConfig config;
  config.vocab_size = 1000;
  try {
    rondo::parse_generation_config(text, "generation_config.json", config);
  } catch (const rondo::Error& error) {
    check(error.kind() == rondo::ErrorKind::InvalidModel && config.eos_token_ids.empty());
  }
  for (const int32_t id : config.eos_token_ids) check(id >= 0 && id < 1000);
  return 0;
}
