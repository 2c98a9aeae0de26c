#include "kernels/cuda/cuda_ops.h"

#include <string>

#include "buffers/cuda_check.h"
#include "buffers/error.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/products.h"

namespace rondo {
namespace {

void expect(const View& view, DType dtype, const Shape& shape, const std::string& name) {
  if (view.dtype == dtype && view.shape == shape) return;
  throw Error(ErrorKind::InvalidArgument, name + ": expected " + dtype_name(dtype) + " " + shape.text() +
                                              ", found " + dtype_name(view.dtype) + " " + view.shape.text());
}
void expect_optional(const View& view, DType dtype, const Shape& shape, const std::string& name) {
  if (view) expect(view, dtype, shape, name);
}
void expect_linear(const Linear& linear, DType dtype, int64_t out, int64_t in, const std::string& name) {
  expect(linear.weight, dtype, {out, in}, name + ".weight");
  expect_optional(linear.bias, dtype, {out}, name + ".bias");
}

// Kernels index by these shapes: what does not fit would be read out of bounds.
void check_model(const StepDims& d, const Model& m) {
  const DType w = d.weight_dtype;
  const int64_t H = d.hidden_size, F = d.intermediate_size;
  if (d.activation_dtype != w)
    throw Error(ErrorKind::InvalidArgument, std::string("activation_dtype: expected the weights' ") +
                                                dtype_name(w) + " on CUDA, found " +
                                                dtype_name(d.activation_dtype));
  if (H % 8 || F % 8 || d.head_dim % 8 || d.head_dim > 256 || d.heads % d.kv_heads)
    throw Error(ErrorKind::InvalidArgument,
                "CUDA backend: expected hidden_size, intermediate_size and head_dim in multiples of 8, "
                "head_dim up to 256 and "
                "heads in multiples of kv_heads, found " +
                    Shape{H, F, d.head_dim, d.heads}.text() + " and " + std::to_string(d.kv_heads));
  if (d.page_size <= 0 || d.page_size & (d.page_size - 1))
    throw Error(ErrorKind::InvalidArgument,
                "page_size: expected a power of two, found " + std::to_string(d.page_size));
  expect(m.embedding, w, {d.vocab_size, H}, "embedding");
  expect(m.final_norm, w, {H}, "final_norm");
  expect_linear(m.lm_head, w, d.vocab_size, H, "lm_head");
  expect(m.rope.inv_freq, DType::f32, {d.head_dim / 2}, "rope.inv_freq");
  expect_optional(m.rope.long_inv_freq, DType::f32, {d.head_dim / 2}, "rope.long_inv_freq");
  for (size_t i = 0; i < m.layers.size(); ++i) {
    const Layer& l = m.layers[i];
    const std::string at = "layers." + std::to_string(i) + ".";
    const Shape pages{d.pages, d.kv_heads, d.page_size, d.head_dim};
    expect(l.attention_norm, w, {H}, at + "attention_norm");
    expect_linear(l.qkv, w, d.qkv_size(), H, at + "qkv");
    expect_optional(l.q_norm, w, {d.head_dim}, at + "q_norm");
    expect_optional(l.k_norm, w, {d.head_dim}, at + "k_norm");
    expect_linear(l.o_proj, w, H, d.q_size(), at + "o_proj");
    expect(l.mlp_norm, w, {H}, at + "mlp_norm");
    expect_linear(l.gate_up, w, 2 * F, H, at + "gate_up");
    expect_linear(l.down_proj, w, H, F, at + "down_proj");
    expect(l.pages.k, w, pages, at + "k_pages");
    expect(l.pages.v, w, pages, at + "v_pages");
  }
}

// Up to how many rows attention reads ahead of the kernel before it, a block on each multiprocessor. At a
// head_dim of 64 its four warps are too few to keep up with the memory where there is much to read.
constexpr int kLookAheadRows = 16, kLookAheadRowsOfSmallHeads = 8;

class CudaOps : public Ops {
 public:
  CudaOps(const StepDims& dims, const StepBuffers& buffers, const Model& model, cudaStream_t stream,
          CudaForms forms)
      : dims_(dims),
        buffers_(buffers),
        model_(model),
        queue_{stream, cuda::Order::after, 0, 0},
        dtype_((check_model(dims, model), dims.weight_dtype)),
        products_(dtype_, buffers, model.rms_norm_eps, forms, queue_) {
    map_.page_tables = buffers_.page_tables.as<const int32_t>();
    map_.pages_per_slot = dims_.pages_per_slot();
    while ((1 << map_.page_shift) < dims_.page_size) ++map_.page_shift;
    int device = 0, major = 0;
    cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    const auto attribute = [&](cudaDeviceAttr name, int& value) {
      cuda::check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
    };
    attribute(cudaDevAttrMultiProcessorCount, queue_.multiprocessors);
    attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, queue_.shared_limit);
    attribute(cudaDevAttrComputeCapabilityMajor, major);
    if (forms.early && major >= 9) queue_.order = cuda::Order::early;
    queue_.bulk_copies = major >= 9;
    queue_.tiles = major == 9 && cuda::stream_tiles_compiled();
    int shared = 0, reserved = 0;
    attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, shared);
    attribute(cudaDevAttrReservedSharedMemoryPerBlock, reserved);
    queue_.wide_block = shared / 2 - reserved + 256;
  }

  void embed(Bucket bucket) override {
    cuda::EmbedArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.table = model_.embedding.data;
    a.x = buffers_.x.as<float>();
    a.history = buffers_.history.as<int32_t>();
    a.hidden_size = dims_.hidden_size;
    a.max_context = dims_.max_context;
    a.turns = buffers_.turns.as<int32_t>();
    a.slots = buffers_.slots.as<const SlotParams>();
    a.angles = static_cast<cuda::Angle*>(buffers_.angles.data);
    a.places = static_cast<int64_t*>(buffers_.places.data);
    a.rope = rope_tables();
    a.map = map_;
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.rows_in_step = bucket.rows;
    // The step's first kernel: what copies and the step before did is done when it starts.
    cuda::Queue queue = queue_;
    if (queue.order == cuda::Order::early) queue.order = cuda::Order::first;
    cuda::enqueue_embed(dtype_, a, queue);
    queue_.wide = queue.wide;
  }

  void qkv(Bucket bucket, const Layer& layer) override {
    const cuda::RopeAppendArgs rope = rope_args(bucket, layer);
    const cuda::Product product = with_norm(bucket, qkv_product(bucket, layer, rope));
    const bool appended = products_.run(product) && product.rope;
    if (!appended && !attention_takes_raw(bucket)) cuda::enqueue_rope_append(dtype_, rope, queue_);
  }

  void attend(Bucket bucket, const Layer& layer) override {
    const cuda::AttentionArgs args = attention_args(bucket, layer);
    if (!attention_takes_raw(bucket)) return cuda::enqueue_attention(dtype_, args, queue_);
    const cuda::RopeAppendArgs raw = rope_args(bucket, layer);
    cuda::enqueue_attention_tiles(dtype_, args, queue_, &raw);
  }

  void add_project(Bucket bucket, const View& in, const Linear& linear, const View& next_norm) override {
    if (!products_.run(with_next_norm(bucket, project_product(bucket, in, linear), next_norm)) && linear.bias)
      add_bias(buffers_.x, linear.bias, bucket.rows);
  }

  void gate_up(Bucket bucket, const Layer& layer) override {
    if (products_.run(with_norm(bucket, gate_up_product(bucket, layer)))) return;
    cuda::SiluMulArgs a{};
    a.gate_up = buffers_.gate_up.data;
    a.bias = layer.gate_up.bias.data;
    a.h = buffers_.h.data;
    a.intermediate_size = dims_.intermediate_size;
    cuda::enqueue_silu_mul(dtype_, a, bucket.rows, queue_);
  }

  void logits(Bucket bucket) override {
    if (!products_.run(logits_product(bucket)) && model_.lm_head.bias)
      add_bias(buffers_.logits, model_.lm_head.bias, bucket.logit_rows);
  }

  void sample(Bucket bucket) override {
    cuda::SampleArgs a{};
    a.rows = buffers_.rows.as<Row>();
    a.logit_rows = buffers_.logit_rows.as<const int32_t>();
    a.slots = buffers_.slots.as<const SlotParams>();
    a.history = buffers_.history.as<const int32_t>();
    a.biases = buffers_.biases.as<const SlotBias>();
    a.token_words = buffers_.token_words.as<uint32_t>();
    a.logits = buffers_.logits.as<const float>();
    a.scans = buffers_.scans.as<LogitScan>();
    a.sampled = buffers_.sampled.as<Sampled>();
    a.told = buffers_.told;
    a.turns = buffers_.turns.as<const int32_t>();
    a.told_stride = dims_.max_logit_rows;
    a.top = buffers_.top.as<TopToken>();
    a.vocab_size = dims_.vocab_size;
    a.max_context = dims_.max_context;
    a.rows_in_list = bucket.logit_rows;
    cuda::enqueue_sample(a, queue_);
  }

  std::string kernels(Verb verb, Bucket bucket) const override {
    switch (verb) {
      case Verb::Embed: return "embed";
      case Verb::Attend: {
        const std::string name = cuda::attention_kernels(dtype_, attention_args(bucket, model_.layers[0]));
        return attention_takes_raw(bucket) ? name + " (makes q, k, v)" : name;
      }
      case Verb::Sample: return "scan + sample";
      default: break;
    }
    const cuda::RopeAppendArgs rope = rope_args(bucket, model_.layers[0]);
    const cuda::Product product = product_of(verb, bucket, rope);
    const std::string name = products_.kernels(product);
    return verb == Verb::Qkv && product.output == cuda::StreamOutput::store && !attention_takes_raw(bucket)
               ? name + " + rope_append"
               : name;
  }
  size_t forms(Verb verb, Bucket bucket) override {
    return on_product(verb, bucket, size_t{1}, [&](const cuda::Product& p) { return products_.forms(p); });
  }
  size_t form(Verb verb, Bucket bucket) override {
    return on_product(verb, bucket, size_t{0}, [&](const cuda::Product& p) { return products_.form(p); });
  }
  void choose(Verb verb, Bucket bucket, size_t form) override {
    on_product(verb, bucket, 0, [&](const cuda::Product& p) { return products_.choose(p, form), 0; });
  }

 private:
  // Whether attention makes q, k and v of what the product leaves: of one row each of its blocks can make the
  // heads that it needs. Blocks that need the same ones make them alike.
  bool attention_takes_raw(Bucket bucket) const {
    return bucket.rows == 1 && cuda::attention_tiles_fit(dtype_, static_cast<int>(dims_.head_dim));
  }
  cuda::Product qkv_product(Bucket bucket, const Layer& layer, const cuda::RopeAppendArgs& rope) const {
    // The heads are normalised between the product and the rotation, which then adds the bias too, or
    // attention makes them.
    const bool split = layer.q_norm || attention_takes_raw(bucket);
    return {Verb::Qkv,
            bucket.rows,
            buffers_.norm,
            layer.attention_norm,
            nullptr,
            split ? Linear{layer.qkv.weight, {}} : layer.qkv,
            buffers_.qkv,
            false,
            split ? cuda::StreamOutput::store : cuda::StreamOutput::rope_append,
            buffers_.qkv.data,
            split ? nullptr : &rope};
  }
  cuda::Product project_product(Bucket bucket, const View& in, const Linear& linear) const {
    return {in.data == buffers_.o.data ? Verb::OProj : Verb::DownProj,
            bucket.rows,
            in,
            {},
            nullptr,
            linear,
            buffers_.x,
            true,
            cuda::StreamOutput::add_f32,
            buffers_.x.data,
            nullptr};
  }
  cuda::Product gate_up_product(Bucket bucket, const Layer& layer) const {
    return {Verb::GateUp,     bucket.rows, buffers_.norm,
            layer.mlp_norm,   nullptr,     layer.gate_up,
            buffers_.gate_up, false,       cuda::StreamOutput::silu_mul,
            buffers_.h.data,  nullptr};
  }
  cuda::Product logits_product(Bucket bucket) const {
    return {Verb::Logits,
            bucket.logit_rows,
            buffers_.norm,
            model_.final_norm,
            buffers_.logit_rows.as<const int32_t>(),
            model_.lm_head,
            buffers_.logits,
            false,
            cuda::StreamOutput::store_f32,
            buffers_.logits.data,
            nullptr};
  }
  // Whether the projection before the verb's product begins its norm. The same for all layers but the first.
  bool norm_begun(Bucket bucket, Verb verb) const {
    const Layer& layer = model_.layers[0];
    const cuda::RopeAppendArgs rope = rope_args(bucket, layer);
    return verb == Verb::GateUp ? products_.begin_norms(project_product(bucket, buffers_.o, layer.o_proj),
                                                        gate_up_product(bucket, layer))
                                : products_.begin_norms(project_product(bucket, buffers_.h, layer.down_proj),
                                                        qkv_product(bucket, layer, rope));
  }
  cuda::Product with_norm(Bucket bucket, cuda::Product product) const {
    const bool first =
        product.verb == Verb::Qkv && product.norm_weight.data == model_.layers[0].attention_norm.data;
    product.norm_begun = !first && norm_begun(bucket, product.verb);
    return product;
  }
  cuda::Product with_next_norm(Bucket bucket, cuda::Product product, const View& norm) const {
    if (norm && norm_begun(bucket, product.verb == Verb::OProj ? Verb::GateUp : Verb::Qkv))
      product.next_norm = norm;
    return product;
  }
  // A verb's product in the first layer, whose shapes are those of all; of a verb that has one.
  cuda::Product product_of(Verb verb, Bucket bucket, const cuda::RopeAppendArgs& rope) const {
    const Layer& layer = model_.layers[0];
    switch (verb) {
      case Verb::Qkv: {
        cuda::Product product = qkv_product(bucket, layer, rope);
        product.norm_begun = model_.layers.size() > 1 && norm_begun(bucket, verb);  // as in most layers
        return product;
      }
      case Verb::OProj: return project_product(bucket, buffers_.o, layer.o_proj);
      case Verb::GateUp: return with_norm(bucket, gate_up_product(bucket, layer));
      case Verb::DownProj: return project_product(bucket, buffers_.h, layer.down_proj);
      default: return logits_product(bucket);
    }
  }
  template <class T, class F>
  T on_product(Verb verb, Bucket bucket, T otherwise, F&& call) const {
    if (verb == Verb::Embed || verb == Verb::Attend || verb == Verb::Sample) return otherwise;
    const cuda::RopeAppendArgs rope = rope_args(bucket, model_.layers[0]);
    return call(product_of(verb, bucket, rope));
  }

  cuda::RopeTables rope_tables() const {
    const Rope& rope = model_.rope;
    return {rope.inv_freq.as<const float>(),
            rope.long_inv_freq.as<const float>(),
            rope.scaling,
            rope.long_scaling,
            rope.original_length,
            rope.dynamic,
            rope.dynamic_theta,
            rope.dynamic_factor};
  }
  cuda::RopeAppendArgs rope_args(Bucket bucket, const Layer& layer) const {
    cuda::RopeAppendArgs a{};
    a.angles = static_cast<const cuda::Angle*>(buffers_.angles.data);
    a.places = static_cast<const int64_t*>(buffers_.places.data);
    a.qkv = buffers_.qkv.data;
    a.bias = layer.qkv.bias.data;
    a.q_norm = layer.q_norm.data;
    a.k_norm = layer.k_norm.data;
    a.q = buffers_.q.data;
    a.k_pages = layer.pages.k.data;
    a.v_pages = layer.pages.v.data;
    a.page_shift = map_.page_shift;
    a.heads = static_cast<int>(dims_.heads);
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.rows_in_step = bucket.rows;
    a.eps = model_.rms_norm_eps;
    return a;
  }
  cuda::AttentionArgs attention_args(Bucket bucket, const Layer& layer) const {
    cuda::AttentionArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.q = buffers_.q.data;
    a.k_pages = layer.pages.k.data;
    a.v_pages = layer.pages.v.data;
    a.o = buffers_.o.data;
    a.partial_o = buffers_.partial_o.as<float>();
    a.partial_ml = buffers_.partial_ml.as<float>();
    a.tickets = buffers_.tickets.as<int>();
    a.slots = buffers_.slots.as<const SlotParams>();
    a.rope = rope_tables();
    a.map = map_;
    a.pages = dims_.pages;
    a.sliding_window = layer.sliding_window;
    a.heads = static_cast<int>(dims_.heads);
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.capacity = attention_splits(dims_, bucket.rows);
    a.rows_in_step = bucket.rows;
    a.look_ahead = bucket.rows <= (dims_.head_dim > 64 ? kLookAheadRows : kLookAheadRowsOfSmallHeads);
    return a;
  }
  void add_bias(const View& x, const View& bias, int rows) {
    cuda::enqueue_add_bias(dtype_, {x.as<float>(), bias.data, bias.shape[0]}, rows, queue_);
  }

  StepDims dims_;
  StepBuffers buffers_;
  Model model_;
  cuda::Queue queue_;
  DType dtype_;
  cuda::PageMap map_{};
  cuda::Products products_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                   cudaStream_t stream, CudaForms forms) {
  return std::make_unique<CudaOps>(dims, buffers, model, stream, forms);
}

}  // namespace rondo
