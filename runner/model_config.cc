#include "runner/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "runner/file.h"
#include "runner/json.h"
#include "runner/known_keys.h"
#include "runner/rope_config.h"

namespace rondo {
namespace {

// Far above any model, and low enough that no product of sizes leaves 64 bits: a matrix has less than 2^45
// elements, a model less than 2^61 bytes.
constexpr int64_t kMaxHidden = 1 << 20;
constexpr int64_t kMaxIntermediate = 1 << 24;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxHeadDim = 256;  // the attention kernels' largest
constexpr int64_t kHeadDimStep = 8;   // and their vector width
constexpr double kMinEps = 1e-30;     // a normal float32, with room

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;
constexpr JsonLimits kConfigLimits = {100000, 16384};

// What transformers' configuration class of each family does where config.json is silent.
struct Family {
  std::string_view model_type;
  const char* architecture;
  int64_t kv_heads;  // 0: as many as heads
  int64_t head_dim;  // 0: hidden_size / num_attention_heads
  int64_t max_position_embeddings;
  int32_t eos_token_id;    // -1: none
  bool has_window_switch;  // use_sliding_window, max_window_layers and layer_types choose the layers with a
                           // window
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", 0, 0, 2048, 2, false},
    {"mistral", "MistralForCausalLM", 8, 0, 131072, 2, false},
    {"qwen2", "Qwen2ForCausalLM", 32, 0, 32768, -1, true},
    {"qwen3", "Qwen3ForCausalLM", 32, 128, 32768, -1, true},
};

const Family& read_family(JsonFields& fields) {
  const std::string model_type = fields.string("model_type");
  const Family* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                      [&](const Family& f) { return f.model_type == model_type; });
  if (family == std::end(kFamilies)) fields.refuse_field("model_type", "llama, mistral, qwen2 or qwen3");
  const Json* architectures = fields.find_non_null("architectures");
  if (architectures != nullptr && *architectures != Json::array({family->architecture})) {
    refuse(fields.where() + ": architectures", fmt::format("[\"{}\"]", family->architecture),
           printable(architectures->dump()));
  }
  return *family;
}

DType read_dtype(JsonFields& fields) {
  const Json* old_value = fields.find_non_null("torch_dtype");  // transformers 4
  const Json* value = fields.find_non_null("dtype");
  if (value != nullptr && old_value != nullptr && *value != *old_value) {
    fields.refuse_field("torch_dtype", "the same as dtype");
  }
  const char* key = value != nullptr ? "dtype" : "torch_dtype";
  if (value == nullptr) value = old_value;
  if (value == nullptr) return DType::f32;  // torch's default
  if (*value == "float32") return DType::f32;
  if (*value == "float16") return DType::f16;
  if (*value == "bfloat16") return DType::bf16;
  fields.refuse_field(key, "float32, float16 or bfloat16");
}

void read_heads(JsonFields& fields, const Family& family, ModelConfig& config) {
  config.heads = fields.integer("num_attention_heads", 1, kMaxHeads);
  // transformers takes null for "as many as heads", and absence for the class's own number.
  const bool silent = fields.find("num_key_value_heads") == nullptr;
  const int64_t fallback = silent && family.kv_heads != 0 ? family.kv_heads : config.heads;
  config.kv_heads = fields.integer_or_null("num_key_value_heads", 1, kMaxHeads).value_or(fallback);
  if (config.heads % config.kv_heads != 0) {
    refuse(fields.where() + ": num_key_value_heads",
           fmt::format("a divisor of num_attention_heads ({})", config.heads),
           std::to_string(config.kv_heads),
           silent ? fmt::format("the default of {}", config.model_type) : "");
  }

  const std::string expected =
      fmt::format("a multiple of {} from {} to {}", kHeadDimStep, kHeadDimStep, kMaxHeadDim);
  const bool derived = fields.find_non_null("head_dim") == nullptr && family.head_dim == 0;
  if (derived) {
    if (config.hidden_size % config.heads != 0) {
      fields.refuse_field(
          "num_attention_heads",
          fmt::format("a divisor of hidden_size ({}) where head_dim is not given", config.hidden_size));
    }
    config.head_dim = config.hidden_size / config.heads;
  } else {
    config.head_dim = fields.integer_or_null("head_dim", 1, INT32_MAX).value_or(family.head_dim);
  }
  if (config.head_dim > kMaxHeadDim || config.head_dim % kHeadDimStep != 0) {
    refuse(fields.where() + ": head_dim", expected, std::to_string(config.head_dim),
           derived ? "hidden_size / num_attention_heads, as it is not given" : "");
  }
}

void read_biases(JsonFields& fields, ModelConfig& config) {
  if (config.model_type == "llama" || config.model_type == "qwen3") {
    config.qkv_bias = config.o_bias = fields.boolean_or("attention_bias", false);
  } else if (config.model_type == "qwen2") {
    config.qkv_bias = true;
  } else if (fields.boolean_or("attention_bias", false)) {  // transformers passes over it
    fields.refuse_field("attention_bias", "false for mistral");
  }
  config.mlp_bias = fields.boolean_or("mlp_bias", false);
  if (config.mlp_bias && config.model_type != "llama") fields.refuse_field("mlp_bias", "false unless llama");
  config.qk_norm = config.model_type == "qwen3";
}

void read_windows(JsonFields& fields, const Family& family, ModelConfig& config) {
  const size_t layers = static_cast<size_t>(config.layers);
  config.sliding_window.assign(layers, 0);
  const bool silent = fields.find("sliding_window") == nullptr;
  int64_t window = fields.integer_or_null("sliding_window", 1, kMaxPositions).value_or(0);
  if (silent && family.model_type != "llama") window = 4096;
  if (family.model_type == "llama" && window != 0) fields.refuse_field("sliding_window", "null for llama");
  int64_t first = 0;
  if (family.has_window_switch) {
    if (!fields.boolean_or("use_sliding_window", false)) window = 0;
    first = fields.integer_or("max_window_layers", 0, INT32_MAX, 28);
  }
  if (window != 0) {
    for (size_t i = static_cast<size_t>(std::min(first, config.layers)); i < layers; ++i)
      config.sliding_window[i] = window;
  }

  const Json* types = fields.find_non_null("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || types->size() != layers) {
    fields.refuse_field("layer_types", fmt::format("an array of {} strings (num_hidden_layers)", layers));
  }
  for (size_t i = 0; i < layers; ++i) {
    const Json& type = (*types)[i];
    const std::string where = fmt::format("{}: layer_types[{}]", fields.where(), i);
    const bool slides = type == "sliding_attention";
    if (!slides && type != "full_attention")
      refuse(where, "full_attention or sliding_attention", describe(type));
    if (family.has_window_switch) {
      if (slides && window == 0)
        refuse(where, "full_attention where no sliding_window is in use", describe(type));
      config.sliding_window[i] = slides ? window : 0;
    } else if (slides != (window != 0)) {
      // transformers passes over the list for this family: a list that says otherwise has no defined meaning.
      refuse(where, window != 0 ? "sliding_attention, as sliding_window is set" : "full_attention",
             describe(type));
    }
  }
}

void add_eos_token_ids(const Json& value, const std::string& where, ModelConfig& config) {
  std::vector<int32_t>& ids = config.eos_token_ids;
  const auto add = [&](const Json& id, const std::string& field) {
    ids.push_back(static_cast<int32_t>(json_integer(id, field, 0, config.vocab_size - 1)));
  };
  if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) add(value[i], fmt::format("{}[{}]", where, i));
  } else {
    add(value, where);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

void read_eos(JsonFields& fields, const Family& family, ModelConfig& config) {
  const bool silent = fields.find("eos_token_id") == nullptr;
  if (silent && family.eos_token_id >= 0) {
    add_eos_token_ids(family.eos_token_id, fields.where() + ": eos_token_id (by default)", config);
  }
  if (const Json* ids = fields.find_non_null("eos_token_id")) {
    add_eos_token_ids(*ids, fields.where() + ": eos_token_id", config);
  }
}

}  // namespace

ModelConfig parse_model_config(const std::string& text, const std::string& name) {
  const Json object = read_json_object(text, name, kConfigLimits);
  JsonFields fields(object, name);
  const Family& family = read_family(fields);

  ModelConfig config;
  config.model_type = family.model_type;
  config.dtype = read_dtype(fields);
  // The sizes that make a model have no defaults here, though transformers has some: a file without them is
  // not whole.
  config.vocab_size = fields.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = fields.integer("hidden_size", 1, kMaxHidden);
  config.intermediate_size = fields.integer("intermediate_size", 1, kMaxIntermediate);
  config.layers = fields.integer("num_hidden_layers", 1, kMaxLayers);
  config.max_position_embeddings =
      fields.integer_or("max_position_embeddings", 1, kMaxPositions, family.max_position_embeddings);
  read_heads(fields, family, config);
  config.rms_norm_eps = fields.number_or("rms_norm_eps", kMinEps, 1, 1e-6);
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  if (const Json* act = fields.find("hidden_act"); act != nullptr && *act != "silu") {
    fields.refuse_field("hidden_act", "\"silu\"");
  }
  read_biases(fields, config);
  read_windows(fields, family, config);
  config.rope = read_rope_config(fields, config);
  read_eos(fields, family, config);
  accept_harmless_config_keys(fields);
  fields.refuse_others(
      fmt::format("no {} option that this engine knows; remove it if it changes nothing", config.model_type));
  return config;
}

void parse_generation_config(const std::string& text, const std::string& name, ModelConfig& config) {
  const Json object = read_json_object(text, name, kConfigLimits);
  JsonFields fields(object, name);
  accept_generation_keys(fields);
  const Json* ids = fields.find_non_null("eos_token_id");
  fields.refuse_others("no generation option that this engine knows; remove it if it changes nothing");
  if (ids == nullptr) return;
  ModelConfig with_ids = config;  // a failed call changes nothing
  add_eos_token_ids(*ids, name + ": eos_token_id", with_ids);
  config = std::move(with_ids);
}

ModelConfig load_model_config(const std::string& directory) {
  ModelConfig config = load_model_config_file(directory + "/config.json");
  const std::string generation = directory + "/generation_config.json";
  if (path_exists(generation)) {
    parse_generation_config(read_text_file(generation, kMaxConfigBytes), generation, config);
  }
  return config;
}

ModelConfig load_model_config_file(const std::string& path) {
  return parse_model_config(read_text_file(path, kMaxConfigBytes), path);
}

}  // namespace rondo
