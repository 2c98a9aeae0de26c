#include "runner/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "kernels/ops.h"
#include "runner/checkpoint.h"

namespace rondo {
namespace {

constexpr int kMaxRowLimit = 4096;
// What split-K attention's chunk sizes and the page tables are tested to.
constexpr int64_t kMaxContext = 131072;
// A model's own maximum may be 128k, and K/V for that is seldom meant.
constexpr int64_t kDefaultContext = 4096;
constexpr int kDefaultBuckets[] = {1,  2,  3,  4,   5,   6,   7,   8,    16,   24,  32,
                                   48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096};

template <class T>
void require_range(const char* option, T found, int64_t low, int64_t high) {
  if (found < low || found > high)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("{}: expected {} to {}, found {}", option, low, high, found));
}

std::vector<int> make_buckets(const EngineOptions& options) {
  if (options.buckets.empty()) {
    std::vector<int> buckets;
    for (int rows : kDefaultBuckets)
      if (rows < options.max_rows) buckets.push_back(rows);
    buckets.push_back(options.max_rows);
    return buckets;
  }
  int last = 0;
  for (int rows : options.buckets) {
    if (rows <= last || rows > options.max_rows)
      throw Error(ErrorKind::InvalidArgument,
                  fmt::format("buckets: expected ascending row counts of 1 to max_rows = {}, found {}",
                              options.max_rows, fmt::join(options.buckets, ", ")));
    last = rows;
  }
  if (last != options.max_rows)
    throw Error(
        ErrorKind::InvalidArgument,
        fmt::format("buckets: expected the last to be max_rows = {}, found {}", options.max_rows, last));
  return options.buckets;
}

}  // namespace

StepDims make_dims(const ModelConfig& config, DType weight_dtype, const EngineOptions& options, bool cuda) {
  require_range("max_rows", options.max_rows, 1, kMaxRowLimit);
  require_range("max_sequences", options.max_sequences, 1, options.max_rows);
  require_range("max_logit_rows", options.max_logit_rows, 0, options.max_rows);
  // NTK-aware dynamic scaling is made for contexts beyond max_position_embeddings, `factor` times as long.
  const double stretch = config.rope.kind == RopeConfig::Kind::Dynamic ? config.rope.factor : 1.0;
  const auto longest = static_cast<int64_t>(std::min(
      static_cast<double>(config.max_position_embeddings) * stretch, static_cast<double>(kMaxContext)));
  require_range("max_context", options.max_context, 0, longest);
  require_range("page_size", options.page_size, 8, 256);
  if (options.page_size & (options.page_size - 1))
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("page_size: expected a power of two, found {}", options.page_size));
  require_range("threads", options.threads, 0, 1024);
  if (options.max_logit_rows && options.max_logit_rows < options.max_sequences)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("max_logit_rows: expected 0 or at least max_sequences = {}, found {}",
                            options.max_sequences, options.max_logit_rows));
  if (config.hidden_size % 8 || config.intermediate_size % 8)
    throw Error(
        ErrorKind::InvalidModel,
        fmt::format(
            "hidden_size and intermediate_size: expected multiples of 8 (kernels load 16 bytes at a time), "
            "found {} and {}",
            config.hidden_size, config.intermediate_size));
  StepDims dims;
  dims.hidden_size = config.hidden_size;
  dims.intermediate_size = config.intermediate_size;
  dims.layers = config.layers;
  dims.heads = config.heads;
  dims.kv_heads = config.kv_heads;
  dims.head_dim = config.head_dim;
  dims.vocab_size = config.vocab_size;
  dims.weight_dtype = weight_dtype;
  dims.activation_dtype = cuda ? weight_dtype : DType::f32;
  dims.buckets = make_buckets(options);
  dims.max_sequences = options.max_sequences;
  dims.max_logit_rows = options.max_logit_rows ? options.max_logit_rows : options.max_sequences;
  dims.page_size = options.page_size;
  dims.workspace_bytes = cuda ? kCudaWorkspaceBytes : 0;
  dims.product_part_bytes = cuda ? kCudaProductPartBytes : 0;

  const int64_t context = options.max_context ? options.max_context : std::min(longest, kDefaultContext);
  const int64_t page = options.page_size, per_sequence = (context + page - 1) / page;
  int64_t pages = per_sequence * options.max_sequences;
  if (options.kv_positions) {
    require_range("kv_positions", options.kv_positions, page, int64_t{1} << 40);
    pages = options.kv_positions / page;
  }
  require_range("K/V pages (kv_positions / page_size)", pages, 1, INT32_MAX - 1);
  // No factor is above 2^24, so that this does not wrap; the size of all may.
  const uint64_t per_page =
      2 * static_cast<uint64_t>(dims.kv_size()) * static_cast<uint64_t>(page) * dtype_bytes(weight_dtype);
  const uint64_t most = std::numeric_limits<int64_t>::max() / static_cast<uint64_t>(config.layers) / per_page;
  if (static_cast<uint64_t>(pages) + 1 > most)
    throw Error(ErrorKind::OutOfMemory,
                fmt::format("K/V of {} positions in all does not fit in 64 bits, that of {} would: set "
                            "kv_positions (--kv-positions), or lower max_context or max_sequences",
                            pages * page, (most - 1) * static_cast<uint64_t>(page)));
  dims.pages = pages + 1;
  dims.max_context = std::min(context, pages * page);
  return dims;
}

WeightLayout lay_out_weights(Layout& layout, const ModelConfig& config, DType dtype) {
  WeightLayout result;
  const int64_t H = config.hidden_size, Q = config.q_size(), KV = config.kv_size(),
                F = config.intermediate_size;
  const auto place = [&](const std::string& name, Shape shape) {
    View view = layout.place(name, dtype, shape);
    result.slots.push_back({name, view});
    return view;
  };
  // One matrix in memory from several of the checkpoint, their rows one behind the other.
  const auto fuse = [&](const std::string& fused, const std::vector<std::pair<std::string, int64_t>>& parts,
                        int64_t columns) {
    int64_t rows = 0;
    for (const auto& part : parts) rows += part.second;
    View whole = layout.place(fused, dtype, columns ? Shape{rows, columns} : Shape{rows});
    auto* at = whole.as<std::byte>();
    for (const auto& [name, n] : parts) {
      View view{at, dtype, columns ? Shape{n, columns} : Shape{n}};
      if (at) at += view.bytes();
      result.slots.push_back({name, view});
    }
    return whole;
  };

  Model& model = result.model;
  model.rms_norm_eps = static_cast<float>(config.rms_norm_eps);
  model.embedding = place("model.embed_tokens.weight", {config.vocab_size, H});
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i), a = p + "self_attn.", m = p + "mlp.";
    Layer layer;
    layer.attention_norm = place(p + "input_layernorm.weight", {H});
    layer.qkv.weight =
        fuse(a + "qkv_proj.weight",
             {{a + "q_proj.weight", Q}, {a + "k_proj.weight", KV}, {a + "v_proj.weight", KV}}, H);
    if (config.qkv_bias)
      layer.qkv.bias = fuse(a + "qkv_proj.bias",
                            {{a + "q_proj.bias", Q}, {a + "k_proj.bias", KV}, {a + "v_proj.bias", KV}}, 0);
    if (config.qk_norm) {
      layer.q_norm = place(a + "q_norm.weight", {config.head_dim});
      layer.k_norm = place(a + "k_norm.weight", {config.head_dim});
    }
    layer.o_proj.weight = place(a + "o_proj.weight", {H, Q});
    if (config.o_bias) layer.o_proj.bias = place(a + "o_proj.bias", {H});
    layer.mlp_norm = place(p + "post_attention_layernorm.weight", {H});
    layer.gate_up.weight =
        fuse(m + "gate_up_proj.weight", {{m + "gate_proj.weight", F}, {m + "up_proj.weight", F}}, H);
    if (config.mlp_bias)
      layer.gate_up.bias =
          fuse(m + "gate_up_proj.bias", {{m + "gate_proj.bias", F}, {m + "up_proj.bias", F}}, 0);
    layer.down_proj.weight = place(m + "down_proj.weight", {H, F});
    if (config.mlp_bias) layer.down_proj.bias = place(m + "down_proj.bias", {H});
    layer.sliding_window = config.sliding_window[static_cast<size_t>(i)];
    model.layers.push_back(layer);
  }
  model.final_norm = place("model.norm.weight", {H});
  model.lm_head.weight =
      config.tie_word_embeddings ? model.embedding : place("lm_head.weight", {config.vocab_size, H});
  model.rope.inv_freq = layout.place("rope.inv_freq", DType::f32, {config.head_dim / 2});
  if (config.rope.kind == RopeConfig::Kind::LongRope)
    model.rope.long_inv_freq = layout.place("rope.long_inv_freq", DType::f32, {config.head_dim / 2});
  return result;
}

MemoryPlan plan_memory(const std::string& path, const EngineOptions& options) {
  const bool directory = std::filesystem::is_directory(path);
  const ModelConfig config = directory ? load_model_config(path) : load_model_config_file(path);
  const DType dtype = directory ? Checkpoint::open(path, config).dtype() : config.dtype;
  const StepDims dims = make_dims(config, dtype, options, options.device != DeviceKind::Cpu);

  MemoryPlan plan;
  const auto add = [&](const char* name, const std::function<void(Layout&)>& lay_out) {
    Layout layout;
    lay_out(layout);
    PlannedArena arena{name, layout.bytes(), {}};
    for (const Placement& p : layout.placements())
      arena.buffers.push_back({p.name,
                               dtype_name(p.dtype),
                               {p.shape.dims.begin(), p.shape.dims.begin() + p.shape.rank},
                               p.bytes,
                               p.offset});
    plan.total_bytes = checked_add(plan.total_bytes, arena.bytes, "bytes of the memory plan");
    plan.arenas.push_back(std::move(arena));
  };
  add("weights", [&](Layout& layout) { lay_out_weights(layout, config, dtype); });
  add("pages", [&](Layout& layout) { lay_out_pages(layout, dims); });
  add("step", [&](Layout& layout) { lay_out_step(layout, dims); });
  plan.buckets = dims.buckets;
  plan.pages = dims.pages;
  plan.page_size = dims.page_size;
  plan.max_context = dims.max_context;
  plan.max_sequences = dims.max_sequences;
  plan.max_logit_rows = dims.max_logit_rows;
  return plan;
}

}  // namespace rondo
