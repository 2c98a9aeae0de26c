#include "kernels/cuda/cuda_ops.h"

#include <functional>
#include <string>

#include "buffers/cuda_check.h"
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

// Up to how many rows the streaming kernels are taken, and up to how many they normalise their input
// themselves.
constexpr int kFewRows = 4;
constexpr int kNormedRows = 4;

class CudaOps : public Ops {
 public:
  CudaOps(const StepDims& dims, const StepBuffers& buffers, const Model& model, cudaStream_t stream,
          CudaForms forms)
      : dims_(dims),
        buffers_(buffers),
        model_(model),
        queue_{stream, cuda::Order::after, 0, 0},
        forms_(forms),
        dtype_(dims.weight_dtype),
        gemm_((check_model(dims, model), buffers.workspace), stream) {
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
    if (forms_.early && major >= 9) queue_.order = cuda::Order::early;
    queue_.bulk_copies = major >= 9;
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
    a.rows_in_step = bucket.rows;
    // The step's first kernel: what copies and the step before did is done when it starts.
    cuda::Queue queue = queue_;
    if (queue.order == cuda::Order::early) queue.order = cuda::Order::first;
    cuda::enqueue_embed(dtype_, a, queue);
    queue_.wide = queue.wide;
  }

  void qkv(Bucket bucket, const Layer& layer) override {
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
    a.rows_in_step = bucket.rows;
    a.eps = model_.rms_norm_eps;
    const NormedInput x{layer.attention_norm, nullptr};
    if (!layer.q_norm) {
      if (stream(bucket.rows, x, layer.qkv, nullptr, cuda::StreamOutput::rope_append, &a)) return;
    } else if (stream(bucket.rows, x, {layer.qkv.weight, {}}, buffers_.qkv.data, cuda::StreamOutput::store)) {
      return cuda::enqueue_rope_append(dtype_, a, queue_);
    }
    norm(x, bucket.rows);
    gemm_.multiply(buffers_.norm, layer.qkv.weight, buffers_.qkv, bucket.rows, false);
    cuda::enqueue_rope_append(dtype_, a, queue_);
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
    a.tickets = buffers_.tickets.as<int>();
    a.map = map_;
    a.sliding_window = layer.sliding_window;
    a.heads = static_cast<int>(dims_.heads);
    a.kv_heads = static_cast<int>(dims_.kv_heads);
    a.head_dim = static_cast<int>(dims_.head_dim);
    a.capacity = attention_splits(dims_, bucket.rows);
    a.rows_in_step = bucket.rows;
    a.look_ahead = bucket.rows <= kFewRows;
    cuda::enqueue_attention(dtype_, a, queue_);
  }

  void add_project(Bucket bucket, const View& in, const Linear& linear) override {
    if (stream(bucket.rows, in.data, linear, buffers_.x.data, cuda::StreamOutput::add_f32)) return;
    gemm_.multiply(in, linear.weight, buffers_.x, bucket.rows, true);
    if (linear.bias) add_bias(buffers_.x, linear.bias, bucket.rows);
  }

  void gate_up(Bucket bucket, const Layer& layer) override {
    const NormedInput x{layer.mlp_norm, nullptr};
    if (stream(bucket.rows, x, layer.gate_up, buffers_.h.data, cuda::StreamOutput::silu_mul)) return;
    norm(x, bucket.rows);
    gemm_.multiply(buffers_.norm, layer.gate_up.weight, buffers_.gate_up, bucket.rows, false);
    cuda::SiluMulArgs a{};
    a.gate_up = buffers_.gate_up.data;
    a.bias = layer.gate_up.bias.data;
    a.h = buffers_.h.data;
    a.intermediate_size = dims_.intermediate_size;
    cuda::enqueue_silu_mul(dtype_, a, bucket.rows, queue_);
  }

  void logits(Bucket bucket) override {
    const NormedInput x{model_.final_norm, buffers_.logit_rows.as<const int32_t>()};
    if (stream(bucket.logit_rows, x, model_.lm_head, buffers_.logits.data, cuda::StreamOutput::store_f32))
      return;
    norm(x, bucket.logit_rows);
    gemm_.multiply(buffers_.norm, model_.lm_head.weight, buffers_.logits, bucket.logit_rows, false);
    if (model_.lm_head.bias) add_bias(buffers_.logits, model_.lm_head.bias, bucket.logit_rows);
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
    a.top = buffers_.top.as<TopToken>();
    a.vocab_size = dims_.vocab_size;
    a.max_context = dims_.max_context;
    a.rows_in_list = bucket.logit_rows;
    cuda::enqueue_sample(a, queue_);
  }

 private:
  // The residual stream, or those of its rows that `gather` names, normalised.
  struct NormedInput {
    View weight;
    const int32_t* gather;
  };

  void norm(const NormedInput& x, int rows) {
    cuda::RmsNormArgs a{};
    a.x = buffers_.x.as<const float>();
    a.gather = x.gather;
    a.weight = x.weight.data;
    a.out = buffers_.norm.data;
    a.hidden_size = dims_.hidden_size;
    a.rows = rows;
    a.eps = model_.rms_norm_eps;
    cuda::enqueue_rmsnorm(dtype_, a, queue_);
  }

  // Enqueues out = f(in W^T + bias) as one streaming kernel, or returns false where that form does not serve.
  bool stream(int rows, const void* in, const Linear& linear, void* out, cuda::StreamOutput output,
              const cuda::RopeAppendArgs* rope = nullptr) {
    cuda::StreamGemmArgs a = stream_args(rows, linear, out, output, rope);
    a.in = in;
    a.input = cuda::StreamInput::plain;
    return stream(a);
  }
  bool stream(int rows, const NormedInput& x, const Linear& linear, void* out, cuda::StreamOutput output,
              const cuda::RopeAppendArgs* rope = nullptr) {
    cuda::StreamGemmArgs a = stream_args(rows, linear, out, output, rope);
    a.in = buffers_.x.data;
    a.gather = x.gather;
    a.norm_weight = x.weight.data;
    a.eps = model_.rms_norm_eps;
    a.input = cuda::StreamInput::norm;
    // The kernel multiplies x by the norm's weight before it knows how large x is: too far for f16's range.
    if (dtype_ == DType::bf16 && rows <= kNormedRows && stream(a)) return true;
    a.in = buffers_.norm.data;
    a.input = cuda::StreamInput::plain;
    return stream(a, [&] { norm(x, rows); });
  }
  // `before`: what is to be enqueued before it, if it serves.
  bool stream(
      cuda::StreamGemmArgs& a, const std::function<void()>& before = [] {}) {
    if (!forms_.streamed || dtype_ == DType::f32 || a.rows > kFewRows) return false;
    const bool one = cuda::stream_row_fits(a, queue_);
    if (!one && !cuda::stream_gemm_fits(a, queue_)) return false;
    before();
    one ? cuda::enqueue_stream_row(dtype_, a, queue_) : cuda::enqueue_stream_gemm(dtype_, a, queue_);
    return true;
  }
  cuda::StreamGemmArgs stream_args(int rows, const Linear& linear, void* out, cuda::StreamOutput output,
                                   const cuda::RopeAppendArgs* rope) const {
    cuda::StreamGemmArgs a{};
    a.weight = linear.weight.data;
    a.bias = linear.bias.data;
    a.out = out;
    a.N = static_cast<int>(linear.weight.shape[0]);
    a.K = static_cast<int>(linear.weight.shape[1]);
    a.rows = rows;
    a.output = output;
    if (rope) a.rope = *rope;
    return a;
  }
  void add_bias(const View& x, const View& bias, int rows) {
    cuda::enqueue_add_bias(dtype_, {x.as<float>(), bias.data, bias.shape[0]}, rows, queue_);
  }

  StepDims dims_;
  StepBuffers buffers_;
  Model model_;
  cuda::Queue queue_;
  CudaForms forms_;
  DType dtype_;
  cuda::PageMap map_{};
  cuda::Gemm gemm_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                   cudaStream_t stream, CudaForms forms) {
  return std::make_unique<CudaOps>(dims, buffers, model, stream, forms);
}

}  // namespace rondo
