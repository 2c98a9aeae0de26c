#include "kernels/cuda/cuda_ops.h"

#include <string>

#include "buffers/error.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launchers.h"

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

class CudaOps : public Ops {
 public:
  CudaOps(const StepDims& dims, const StepBuffers& buffers, const Model& model, cudaStream_t stream)
      : dims_(dims),
        buffers_(buffers),
        model_(model),
        stream_(stream),
        dtype_(dims.weight_dtype),
        gemm_((check_model(dims, model), buffers.workspace), stream) {
    map_.page_tables = buffers_.page_tables.as<const int32_t>();
    map_.pages_per_slot = dims_.pages_per_slot();
    while ((1 << map_.page_shift) < dims_.page_size) ++map_.page_shift;
  }

  void embed(Bucket bucket) override {
    cuda::EmbedArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.table = model_.embedding.data;
    a.x = buffers_.x.as<float>();
    a.history = buffers_.history.as<int32_t>();
    a.hidden_size = dims_.hidden_size;
    a.max_context = dims_.max_context;
    cuda::enqueue_embed(dtype_, a, bucket.rows, stream_);
  }

  void qkv(Bucket bucket, const Layer& layer) override {
    norm(layer.attention_norm, bucket.rows, nullptr);
    gemm_.multiply(buffers_.norm, layer.qkv.weight, buffers_.qkv, bucket.rows, false);
    cuda::RopeAppendArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.slots = buffers_.slots.as<const SlotParams>();
    a.qkv = buffers_.qkv.data;
    a.bias = layer.qkv.bias.data;
    a.q_norm = layer.q_norm.data;
    a.k_norm = layer.k_norm.data;
    a.q = buffers_.q.data;
    a.k_pages = layer.pages.k.data;
    a.v_pages = layer.pages.v.data;
    a.map = map_;
    const Rope& rope = model_.rope;
    a.rope = {rope.inv_freq.as<const float>(),
              rope.long_inv_freq.as<const float>(),
              rope.scaling,
              rope.long_scaling,
              rope.original_length,
              rope.dynamic,
              rope.dynamic_theta,
              rope.dynamic_factor};
    a.heads = static_cast<int>(dims_.heads);
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.eps = model_.rms_norm_eps;
    cuda::enqueue_rope_append(dtype_, a, bucket.rows, stream_);
  }

  void attend(Bucket bucket, const Layer& layer) override {
    cuda::AttentionArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.q = buffers_.q.data;
    a.k_pages = layer.pages.k.data;
    a.v_pages = layer.pages.v.data;
    a.o = buffers_.o.data;
    a.partial_o = buffers_.partial_o.as<float>();
    a.partial_ml = buffers_.partial_ml.as<float>();
    a.map = map_;
    a.sliding_window = layer.sliding_window;
    a.heads = static_cast<int>(dims_.heads);
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.splits = attention_splits(dims_, bucket.rows);
    cuda::enqueue_attention(dtype_, a, bucket.rows, stream_);
  }

  void add_project(Bucket bucket, const View& in, const Linear& linear) override {
    gemm_.multiply(in, linear.weight, buffers_.x, bucket.rows, true);
    if (linear.bias) add_bias(buffers_.x, linear.bias, bucket.rows);
  }

  void gate_up(Bucket bucket, const Layer& layer) override {
    norm(layer.mlp_norm, bucket.rows, nullptr);
    gemm_.multiply(buffers_.norm, layer.gate_up.weight, buffers_.gate_up, bucket.rows, false);
    cuda::SiluMulArgs a{};
    a.gate_up = buffers_.gate_up.data;
    a.bias = layer.gate_up.bias.data;
    a.h = buffers_.h.data;
    a.intermediate_size = dims_.intermediate_size;
    cuda::enqueue_silu_mul(dtype_, a, bucket.rows, stream_);
  }

  void logits(Bucket bucket) override {
    norm(model_.final_norm, bucket.logit_rows, buffers_.logit_rows.as<const int32_t>());
    gemm_.multiply(buffers_.norm, model_.lm_head.weight, buffers_.logits, bucket.logit_rows, false);
    if (model_.lm_head.bias) add_bias(buffers_.logits, model_.lm_head.bias, bucket.logit_rows);
  }

  void sample(Bucket bucket) override {
    cuda::SampleArgs a{};
    a.rows = buffers_.rows.as<const Row>();
    a.logit_rows = buffers_.logit_rows.as<const int32_t>();
    a.slots = buffers_.slots.as<const SlotParams>();
    a.history = buffers_.history.as<const int32_t>();
    a.biases = buffers_.biases.as<const SlotBias>();
    a.token_words = buffers_.token_words.as<uint32_t>();
    a.logits = buffers_.logits.as<const float>();
    a.sampled = buffers_.sampled.as<Sampled>();
    a.top = buffers_.top.as<TopToken>();
    a.vocab_size = dims_.vocab_size;
    a.max_context = dims_.max_context;
    cuda::enqueue_sample(a, bucket.logit_rows, stream_);
  }

 private:
  void norm(const View& weight, int rows, const int32_t* gather) {
    cuda::RmsNormArgs a{};
    a.x = buffers_.x.as<const float>();
    a.gather = gather;
    a.weight = weight.data;
    a.out = buffers_.norm.data;
    a.hidden_size = dims_.hidden_size;
    a.eps = model_.rms_norm_eps;
    cuda::enqueue_rmsnorm(dtype_, a, rows, stream_);
  }

  void add_bias(const View& x, const View& bias, int rows) {
    cuda::enqueue_add_bias(dtype_, {x.as<float>(), bias.data, bias.shape[0]}, rows, stream_);
  }

  StepDims dims_;
  StepBuffers buffers_;
  Model model_;
  cudaStream_t stream_;
  DType dtype_;
  cuda::PageMap map_{};
  cuda::Gemm gemm_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                   cudaStream_t stream) {
  return std::make_unique<CudaOps>(dims, buffers, model, stream);
}

}  // namespace rondo
