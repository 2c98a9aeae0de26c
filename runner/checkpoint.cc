#include "runner/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "buffers/error.h"
#include "runner/file.h"
#include "runner/json.h"

namespace rondo {
namespace {

constexpr uint64_t kMaxIndexBytes = uint64_t{16} << 20;
constexpr JsonLimits kIndexLimits = {uint64_t{1} << 18, uint64_t{1} << 17};
constexpr size_t kMaxFileName = 255;
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// A shard lies beside its index: anything that could lead elsewhere is refused.
bool is_base_name(std::string_view file) {
  return !file.empty() && file.size() <= kMaxFileName && file.find_first_of("/\\") == file.npos &&
         ends_with(file, ".safetensors") && file != ".safetensors";
}

std::string spec_text(const WeightSpec& spec) {
  std::string text = fmt::format("config.json says {} {}", spec.dimensions[0], spec.shape[0]);
  if (spec.shape.size() == 2) text += fmt::format(", {} {}", spec.dimensions[1], spec.shape[1]);
  return text;
}

}  // namespace

std::vector<WeightSpec> expected_weights(const ModelConfig& config) {
  constexpr const char* kHidden = "hidden_size";
  constexpr const char* kFfn = "intermediate_size";
  constexpr const char* kQ = "num_attention_heads * head_dim";
  constexpr const char* kKv = "num_key_value_heads * head_dim";
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.intermediate_size;
  const int64_t q = config.q_size();
  const int64_t kv = config.kv_size();

  std::vector<WeightSpec> specs;
  const auto vector = [&](std::string name, int64_t n, const char* what) {
    specs.push_back({std::move(name), {n}, {what, nullptr}});
  };
  const auto linear = [&](const std::string& name, int64_t rows, const char* what_rows, int64_t columns,
                          const char* what_columns, bool bias) {
    specs.push_back({name + ".weight", {rows, columns}, {what_rows, what_columns}});
    if (bias) vector(name + ".bias", rows, what_rows);
  };

  linear("model.embed_tokens", config.vocab_size, "vocab_size", hidden, kHidden, false);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string attention = layer + "self_attn.";
    vector(layer + "input_layernorm.weight", hidden, kHidden);
    linear(attention + "q_proj", q, kQ, hidden, kHidden, config.qkv_bias);
    linear(attention + "k_proj", kv, kKv, hidden, kHidden, config.qkv_bias);
    linear(attention + "v_proj", kv, kKv, hidden, kHidden, config.qkv_bias);
    if (config.qk_norm) {
      vector(attention + "q_norm.weight", config.head_dim, "head_dim");
      vector(attention + "k_norm.weight", config.head_dim, "head_dim");
    }
    linear(attention + "o_proj", hidden, kHidden, q, kQ, config.o_bias);
    vector(layer + "post_attention_layernorm.weight", hidden, kHidden);
    linear(layer + "mlp.gate_proj", ffn, kFfn, hidden, kHidden, config.mlp_bias);
    linear(layer + "mlp.up_proj", ffn, kFfn, hidden, kHidden, config.mlp_bias);
    linear(layer + "mlp.down_proj", hidden, kHidden, ffn, kFfn, config.mlp_bias);
  }
  vector("model.norm.weight", hidden, kHidden);
  if (!config.tie_word_embeddings) linear("lm_head", config.vocab_size, "vocab_size", hidden, kHidden, false);
  return specs;
}

CheckpointIndex parse_checkpoint_index(std::string_view text, const std::string& name) {
  const Json object = read_json_object(text, name, kIndexLimits);
  JsonFields fields(object, name);
  CheckpointIndex index;
  if (const Json* metadata = fields.find("metadata")) {
    JsonFields entries(*metadata, name + ": metadata");
    const std::optional<int64_t> total = entries.integer_or_null("total_size", 0, INT64_MAX);
    if (total) index.total_size = static_cast<uint64_t>(*total);
    entries.integer_or_null("total_parameters", 0, INT64_MAX);
    // Free text, as in __metadata__ of the shards, is for people.
    for (const auto& [key, value] : metadata->items()) {
      if (value.is_string()) entries.ignore(key);
    }
    entries.refuse_others("no index metadata that this engine knows");
  }
  const Json* map = fields.find("weight_map");
  if (map == nullptr || !map->is_object() || map->empty())
    fields.refuse_field("weight_map", "an object of file names");
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_base_name(file.get_ref<const std::string&>())) {
      refuse(name + ": weight_map: " + printable(tensor), "a plain file name that ends in .safetensors",
             describe(file));
    }
    index.weight_map.emplace(tensor, file.get<std::string>());
  }
  fields.refuse_others("an index has metadata and weight_map");
  return index;
}

Checkpoint Checkpoint::open(const std::string& directory, const ModelConfig& config) {
  const std::string single = directory + "/model.safetensors";
  const std::string index_name = single + ".index.json";
  const bool has_index = path_exists(index_name);
  if (has_index && path_exists(single)) {
    refuse(directory, "model.safetensors or model.safetensors.index.json", "both",
           "remove the one that is not meant");
  }
  if (!has_index && !path_exists(single)) {
    refuse(directory, "model.safetensors or model.safetensors.index.json", "neither",
           "other formats become safetensors with transformers' save_pretrained");
  }
  Checkpoint checkpoint;
  if (has_index) {
    const CheckpointIndex index =
        parse_checkpoint_index(read_text_file(index_name, kMaxIndexBytes), index_name);
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : index.weight_map) shards.insert(shard);
    for (const std::string& shard : shards) checkpoint.add_file(directory + "/" + shard);
    checkpoint.check_index(index, index_name);
  } else {
    checkpoint.add_file(single);
  }
  checkpoint.match(config, directory);
  return checkpoint;
}

void Checkpoint::add_file(const std::string& path) {
  files_.push_back(SafetensorsFile::open(path));
  const std::vector<TensorInfo>& tensors = files_.back().tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto [other, added] = places_.emplace(tensors[i].name, Place{files_.size() - 1, i});
    if (!added) {
      refuse(path + ": " + printable(tensors[i].name), "each tensor in one shard",
             "it in " + files_[other->second.file].path() + " too");
    }
  }
}

void Checkpoint::check_index(const CheckpointIndex& index, const std::string& name) const {
  for (const auto& [tensor_name, shard] : index.weight_map) {
    const auto place = places_.find(tensor_name);
    const std::string where = name + ": weight_map: " + printable(tensor_name);
    if (place == places_.end()) refuse(where, "it in " + shard, "it in no shard");
    const std::string& path = files_[place->second.file].path();
    if (!ends_with(path, "/" + shard)) refuse(where, "the shard that holds it, " + path, shard);
  }
  uint64_t total = 0;
  for (const auto& [tensor_name, place] : places_) {
    if (!index.weight_map.contains(tensor_name)) {
      refuse(name + ": weight_map", "every tensor of every shard",
             fmt::format("none for {} of {}", printable(tensor_name), files_[place.file].path()));
    }
    total = checked_add(total, tensor(place).bytes, "total_size");
  }
  if (index.total_size && *index.total_size != total) {
    refuse(name + ": metadata: total_size", fmt::format("{}, the bytes of all tensors", total),
           fmt::format("{}", *index.total_size));
  }
}

void Checkpoint::match(const ModelConfig& config, const std::string& directory) {
  std::map<std::string, Place, std::less<>> left = std::move(places_);
  places_.clear();
  const std::vector<WeightSpec> specs = expected_weights(config);
  const WeightSpec* first = nullptr;
  const auto check = [&](const WeightSpec& spec, Place place) {
    const TensorInfo& found = tensor(place);
    const std::string where = files_[place.file].path() + ": " + spec.name;
    const std::optional<DType> dtype = weight_dtype(found.dtype);
    if (!dtype) refuse(where + ": dtype", "F32, F16 or BF16", found.dtype, "other types are not supported");
    if (first == nullptr) dtype_ = *dtype;
    if (found.shape != spec.shape) {
      const bool transposed =
          std::equal(found.shape.begin(), found.shape.end(), spec.shape.rbegin(), spec.shape.rend());
      refuse(where, fmt::format("{} {}", dtype_name(dtype_), shape_text(spec.shape)),
             fmt::format("{} {}", dtype_name(*dtype), shape_text(found.shape)),
             spec_text(spec) + (transposed ? "; is it transposed?" : ""));
    }
    if (*dtype != dtype_) {
      refuse(where, fmt::format("{} as {}", dtype_name(dtype_), first->name), dtype_name(*dtype),
             "all weights of a checkpoint have one type");
    }
  };
  for (const WeightSpec& spec : specs) {
    const auto at = left.find(spec.name);
    if (at == left.end()) {
      const bool head = spec.name == kHead;
      refuse(directory + ": " + spec.name, "a tensor of shape " + shape_text(spec.shape), "nothing",
             head ? "config.json says tie_word_embeddings false" : spec_text(spec));
    }
    check(spec, at->second);
    if (first == nullptr) first = &spec;
    bytes_ = checked_add(bytes_, tensor(at->second).bytes, "bytes of all weights");
    places_.insert(left.extract(at));
  }
  for (const auto& [name, place] : left) {
    if (ends_with(name, ".rotary_emb.inv_freq")) continue;  // computed from config.json
    if (name == kHead && config.tie_word_embeddings) {
      check({name, specs.front().shape, specs.front().dimensions}, place);
      check_tied_head(specs.front(), place);
      continue;
    }
    refuse(files_[place.file].path() + ": " + printable(name),
           "only weights of the model that config.json describes",
           fmt::format("{} {}", tensor(place).dtype, shape_text(tensor(place).shape)));
  }
}

void Checkpoint::check_tied_head(const WeightSpec& embedding, Place head) const {
  constexpr uint64_t kChunk = uint64_t{1} << 20;
  const TensorInfo& tensor_of_head = tensor(head);
  std::vector<char> a(std::min(kChunk, tensor_of_head.bytes));
  std::vector<char> b(a.size());
  for (uint64_t done = 0; done < tensor_of_head.bytes; done += a.size()) {
    const uint64_t n = std::min<uint64_t>(a.size(), tensor_of_head.bytes - done);
    read(embedding.name, done, a.data(), n);
    files_[head.file].read(tensor_of_head, done, b.data(), n);
    if (std::memcmp(a.data(), b.data(), n) != 0) {
      refuse(files_[head.file].path() + ": " + std::string(kHead),
             fmt::format("the bits of {}, as config.json says tie_word_embeddings true", kEmbedding),
             "others", "set tie_word_embeddings to false to use both");
    }
  }
}

void Checkpoint::read(std::string_view name, uint64_t byte_offset, void* to, uint64_t bytes) const {
  const auto at = places_.find(name);
  if (at == places_.end()) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("expected a weight of the model, found \"{}\"", printable(name)));
  }
  files_[at->second.file].read(tensor(at->second), byte_offset, to, bytes);
}

}  // namespace rondo
