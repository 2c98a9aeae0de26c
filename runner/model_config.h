// What a Hugging Face config.json says, checked: the one place that all sizes come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffers/view.h"

namespace rondo {

// How position turns into angle (transformers/modeling_rope_utils.py).
struct RopeConfig {
  enum class Kind { Default, Linear, Dynamic, Yarn, LongRope, Llama3 };
  Kind kind = Kind::Default;
  double theta = 10000.0;
  double factor = 1.0;
  int64_t original_max_position_embeddings = 0;  // 0: as max_position_embeddings
  // llama3
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // yarn
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 0.0;          // 0: absent
  double mscale_all_dim = 0.0;  // 0: absent
  bool truncate = true;
  // yarn and longrope; 0: absent, then the kind's formula
  double attention_factor = 0.0;
  // longrope, each head_dim / 2 long
  std::vector<double> short_factor;
  std::vector<double> long_factor;
};

// Tensor sizes are 64-bit and in elements. Every field has passed validation once a ModelConfig exists.
struct ModelConfig {
  std::string model_type;  // llama, mistral, qwen2, qwen3
  DType dtype = DType::bf16;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // q_proj.bias, k_proj.bias, v_proj.bias
  bool o_bias = false;    // o_proj.bias (llama with attention_bias)
  bool mlp_bias = false;  // gate_proj, up_proj and down_proj.bias (llama with mlp_bias)
  bool qk_norm = false;   // q_norm.weight, k_norm.weight of head_dim each
  // Positions a row of layer i may look back on, its own included; 0: all of them. One entry per layer.
  std::vector<int64_t> sliding_window;
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;  // config.json's and generation_config.json's, united, sorted

  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Reads and checks a config.json. `text` is the file's content, `name` is used in messages. Throws
// InvalidModel, naming the field, the value found and what was expected; a field that is present and not
// understood is refused by name.
ModelConfig parse_model_config(const std::string& text, const std::string& name);

// Adds eos_token_id of a generation_config.json. Throws InvalidModel as above.
void parse_generation_config(const std::string& text, const std::string& name, ModelConfig& config);

// Reads DIR/config.json and, where there is one, DIR/generation_config.json.
ModelConfig load_model_config(const std::string& directory);

// Reads one config.json by path.
ModelConfig load_model_config_file(const std::string& path);

}  // namespace rondo
