#include "buffers/step_buffers.h"

#include <algorithm>

#include "buffers/loop_buffers.h"

namespace rondo {
namespace {

constexpr int64_t kTargetBlocks = 8192;  // so many that one long row among many is cut into short pieces
constexpr int64_t kMaxSplits = 64;
constexpr int64_t kMinChunk = 64;  // positions below which a split is not worth its merge

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Bucket bucket_of(const StepDims& dims, int rows) {
  const auto it = std::lower_bound(dims.buckets.begin(), dims.buckets.end(), rows);
  return {*it, std::min(*it, dims.max_logit_rows)};
}

int attention_splits(const StepDims& dims, int rows) {
  const int64_t fill = ceil_div(kTargetBlocks, static_cast<int64_t>(rows) * dims.kv_heads);
  const int64_t useful = std::min(kMaxSplits, ceil_div(dims.max_context, kMinChunk));
  return static_cast<int>(std::clamp<int64_t>(fill, 1, useful));
}

StepBuffers lay_out_step(Layout& layout, const StepDims& d) {
  const int64_t R = d.max_rows(), L = d.max_logit_rows;
  const DType act = d.activation_dtype;
  int64_t partials = 0;
  for (int rows : d.buckets)
    partials = std::max(partials, static_cast<int64_t>(rows) * attention_splits(d, rows));

  StepBuffers b;
  b.rows = layout.place("inputs.rows", DType::i32, {R, 4});
  b.logit_rows = layout.place("inputs.logit_rows", DType::i32, {L});
  b.turns = layout.place("inputs.turns", DType::i32, {2});
  b.page_tables = layout.place("inputs.page_tables", DType::i32, {d.slots(), d.pages_per_slot()});
  b.slots = layout.place("inputs.slots", DType::u8, {d.slots(), int64_t{sizeof(SlotParams)}});
  b.biases = layout.place("inputs.biases", DType::u8, {d.slots(), kMaxSlotBiases, int64_t{sizeof(SlotBias)}});
  b.history = layout.place("inputs.history", DType::i32, {d.slots(), d.max_context});
  b.x = layout.place("residual", DType::f32, {R, d.hidden_size});
  b.norm = layout.place("norm", act, {R, d.hidden_size});
  b.squares = layout.place("norm.squares", DType::f32, {ceil_div(d.hidden_size, 16), kBegunRows});
  b.angles = layout.place("rope.angles", DType::f32, {R, d.head_dim / 2, 2});
  b.places = layout.place("rope.places", DType::u8, {R, int64_t{sizeof(int64_t)}});
  b.qkv = layout.place("qkv", act, {R, d.qkv_size()});
  b.q = layout.place("q", act, {R, d.q_size()});
  b.o = layout.place("attention", act, {R, d.q_size()});
  b.gate_up = layout.place("gate_up", act, {R, 2 * d.intermediate_size});
  b.h = layout.place("activation", act, {R, d.intermediate_size});
  b.partial_o = layout.place("split_k.o", DType::f32, {partials, d.heads, d.head_dim});
  b.partial_ml = layout.place("split_k.ml", DType::f32, {partials, d.heads, 2});
  b.tickets = layout.place("split_k.tickets", DType::i32, {R, d.heads});
  b.product_parts = layout.place("products.parts", DType::u8, {static_cast<int64_t>(d.product_part_bytes)});
  b.logits = layout.place("logits", DType::f32, {L, d.vocab_size});
  b.sampled = layout.place("sampled", DType::u8, {L, int64_t{sizeof(Sampled)}});
  b.top = layout.place("top_tokens", DType::u8, {L, kMaxTopTokens, int64_t{sizeof(TopToken)}});
  b.token_words = layout.place("token_words", DType::u32, {L, d.vocab_size});
  b.scans = layout.place("scans", DType::u8, {L, kScanParts, int64_t{sizeof(LogitScan)}});
  b.loop = layout.place("loop", DType::u8, {static_cast<int64_t>(loop_bytes(d))});
  b.workspace = layout.place("workspace", DType::u8, {static_cast<int64_t>(d.workspace_bytes)});
  return b;
}

void clear_partial_results(Device& device, const StepBuffers& b) {
  device.fill(b.tickets.data, 0, b.tickets.bytes());
  for (const View& view : {b.partial_o, b.partial_ml, b.product_parts, b.places})
    device.fill(view.data, 0xFF, view.bytes());
}

std::vector<KvPages> lay_out_pages(Layout& layout, const StepDims& d) {
  std::vector<KvPages> layers;
  const Shape shape = {d.pages, d.kv_heads, d.page_size, d.head_dim};
  for (int64_t i = 0; i < d.layers; ++i) {
    const std::string prefix = "layers." + std::to_string(i);
    layers.push_back({layout.place(prefix + ".k_pages", d.weight_dtype, shape),
                      layout.place(prefix + ".v_pages", d.weight_dtype, shape)});
  }
  return layers;
}

}  // namespace rondo
