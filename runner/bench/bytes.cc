#include "runner/bench/bytes.h"

#include <algorithm>
#include <map>

namespace rondo::bench {
namespace {

uint64_t bytes_of(const View& view) { return view ? view.bytes() : 0; }
uint64_t bytes_of(const Linear& linear) { return bytes_of(linear.weight) + bytes_of(linear.bias); }

uint64_t embedded(const Model& model, size_t rows) {
  const View& table = model.embedding;
  return rows * static_cast<uint64_t>(table.shape[1]) * dtype_bytes(table.dtype);
}

uint64_t qkv_bytes(const Layer& layer) {
  return bytes_of(layer.attention_norm) + bytes_of(layer.qkv) + bytes_of(layer.q_norm) +
         bytes_of(layer.k_norm);
}

uint64_t gate_up_bytes(const Layer& layer) { return bytes_of(layer.mlp_norm) + bytes_of(layer.gate_up); }

uint64_t head_bytes(const Model& model) { return bytes_of(model.final_norm) + bytes_of(model.lm_head); }

}  // namespace

uint64_t kv_bytes(const Layer& layer, const StepDims& dims, std::span<const Row> rows) {
  struct Reach {
    int64_t first, last;
  };
  std::map<int32_t, Reach> slots;
  for (const Row& row : rows) {
    const int64_t last = row.position;
    const int64_t first = layer.sliding_window ? std::max<int64_t>(0, last - layer.sliding_window + 1) : 0;
    const auto [it, added] = slots.try_emplace(row.slot, Reach{first, last});
    if (added) continue;
    it->second.first = std::min(it->second.first, first);
    it->second.last = std::max(it->second.last, last);
  }
  int64_t positions = 0;
  for (const auto& [slot, reach] : slots) positions += reach.last - reach.first + 1;
  return 2 * static_cast<uint64_t>(positions * dims.kv_size()) * dtype_bytes(dims.weight_dtype);
}

StepBytes step_bytes(const Model& model, const StepDims& dims, std::span<const Row> rows) {
  StepBytes bytes;
  for (const Layer& layer : model.layers) {
    bytes.weights +=
        qkv_bytes(layer) + bytes_of(layer.o_proj) + gate_up_bytes(layer) + bytes_of(layer.down_proj);
    bytes.kv += kv_bytes(layer, dims, rows);
  }
  bytes.weights += head_bytes(model);
  if (model.embedding.data != model.lm_head.weight.data) bytes.weights += embedded(model, rows.size());
  return bytes;
}

uint64_t verb_bytes(Verb verb, const Model& model, const StepDims& dims, const Layer& layer,
                    std::span<const Row> rows, int64_t logit_rows) {
  switch (verb) {
    case Verb::Embed: return embedded(model, rows.size());
    case Verb::Qkv: return qkv_bytes(layer);
    case Verb::Attend: return kv_bytes(layer, dims, rows);
    case Verb::OProj: return bytes_of(layer.o_proj);
    case Verb::GateUp: return gate_up_bytes(layer);
    case Verb::DownProj: return bytes_of(layer.down_proj);
    case Verb::Logits: return head_bytes(model);
    case Verb::Sample: return static_cast<uint64_t>(logit_rows * dims.vocab_size) * sizeof(float);
  }
  return 0;
}

}  // namespace rondo::bench
