// What config.json and generation_config.json may say, in the spellings of transformers 4 and 5, and what is
// refused by name. Malformed files are in bad_files_test.cc.
#include "runner/model_config.h"

#include <gtest/gtest.h>

#include "buffers/error.h"
#include "tests/model_files.h"

namespace rondo {
namespace {

using testing_files::replaced;
using testing_files::TempDir;
using testing_files::write_file;

// A model of 4 layers, 4 heads of 16, with `more` members added.
std::string config_text(const std::string& model_type, const std::string& more = "") {
  return R"({"model_type": ")" + model_type +
         R"(", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 4, "num_attention_heads": 4)" +
         (more.empty() ? "" : ", " + more) + "}";
}

ModelConfig parse(const std::string& model_type, const std::string& more = "") {
  return parse_model_config(config_text(model_type, more), "config.json");
}

ModelConfig llama(const std::string& more = "") { return parse("llama", more); }

// What a refusal says, or "accepted".
std::string refusal(const std::string& model_type, const std::string& more) {
  try {
    parse(model_type, more);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::InvalidModel);
    return error.what();
  }
  return "accepted";
}

// Expects that `more` is refused in a message with the file's name and each of `parts`.
void expect_refused(const std::string& model_type, const std::string& more,
                    const std::vector<std::string>& parts) {
  const std::string message = refusal(model_type, more);
  EXPECT_EQ(message.substr(0, 13), "config.json: ") << message;
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), message.npos) << part << "\nin: " << message;
}

using Windows = std::vector<int64_t>;

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  const ModelConfig a = llama();
  EXPECT_EQ(a.kv_heads, 4);
  EXPECT_EQ(a.head_dim, 16);
  EXPECT_EQ(a.max_position_embeddings, 2048);
  EXPECT_EQ(a.rms_norm_eps, 1e-6);
  EXPECT_EQ(a.rope.theta, 10000);
  EXPECT_EQ(a.rope.kind, RopeConfig::Kind::Default);
  EXPECT_EQ(a.dtype, DType::f32);
  EXPECT_FALSE(a.tie_word_embeddings || a.qkv_bias || a.o_bias || a.mlp_bias || a.qk_norm);
  EXPECT_EQ(a.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(a.sliding_window, Windows(4, 0));

  const ModelConfig mistral = parse("mistral", R"("num_key_value_heads": 2)");
  EXPECT_EQ(mistral.max_position_embeddings, 131072);
  EXPECT_EQ(mistral.sliding_window, Windows(4, 4096));
  EXPECT_FALSE(mistral.qkv_bias);

  const ModelConfig qwen2 = parse("qwen2", R"("num_key_value_heads": 2)");
  EXPECT_EQ(qwen2.max_position_embeddings, 32768);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  EXPECT_EQ(qwen2.sliding_window, Windows(4, 0));
  EXPECT_TRUE(qwen2.eos_token_ids.empty());

  const ModelConfig qwen3 = parse("qwen3", R"("num_key_value_heads": 2)");
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
}

TEST(ModelConfig, KeyValueHeadsThatAreAbsentAreTheClassesOwnAndNullIsAsManyAsHeads) {
  EXPECT_EQ(parse("mistral", R"("num_key_value_heads": null)").kv_heads, 4);
  EXPECT_EQ(parse("qwen3", R"("num_key_value_heads": null)").kv_heads, 4);
  expect_refused("mistral", R"("rms_norm_eps": 1e-6)",
                 {"num_key_value_heads", "found 8", "default of mistral"});
  expect_refused("qwen2", R"("rms_norm_eps": 1e-6)", {"num_key_value_heads", "found 32"});
}

TEST(ModelConfig, ExplicitHeadDimStandsAboveHiddenOverHeads) {
  const ModelConfig config = parse("qwen3", R"("head_dim": 128, "num_key_value_heads": 2)");
  EXPECT_EQ(config.q_size(), 512);
  EXPECT_EQ(config.kv_size(), 256);
  EXPECT_EQ(config.qkv_size(), 1024);
  EXPECT_EQ(llama(R"("head_dim": null)").head_dim, 16);
  EXPECT_EQ(parse_model_config(
                replaced(config_text("llama", R"("head_dim": 24)"), "_heads\": 4", "_heads\": 3"), "c")
                .head_dim,
            24);
}

TEST(ModelConfig, DtypeInBothSpellings) {
  EXPECT_EQ(llama(R"("torch_dtype": "bfloat16")").dtype, DType::bf16);
  EXPECT_EQ(llama(R"("dtype": "float16")").dtype, DType::f16);
  EXPECT_EQ(llama(R"("dtype": null, "torch_dtype": "float16")").dtype, DType::f16);
  EXPECT_EQ(llama(R"("dtype": "float32", "torch_dtype": "float32")").dtype, DType::f32);
  expect_refused("llama", R"("dtype": "float32", "torch_dtype": "float16")", {"torch_dtype", "float16"});
  expect_refused("llama", R"("dtype": "float64")", {"dtype", "float64", "bfloat16"});
  expect_refused("llama", R"("torch_dtype": 16)", {"torch_dtype", "16"});
}

TEST(ModelConfig, BiasesByFamily) {
  const ModelConfig a = llama(R"("attention_bias": true, "mlp_bias": true)");
  EXPECT_TRUE(a.qkv_bias && a.o_bias && a.mlp_bias);
  const ModelConfig b = parse("qwen3", R"("attention_bias": true, "num_key_value_heads": 4)");
  EXPECT_TRUE(b.qkv_bias && b.o_bias && !b.mlp_bias);
  expect_refused("qwen3", R"("mlp_bias": true, "num_key_value_heads": 4)", {"mlp_bias"});
  expect_refused("mistral", R"("attention_bias": true, "num_key_value_heads": 4)", {"attention_bias"});
  expect_refused("qwen2", R"("attention_bias": false, "num_key_value_heads": 4)", {"attention_bias"});
  expect_refused("llama", R"("attention_bias": 1)", {"attention_bias", "true or false"});
}

TEST(ModelConfig, WindowOfMistralIsEveryLayersOrNone) {
  const std::string kv = R"("num_key_value_heads": 4, )";
  EXPECT_EQ(parse("mistral", kv + R"("sliding_window": 7)").sliding_window, Windows(4, 7));
  EXPECT_EQ(parse("mistral", kv + R"("sliding_window": null)").sliding_window, Windows(4, 0));
  expect_refused("mistral", kv + R"("sliding_window": 0)", {"sliding_window", "found 0"});
  expect_refused("mistral", kv + R"("use_sliding_window": false)", {"use_sliding_window"});
  expect_refused("mistral", kv + R"("sliding_window": 7, "layer_types": ["full_attention", "full_attention",
                 "full_attention", "full_attention"])",
                 {"layer_types[0]", "sliding_attention"});
  expect_refused("llama", R"("sliding_window": 7)", {"sliding_window", "null"});
  EXPECT_EQ(llama(R"("sliding_window": null)").sliding_window, Windows(4, 0));
}

TEST(ModelConfig, WindowOfQwenIsChosenByTheSwitchAndTheLayers) {
  const std::string kv = R"("num_key_value_heads": 4, "head_dim": 16, )";
  for (const char* family : {"qwen2", "qwen3"}) {
    const auto windows = [&](const std::string& more) { return parse(family, kv + more).sliding_window; };
    EXPECT_EQ(windows(R"("sliding_window": 9, "max_window_layers": 2)"), Windows(4, 0))
        << "the switch is off by default";
    EXPECT_EQ(windows(R"("sliding_window": 9, "use_sliding_window": false, "max_window_layers": 2)"),
              Windows(4, 0));
    EXPECT_EQ(windows(R"("sliding_window": 9, "use_sliding_window": true, "max_window_layers": 3)"),
              (Windows{0, 0, 0, 9}));
    EXPECT_EQ(windows(R"("sliding_window": 9, "use_sliding_window": true, "max_window_layers": 0)"),
              Windows(4, 9));
    EXPECT_EQ(windows(R"("sliding_window": 9, "use_sliding_window": true)"), Windows(4, 0))
        << "28 layers stay full";
    EXPECT_EQ(windows(R"("use_sliding_window": true, "max_window_layers": 3)"), (Windows{0, 0, 0, 4096}));
    EXPECT_EQ(windows(R"("sliding_window": null, "use_sliding_window": true, "max_window_layers": 0)"),
              Windows(4, 0));
    EXPECT_EQ(windows(R"("sliding_window": 9, "use_sliding_window": true, "layer_types": ["sliding_attention",
                      "full_attention", "sliding_attention", "full_attention"])"),
              (Windows{9, 0, 9, 0}));
    expect_refused(family, kv + R"("layer_types": ["full_attention"])", {"layer_types", "array of 4"});
    expect_refused(
        family,
        kv + R"("layer_types": ["full_attention", "full_attention", "full_attention", "linear_attention"])",
        {"layer_types[3]", "linear_attention"});
    expect_refused(
        family,
        kv + R"("layer_types": ["full_attention", "full_attention", "full_attention", "sliding_attention"])",
        {"layer_types[3]", "no sliding_window"});
  }
}

TEST(ModelConfig, RopeOfTransformers4) {
  EXPECT_EQ(llama(R"("rope_theta": 500000, "rope_scaling": null)").rope.theta, 500000);
  const RopeConfig linear =
      llama(R"("rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4})").rope;
  EXPECT_EQ(linear.kind, RopeConfig::Kind::Linear);
  EXPECT_EQ(linear.factor, 4);
  EXPECT_EQ(linear.theta, 1e6);
  const RopeConfig both =
      llama(R"("rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.5})").rope;
  EXPECT_EQ(both.kind, RopeConfig::Kind::Dynamic);
  expect_refused("llama", R"("rope_scaling": {"type": "dynamic", "rope_type": "linear", "factor": 2.0})",
                 {"rope_scaling: type", "dynamic"});
}

TEST(ModelConfig, RopeOfTransformers5) {
  const RopeConfig llama3 =
      llama(R"("rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
      "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024})")
          .rope;
  EXPECT_EQ(llama3.kind, RopeConfig::Kind::Llama3);
  EXPECT_EQ(llama3.theta, 500000);
  EXPECT_EQ(llama3.original_max_position_embeddings, 1024);
  EXPECT_EQ(llama3.high_freq_factor, 4);
  EXPECT_EQ(llama(R"("rope_parameters": {"rope_type": "default"})").rope.theta, 10000);
  EXPECT_EQ(llama(R"("rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000})").rope.theta, 500000);
  expect_refused("llama", R"("rope_theta": 1e6, "rope_parameters": {"rope_theta": 500000})",
                 {"rope_theta", "500000"});
  expect_refused("llama",
                 R"("rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default"})",
                 {"rope_scaling", "rope_parameters"});
}

TEST(ModelConfig, RopeOfYarnAndLongrope) {
  const RopeConfig yarn =
      llama(R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2,
      "mscale": 0.7, "mscale_all_dim": 0.8, "truncate": false, "attention_factor": 1.25})")
          .rope;
  EXPECT_EQ(yarn.kind, RopeConfig::Kind::Yarn);
  EXPECT_EQ(yarn.original_max_position_embeddings, 2048) << "max_position_embeddings where none is given";
  EXPECT_EQ(yarn.beta_fast, 16);
  EXPECT_EQ(yarn.mscale_all_dim, 0.8);
  EXPECT_EQ(yarn.attention_factor, 1.25);
  EXPECT_FALSE(yarn.truncate);

  const std::string factors = R"("short_factor": [1,1,1,1,1,1,1,1], "long_factor": [1,2,3,4,5,6,7,8.5])";
  const RopeConfig longrope = llama(R"("original_max_position_embeddings": 512,
      "rope_scaling": {"type": "longrope", )" +
                                    factors + "}")
                                  .rope;
  EXPECT_EQ(longrope.kind, RopeConfig::Kind::LongRope);
  EXPECT_EQ(longrope.original_max_position_embeddings, 512);
  EXPECT_EQ(longrope.factor, 4) << "2048 / 512";
  EXPECT_EQ(longrope.long_factor[7], 8.5);
  expect_refused("llama",
                 R"("original_max_position_embeddings": 512, "rope_scaling": {"type": "longrope",
                 "original_max_position_embeddings": 256, )" +
                     factors + "}",
                 {"original_max_position_embeddings", "256", "512"});
  expect_refused("llama",
                 R"("rope_scaling": {"type": "longrope", "short_factor": [1,1], "long_factor": [1,1]})",
                 {"rope_scaling: short_factor", "array of 8 numbers", "array of 2"});
  expect_refused(
      "llama",
      R"("rope_scaling": {"type": "longrope", "short_factor": [1,1,1,1,1,1,1,0], "long_factor": []})",
      {"short_factor[7]", "found 0"});
}

TEST(ModelConfig, RopeThatIsNotUnderstoodIsRefusedByName) {
  expect_refused("llama", R"("rope_scaling": {"rope_type": "su", "factor": 2.0})",
                 {"rope_scaling: rope_type", "\"su\""});
  expect_refused("llama", R"("rope_scaling": {"type": "linear"})", {"rope_scaling: factor", "nothing"});
  expect_refused("llama", R"("rope_scaling": {"type": "linear", "factor": 0.5})", {"factor", "0.5"});
  expect_refused("llama", R"("rope_scaling": {"type": "linear", "factor": "2"})", {"factor", "a string"});
  expect_refused("llama", R"("rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 32})",
                 {"rope_scaling: beta_fast"});
  expect_refused("llama", R"("rope_scaling": {"rope_type": "default", "factor": 2})",
                 {"rope_scaling: factor"});
  expect_refused("llama", R"("rope_scaling": {"type": "yarn", "factor": 2, "finetuned": true})",
                 {"finetuned"});
  expect_refused("llama", R"("rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2})",
                 {"beta_fast"});
  expect_refused("llama", R"("rope_scaling": {"type": "yarn", "factor": 2, "rope_theta": 1})",
                 {"rope_theta"});
  expect_refused(
      "llama",
      R"("rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4})",
      {"high_freq_factor", "low_freq_factor (4)"});
  expect_refused(
      "llama",
      R"("rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 1024})",
      {"original_max_position_embeddings", "2048", "1024"});
  expect_refused("llama", R"("rope_scaling": "linear")", {"rope_scaling", "an object"});
  expect_refused("llama", R"("rope_parameters": {"full_attention": {"rope_type": "default"}})",
                 {"full_attention"});
  expect_refused("llama", R"("partial_rotary_factor": 0.5)", {"partial_rotary_factor", "0.5"});
  expect_refused("llama", R"("rope_parameters": {"partial_rotary_factor": 0.5})",
                 {"rope_parameters: partial_rotary_factor"});
  EXPECT_EQ(llama(R"("partial_rotary_factor": 1.0)").rope.kind, RopeConfig::Kind::Default);
}

TEST(ModelConfig, EosIsANumberAListOrNull) {
  EXPECT_EQ(llama(R"("eos_token_id": 7)").eos_token_ids, (std::vector<int32_t>{7}));
  EXPECT_EQ(llama(R"("eos_token_id": [9, 7, 9])").eos_token_ids, (std::vector<int32_t>{7, 9}));
  EXPECT_TRUE(llama(R"("eos_token_id": null)").eos_token_ids.empty());
  expect_refused("llama", R"("eos_token_id": [[7]])", {"eos_token_id[0]", "array"});
}

TEST(ModelConfig, GenerationConfigAddsItsEosAndLetsSamplingDefaultsPass) {
  ModelConfig config = llama(R"("eos_token_id": 7)");
  parse_generation_config(
      R"({"_from_model_config": true, "bos_token_id": 1, "eos_token_id": [3, 7], "do_sample": true,
      "temperature": 0.6, "top_p": 0.9, "transformers_version": "5.0.0"})",
      "g.json", config);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{3, 7}));
  parse_generation_config(R"({"eos_token_id": null})", "g.json", config);
  parse_generation_config("{}", "g.json", config);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{3, 7}));
  for (const char* text : {R"({"eos_token_id": 100})", R"({"eos_token_id": [5, -1]})",
                           R"({"eos_token_id": 5, "samplers": []})"}) {
    EXPECT_THROW(parse_generation_config(text, "g.json", config), Error) << text;
    EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{3, 7})) << "a failed call changes nothing";
  }
}

TEST(ModelConfig, HarmlessKeysPassAndOthersAreRefusedByName) {
  EXPECT_EQ(
      refusal(
          "llama",
          R"("architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "pad_token_id": -1, "use_cache": true,
      "initializer_range": 0.02, "attention_dropout": 0.0, "pretraining_tp": 1, "transformers_version": "4.40.0",
      "_name_or_path": "x", "is_decoder": false, "is_encoder_decoder": false, "add_cross_attention": false,
      "cross_attention_hidden_size": null, "pruned_heads": {}, "tie_encoder_decoder": false, "id2label": {"0": "LABEL_0"},
      "temperature": 1.0, "top_k": 50, "num_beams": 1, "max_length": 20, "torchscript": false, "quantization_config": null,
      "tf_legacy_loss": false, "rope_interleaved": false)"),
      "accepted");
  EXPECT_EQ(refusal("llama", R"("architectures": null)"), "accepted");
  expect_refused("llama", R"("architectures": ["LlamaForCausalLM", "LlamaModel"])",
                 {"architectures", "LlamaModel"});
  expect_refused("llama", R"("architectures": ["MistralForCausalLM"])",
                 {"architectures", "[\"LlamaForCausalLM\"]"});
  expect_refused("llama", R"("attention_dropout": "none")", {"attention_dropout", "\"none\""});
  expect_refused("llama", R"("pretraining_tp": 2)", {"pretraining_tp", "found 2"});
  expect_refused("llama", R"("is_encoder_decoder": true)", {"is_encoder_decoder", "false"});
  expect_refused("llama", R"("rope_interleaved": true)", {"rope_interleaved"});
  expect_refused("llama", R"("auto_map": {"AutoModel": "x.Y"})", {"auto_map", "code"});
  expect_refused("llama", R"("quantization_config": {"quant_method": "fp8"})",
                 {"quantization_config", "quantized"});
  expect_refused("llama", R"("per_layer_config": {"0": {"head_dim": 8}})", {"per_layer_config"});
  expect_refused("llama", R"("attn_logit_softcapping": 50.0)",
                 {"attn_logit_softcapping", "not understood", "50.0"});
  expect_refused("llama", R"("use_qk_norm": false)", {"use_qk_norm", "false"});
  expect_refused("llama", R"("max_window_layers": 3)", {"max_window_layers"});
  expect_refused("llama", R"("hidden_act": "swish")", {"hidden_act", "silu"});
}

TEST(ModelConfig, FamilyIsTheModelsAndNoOther) {
  expect_refused("llama4", "", {"model_type", "llama4", "qwen3"});
  expect_refused("Llama", "", {"model_type"});
  EXPECT_THROW(parse_model_config(R"({"model_type": 1})", "c"), Error);
  EXPECT_THROW(parse_model_config("[]", "c"), Error);
  EXPECT_THROW(parse_model_config("7", "c"), Error);
}

TEST(ModelConfig, DirectoryWithAndWithoutGenerationConfig) {
  const TempDir dir;
  write_file(dir / "config.json", config_text("llama", R"("eos_token_id": 7)"));
  EXPECT_EQ(load_model_config(dir.path()).eos_token_ids, (std::vector<int32_t>{7}));
  write_file(dir / "generation_config.json", R"({"eos_token_id": 5})");
  EXPECT_EQ(load_model_config(dir.path()).eos_token_ids, (std::vector<int32_t>{5, 7}));
  std::filesystem::remove(dir / "generation_config.json");
  std::filesystem::create_symlink("nowhere", dir / "generation_config.json");
  EXPECT_THROW(load_model_config(dir.path()), Error) << "a dangling link is not an absent file";
}

struct Shipped {
  const char* file;
  const char* model_type;
  int64_t hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, vocab_size;
  bool tied;
  uint64_t parameters;  // as published
};

TEST(ModelConfig, ShippedConfigsHaveTheParametersOfTheirModels) {
  const Shipped all[] = {
      {"qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, true, 596049920},
      {"llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, true, 1235814400},
      {"qwen3-4b", "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, true, 4022468096},
      {"llama-3.1-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, false, 8030261248},
      {"qwen3-8b", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, false, 8190735360},
      {"qwen3-32b", "qwen3", 5120, 25600, 64, 64, 8, 128, 151936, false, 32762123264},
  };
  for (const Shipped& s : all) {
    SCOPED_TRACE(s.file);
    const ModelConfig c = load_model_config_file(std::string(RONDO_SOURCE_DIR "/models/") + s.file + ".json");
    EXPECT_EQ(c.model_type, s.model_type);
    EXPECT_EQ(c.hidden_size, s.hidden_size);
    EXPECT_EQ(c.intermediate_size, s.intermediate_size);
    EXPECT_EQ(c.layers, s.layers);
    EXPECT_EQ(c.heads, s.heads);
    EXPECT_EQ(c.kv_heads, s.kv_heads);
    EXPECT_EQ(c.head_dim, s.head_dim);
    EXPECT_EQ(c.vocab_size, s.vocab_size);
    EXPECT_EQ(c.tie_word_embeddings, s.tied);
    EXPECT_EQ(c.dtype, DType::bf16);
    EXPECT_EQ(c.sliding_window, Windows(static_cast<size_t>(s.layers), 0));
    uint64_t parameters = 0;
    for (const WeightSpec& spec : expected_weights(c)) {
      uint64_t elements = 1;
      for (const int64_t n : spec.shape) elements *= static_cast<uint64_t>(n);
      parameters += elements;
    }
    EXPECT_EQ(parameters, s.parameters);
  }
}

}  // namespace
}  // namespace rondo
