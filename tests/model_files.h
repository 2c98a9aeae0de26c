// Small model files, made by hand, for tests that read them from disk.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "runner/checkpoint.h"
#include "runner/model_config.h"

namespace rondo::testing_files {

// A fresh directory, removed with all that is in it.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "rondo-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& file) const { return path_ + "/" + file; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << content;
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

// The first occurrence of `from` replaced; an error where there is none, so that no test loses its point in
// silence.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == text.npos) throw std::runtime_error("no " + from + " in " + text);
  return text.replace(at, from.size(), to);
}

// A file of the format: `length` says how long the header is, which need not be true.
inline std::string safetensors_bytes(uint64_t length, const std::string& header, const std::string& data) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(length >> (8 * i) & 0xff);
  return out + header + data;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return safetensors_bytes(header.size(), header, data);
}

struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

inline std::string safetensors_bytes(const std::vector<TensorToWrite>& tensors) {
  std::string header = "{";
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    if (header.size() > 1) header += ",";
    header += "\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype +
              "\",\"shape\":" + shape_text(tensor.shape) + ",\"data_offsets\":[" +
              std::to_string(data.size()) + ",";
    data += tensor.data;
    header += std::to_string(data.size()) + "]}";
  }
  return safetensors_bytes(header + "}", data);
}

inline const char* format_dtype(DType dtype) {
  return dtype == DType::f32 ? "F32" : dtype == DType::f16 ? "F16" : "BF16";
}

// Every weight of a config, byte i of weight w being some function of both.
inline std::vector<TensorToWrite> weights_of(const ModelConfig& config, DType dtype) {
  std::vector<TensorToWrite> tensors;
  for (const WeightSpec& spec : expected_weights(config)) {
    size_t bytes = dtype_bytes(dtype);
    for (const int64_t n : spec.shape) bytes *= static_cast<size_t>(n);
    std::string data(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>((tensors.size() * 31 + i * 7) % 61);
    tensors.push_back({spec.name, format_dtype(dtype), spec.shape, data});
  }
  return tensors;
}

// 2 layers of 2 heads of 8 with 1 key-value head, 11 tokens, untied.
inline const char* const kTinyConfig = R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 11,
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 1,
  "max_position_embeddings": 64,
  "rms_norm_eps": 1e-05,
  "tie_word_embeddings": false,
  "torch_dtype": "float32",
  "rope_theta": 10000.0,
  "eos_token_id": 2
})";

inline ModelConfig tiny_config() { return parse_model_config(kTinyConfig, "config.json"); }

inline TensorToWrite& tensor_named(std::vector<TensorToWrite>& tensors, const std::string& name) {
  for (TensorToWrite& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

// DIR/config.json and DIR/model.safetensors of the tiny model.
inline void write_tiny_model(const TempDir& dir) {
  write_file(dir / "config.json", kTinyConfig);
  write_file(dir / "model.safetensors", safetensors_bytes(weights_of(tiny_config(), DType::f32)));
}

// The same as two shards and an index: the first layer and the rest.
inline std::string tiny_index(const std::vector<TensorToWrite>& first,
                              const std::vector<TensorToWrite>& second) {
  std::string map;
  uint64_t total = 0;
  const auto add = [&](const std::vector<TensorToWrite>& tensors, const char* file) {
    for (const TensorToWrite& tensor : tensors) {
      map += (map.empty() ? "" : ",\n") + ("    \"" + tensor.name + "\": \"") + file + "\"";
      total += tensor.data.size();
    }
  };
  add(first, "model-00001-of-00002.safetensors");
  add(second, "model-00002-of-00002.safetensors");
  return "{\n  \"metadata\": {\"total_size\": " + std::to_string(total) + "},\n  \"weight_map\": {\n" + map +
         "\n  }\n}";
}

inline void write_tiny_sharded_model(const TempDir& dir) {
  write_file(dir / "config.json", kTinyConfig);
  const std::vector<TensorToWrite> all = weights_of(tiny_config(), DType::f32);
  const std::vector<TensorToWrite> first(all.begin(), all.begin() + 10);
  const std::vector<TensorToWrite> second(all.begin() + 10, all.end());
  write_file(dir / "model-00001-of-00002.safetensors", safetensors_bytes(first));
  write_file(dir / "model-00002-of-00002.safetensors", safetensors_bytes(second));
  write_file(dir / "model.safetensors.index.json", tiny_index(first, second));
}

}  // namespace rondo::testing_files
