// The weights of a model on disk: model.safetensors, or model.safetensors.index.json and its shards.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "buffers/view.h"
#include "runner/model_config.h"
#include "runner/safetensors.h"

namespace rondo {

// A weight that a model of some config has, under its Hugging Face name. Matrices are [rows, columns], out x
// in.
struct WeightSpec {
  std::string name;
  std::vector<int64_t> shape;
  std::array<const char*, 2> dimensions{};  // what config.json calls them: {"vocab_size", "hidden_size"}
};

// All of them, in the order of the model: embedding, layers, final norm, LM head. A tied model has no
// lm_head.weight.
std::vector<WeightSpec> expected_weights(const ModelConfig& config);

// A model.safetensors.index.json.
struct CheckpointIndex {
  std::map<std::string, std::string> weight_map;  // tensor to shard, a plain file name
  std::optional<uint64_t> total_size;             // bytes of all tensors
};

// `text` is the file's content, `name` is used in messages. Throws InvalidModel.
CheckpointIndex parse_checkpoint_index(std::string_view text, const std::string& name);

// Open files in which every weight of a config was found with the right name, shape and dtype. Nothing beyond
// headers is read before that is known. Reading is safe from several threads at once.
class Checkpoint {
 public:
  // Throws InvalidModel, naming file and tensor, for anything missing, left over, of another shape, or of
  // another dtype than the rest. Known to mean nothing and passed over: old checkpoints' rotary_emb.inv_freq
  // buffers, and an lm_head.weight that repeats a tied embedding bit for bit.
  static Checkpoint open(const std::string& directory, const ModelConfig& config);

  // The one type of all weights: f32, f16 or bf16. It stands above config.json's, which only says what was
  // trained in.
  DType dtype() const { return dtype_; }
  // Bytes of all weights together.
  uint64_t bytes() const { return bytes_; }

  // Reads part of a weight, as it lies in the file. Throws InvalidModel when a file has shrunk or cannot be
  // read, InvalidArgument for a name that is not among expected_weights or a range outside the weight.
  void read(std::string_view name, uint64_t byte_offset, void* to, uint64_t bytes) const;

 private:
  struct Place {
    size_t file;
    size_t tensor;
  };

  Checkpoint() = default;
  const TensorInfo& tensor(Place place) const { return files_[place.file].tensors()[place.tensor]; }
  void add_file(const std::string& path);
  void check_index(const CheckpointIndex& index, const std::string& name) const;
  void match(const ModelConfig& config, const std::string& directory);
  void check_tied_head(const WeightSpec& embedding, Place head) const;

  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place, std::less<>> places_;  // once open: the weights and nothing else
  DType dtype_ = DType::f32;
  uint64_t bytes_ = 0;
};

}  // namespace rondo
