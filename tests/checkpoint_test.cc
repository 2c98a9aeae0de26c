// Checkpoints that load, and what is read from them. What must not load is in bad_files_test.cc.
#include "runner/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "buffers/error.h"
#include "tests/model_files.h"

namespace rondo {
namespace {

using namespace testing_files;

std::vector<char> read_all(const Checkpoint& checkpoint, const TensorToWrite& tensor) {
  std::vector<char> bytes(tensor.data.size());
  checkpoint.read(tensor.name, 0, bytes.data(), bytes.size());
  return bytes;
}

void expect_same_bytes(const Checkpoint& checkpoint, const std::vector<TensorToWrite>& tensors) {
  uint64_t total = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::vector<char> bytes = read_all(checkpoint, tensor);
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), tensor.data) << tensor.name;
    total += tensor.data.size();
  }
  EXPECT_EQ(checkpoint.bytes(), total);
}

TEST(Checkpoint, ReadsEveryWeightOfOneFile) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const TempDir dir;
    const std::vector<TensorToWrite> tensors = weights_of(tiny_config(), dtype);
    write_file(dir / "model.safetensors", safetensors_bytes(tensors));
    const Checkpoint checkpoint = Checkpoint::open(dir.path(), tiny_config());
    EXPECT_EQ(checkpoint.dtype(), dtype);
    expect_same_bytes(checkpoint, tensors);
  }
}

TEST(Checkpoint, ReadsEveryWeightOfShards) {
  const TempDir dir;
  write_tiny_sharded_model(dir);
  expect_same_bytes(Checkpoint::open(dir.path(), load_model_config(dir.path())),
                    weights_of(tiny_config(), DType::f32));
}

TEST(Checkpoint, ReadsPartOfAWeight) {
  const TempDir dir;
  write_tiny_model(dir);
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), tiny_config());
  std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f32);
  const TensorToWrite norm = tensor_named(tensors, "model.norm.weight");
  char part[5];
  checkpoint.read(norm.name, 3, part, sizeof part);
  EXPECT_EQ(std::string(part, sizeof part), norm.data.substr(3, 5));
  EXPECT_THROW(checkpoint.read(norm.name, 60, part, sizeof part), Error);
  EXPECT_THROW(checkpoint.read(norm.name, UINT64_MAX, part, sizeof part), Error);
  EXPECT_THROW(checkpoint.read("no.such.weight", 0, part, sizeof part), Error);
}

TEST(Checkpoint, ExpectsWhatEachFamilyHas) {
  const auto names = [](const std::string& config) {
    std::vector<std::string> out;
    for (const WeightSpec& spec : expected_weights(parse_model_config(config, "config.json")))
      out.push_back(spec.name);
    return out;
  };
  const auto has = [](const std::vector<std::string>& all, const char* name) {
    return std::find(all.begin(), all.end(), name) != all.end();
  };
  const std::string tiny = kTinyConfig;
  EXPECT_EQ(names(tiny).size(), 3u + 2 * 9);
  const auto with_bias =
      names(replaced(tiny, "\"eos_token_id\": 2", "\"attention_bias\": true, \"mlp_bias\": true"));
  EXPECT_EQ(with_bias.size(), 3u + 2 * 16);
  EXPECT_TRUE(has(with_bias, "model.layers.1.self_attn.o_proj.bias"));
  EXPECT_TRUE(has(with_bias, "model.layers.1.mlp.down_proj.bias"));
  const auto tied = names(replaced(tiny, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"));
  EXPECT_FALSE(has(tied, "lm_head.weight"));
  const auto family = [&](const char* type, const char* architecture) {
    return names(replaced(replaced(tiny, "LlamaForCausalLM", architecture), "\"llama\"", type));
  };
  EXPECT_EQ(family("\"mistral\"", "MistralForCausalLM").size(), 3u + 2 * 9);
  const auto qwen2 = family("\"qwen2\"", "Qwen2ForCausalLM");
  EXPECT_TRUE(has(qwen2, "model.layers.0.self_attn.v_proj.bias"));
  EXPECT_FALSE(has(qwen2, "model.layers.0.self_attn.o_proj.bias"));
  const auto qwen3 = family("\"qwen3\", \"head_dim\": 8", "Qwen3ForCausalLM");
  EXPECT_TRUE(has(qwen3, "model.layers.0.self_attn.q_norm.weight"));
  EXPECT_TRUE(has(qwen3, "model.layers.1.self_attn.k_norm.weight"));
}

TEST(Checkpoint, PassesOverTheRotaryBuffersOfOldCheckpoints) {
  const TempDir dir;
  write_tiny_model(dir);
  std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f16);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4}, std::string(16, '\0')});
  write_file(dir / "model.safetensors", safetensors_bytes(tensors));
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), tiny_config());
  tensors.pop_back();
  expect_same_bytes(checkpoint, tensors);
}

ModelConfig tied_config() {
  ModelConfig config = tiny_config();
  config.tie_word_embeddings = true;
  return config;
}

TEST(Checkpoint, FaultA24TiedWithoutAndWithAnEqualHead) {
  const TempDir dir;
  std::vector<TensorToWrite> tensors = weights_of(tied_config(), DType::bf16);
  write_file(dir / "model.safetensors", safetensors_bytes(tensors));
  expect_same_bytes(Checkpoint::open(dir.path(), tied_config()), tensors);
  std::vector<TensorToWrite> with_head = tensors;
  with_head.push_back({"lm_head.weight", "BF16", {11, 16}, tensors[0].data});
  write_file(dir / "model.safetensors", safetensors_bytes(with_head));
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), tied_config());
  expect_same_bytes(checkpoint, tensors);
  char byte;
  EXPECT_THROW(checkpoint.read("lm_head.weight", 0, &byte, 1), Error);
}

TEST(Checkpoint, FaultA14TensorsAtOddOffsetsAreCopied) {
  const TempDir dir;
  const std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f32);
  const std::string file = safetensors_bytes(tensors);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  const std::string header = file.substr(8, length);
  for (const size_t padding : {0, 1, 2, 3}) {
    write_file(dir / "model.safetensors",
               safetensors_bytes(header + std::string(padding, ' '), file.substr(8 + length)));
    expect_same_bytes(Checkpoint::open(dir.path(), tiny_config()), tensors);
  }
}

TEST(Checkpoint, FaultA16FileThatShrinksAfterOpeningIsAnError) {
  const TempDir dir;
  write_tiny_model(dir);
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), tiny_config());
  const std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f32);
  std::filesystem::resize_file(dir / "model.safetensors",
                               std::filesystem::file_size(dir / "model.safetensors") - 1);
  EXPECT_EQ(read_all(checkpoint, tensors.front()).size(), tensors.front().data.size());
  try {
    read_all(checkpoint, tensors.back());
    FAIL() << "read past the end";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::InvalidModel);
    EXPECT_NE(std::string(error.what()).find("model.safetensors"), std::string::npos) << error.what();
  }
}

TEST(Checkpoint, FaultA31WeightsThatAreNanOrInfinityLoad) {
  const TempDir dir;
  std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f32);
  const float values[] = {__builtin_nanf(""), __builtin_inff(), -__builtin_inff()};
  std::memcpy(tensors[0].data.data(), values, sizeof values);
  write_file(dir / "model.safetensors", safetensors_bytes(tensors));
  expect_same_bytes(Checkpoint::open(dir.path(), tiny_config()), tensors);
}

}  // namespace
}  // namespace rondo
