// The seven verbs on the CPU. A verb is a few loops over rows or outputs that the pool's threads share; on
// return it has happened. Activations are fp32; scratch is allocated by the constructor and never again.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "buffers/error.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/sharing.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace rondo {
namespace {

// In multiply-adds, what an element costs in loops that are no products.
constexpr int64_t kNormElement = 4;
constexpr int64_t kPlacedElement = 4;  // normalised, rotated and stored
constexpr int64_t kScoreElement = 8;   // an exponential, and its share of the sums
constexpr int64_t kSampledElement = 16;

int64_t weight_bytes(const Model& model) {
  uint64_t bytes = model.lm_head.weight ? model.lm_head.weight.bytes() : 0;
  for (const Layer& layer : model.layers)
    for (const Linear* linear : {&layer.qkv, &layer.o_proj, &layer.gate_up, &layer.down_proj})
      if (linear->weight) bytes += linear->weight.bytes();
  return static_cast<int64_t>(bytes);
}

void store_as(DType dtype, const float* x, int64_t n, void* pages, int64_t offset) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(static_cast<float*>(pages) + offset, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::f16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(pages)[offset + i] = f16_from_f32(x[i]);
      return;
    default:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(pages)[offset + i] = bf16_from_f32(x[i]);
  }
}

class CpuOps final : public Ops {
 public:
  std::string kernels(Verb verb, Bucket) const override {
    switch (verb) {
      case Verb::Embed: return "embed";
      case Verb::Qkv: return "rms_norm + " + multiplied() + " + rotate + append";
      case Verb::Attend: return "attend";
      case Verb::GateUp: return "rms_norm + " + multiplied() + " + silu_mul";
      case Verb::Logits: return "rms_norm + " + multiplied();
      case Verb::Sample: return "sample";
      default: return multiplied();
    }
  }

  CpuOps(const StepDims& dims, const StepBuffers& buffers, const Model& model, int threads, CpuForms forms)
      : d_(dims),
        b_(buffers),
        model_(model),
        weight_bytes_(weight_bytes(model)),
        pairs_(forms.pairs && dims.weight_dtype == DType::bf16 && has_pairs()),
        worth_sharing_ns_(forms.worth_sharing_ns),
        pool_(threads),
        active_(static_cast<size_t>(dims.max_rows())),
        rounded_(pairs_ ? static_cast<size_t>(dims.max_rows() * std::max({dims.hidden_size, dims.q_size(),
                                                                          dims.intermediate_size}))
                        : 0),
        cos_sin_(static_cast<size_t>(pool_.threads()),
                 std::vector<float>(static_cast<size_t>(dims.head_dim))),
        attend_scratch_(static_cast<size_t>(pool_.threads()),
                        std::vector<float>(attend_scratch_floats(group()))),
        multiply_scratch_(static_cast<size_t>(pool_.threads()),
                          std::vector<float>(multiply_scratch_floats())),
        sample_scratch_(static_cast<size_t>(pool_.threads()),
                        SampleScratch(static_cast<size_t>(dims.vocab_size))) {}

  void embed(Bucket bucket) override {
    const int64_t H = d_.hidden_size;
    share(bucket.rows, {bucket.rows * H, bucket.rows * H * element()}, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r)
        widen(model_.embedding, static_cast<size_t>(row(r).token * H), static_cast<size_t>(H), x(r));
    });
    auto* turns = b_.turns.as<int32_t>();
    turns[1] = std::exchange(turns[0], turns[0] ^ 1);
    for (int64_t r = 0; r < bucket.rows; ++r)
      if (row(r).slot != 0) history(row(r).slot)[row(r).position] = row(r).token;
  }

  void qkv(Bucket bucket, const Layer& layer) override {
    norm_rows(bucket.rows, layer.attention_norm, [](int64_t r) { return r; });
    product(b_.norm, layer.qkv, bucket.rows, b_.qkv, false);
    share(bucket.rows, {bucket.rows * d_.qkv_size() * kPlacedElement, 0},
          [&](int64_t begin, int64_t end, int thread) {
            for (int64_t r = begin; r < end; ++r)
              place_heads(r, layer, cos_sin_[static_cast<size_t>(thread)].data());
          });
  }

  void attend(Bucket bucket, const Layer& layer) override {
    size_t count = 0;
    int64_t positions = 0;  // of all rows that attend
    for (int64_t r = 0, last = 0; r < bucket.rows; ++r) {
      if (row(r).run > 0) last = r + row(r).run;
      if (r >= last) continue;
      active_[count++] = static_cast<int32_t>(r);
      const int64_t seen = row(r).position + 1;
      positions += layer.sliding_window > 0 ? std::min(seen, layer.sliding_window) : seen;
    }
    const Work work = {positions * (2 * d_.q_size() + d_.heads * kScoreElement),
                       positions * 2 * d_.kv_size() * element()};
    share(static_cast<int64_t>(count) * d_.kv_heads, work, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i)
        attend_one(active_[static_cast<size_t>(i / d_.kv_heads)], i % d_.kv_heads, layer,
                   attend_scratch_[static_cast<size_t>(thread)].data());
    });
  }

  void add_project(Bucket bucket, const View& in, const Linear& linear, const View&) override {
    product(in, linear, bucket.rows, b_.x, true);
  }

  void gate_up(Bucket bucket, const Layer& layer) override {
    norm_rows(bucket.rows, layer.mlp_norm, [](int64_t r) { return r; });
    const int64_t F = d_.intermediate_size;
    const Product p = prepare(b_.norm, layer.gate_up, bucket.rows, b_.gate_up, false);
    // A thread makes the gates and the ups of its own range, so that it can join them without waiting for
    // another.
    share(
        groups(F), work_of(layer.gate_up, bucket.rows),
        [&](int64_t begin, int64_t end, int thread) {
          float* scratch = multiply_scratch_[static_cast<size_t>(thread)].data();
          const int64_t from = begin * kProductGroup, to = std::min(F, end * kProductGroup);
          multiply(p, static_cast<size_t>(from), static_cast<size_t>(to), scratch);
          multiply(p, static_cast<size_t>(F + from), static_cast<size_t>(F + to), scratch);
          for (int64_t r = 0; r < bucket.rows; ++r) {
            const float* gate = b_.gate_up.as<float>() + r * 2 * F;
            silu_multiply(gate + from, gate + F + from, static_cast<size_t>(to - from),
                          b_.h.as<float>() + r * F + from);
          }
        },
        kProductPiece);
  }

  void logits(Bucket bucket) override {
    norm_rows(bucket.logit_rows, model_.final_norm,
              [&](int64_t l) { return int64_t{b_.logit_rows.as<int32_t>()[l]}; });
    product(b_.norm, model_.lm_head, bucket.logit_rows, b_.logits, false);
  }

  void sample(Bucket bucket) override {
    const int64_t V = d_.vocab_size;
    share(bucket.logit_rows, {bucket.logit_rows * V * kSampledElement, 0},
          [&](int64_t begin, int64_t end, int thread) {
            const auto* list = b_.logit_rows.as<int32_t>();
            for (int64_t l = begin; l < end; ++l) {
              if (std::find(list, list + l, list[l]) != list + l) continue;  // the row is another entry's
              const Row from = row(list[l]);
              SampleRow of;
              of.logits = {b_.logits.as<float>() + l * V, static_cast<size_t>(V)};
              of.params = slot(from.slot);
              of.position = from.position;
              of.history = {history(from.slot), static_cast<size_t>(from.position) + 1};
              of.biases = b_.biases.as<SlotBias>() + from.slot * kMaxSlotBiases;
              of.token_words = b_.token_words.as<uint32_t>() + l * V;
              of.top = b_.top.as<TopToken>() + l * kMaxTopTokens;
              const Sampled drawn = sample_row(of, sample_scratch_[static_cast<size_t>(thread)]);
              b_.sampled.as<Sampled>()[l] = drawn;
              if (b_.told) b_.told[b_.turns.as<int32_t>()[1] * d_.max_logit_rows + l] = drawn;
              if (from.slot == 0) continue;
              const int32_t moved = from.position < of.params.last_position ? 1 : 0;
              b_.rows.as<Row>()[list[l]] = {drawn.token, from.position + moved, from.slot, from.run};
            }
          });
  }

 private:
  size_t group() const { return static_cast<size_t>(d_.heads / d_.kv_heads); }
  static int64_t groups(int64_t outputs) { return (outputs + kProductGroup - 1) / kProductGroup; }
  const Row& row(int64_t r) const { return b_.rows.as<Row>()[r]; }
  const SlotParams& slot(int64_t s) const { return b_.slots.as<SlotParams>()[s]; }
  int32_t* history(int64_t s) const { return b_.history.as<int32_t>() + s * d_.max_context; }
  float* x(int64_t r) const { return b_.x.as<float>() + r * d_.hidden_size; }

  // parallel_for where all n items together are worth it.
  template <class F>
  void share(int64_t n, const Work& work, const F& f, int64_t grain = 1) {
    if (n == 0) return;
    if (nanoseconds_alone(work, weight_bytes_) < worth_sharing_ns_) return f(0, n, 0);
    pool_.parallel_for(n, grain, f);
  }
  int64_t element() const { return static_cast<int64_t>(dtype_bytes(d_.weight_dtype)); }
  static Work work_of(const Linear& linear, int64_t rows) {
    const int64_t elements = static_cast<int64_t>(linear.weight.shape.elements());
    return {elements * rows, elements * static_cast<int64_t>(dtype_bytes(linear.weight.dtype))};
  }

  std::string multiplied() const { return pairs_ ? "multiply_pairs" : "multiply"; }

  // Rounds the activations where products take them so.
  Product prepare(const View& in, const Linear& linear, int64_t rows, const View& out, bool add) {
    const int64_t K = in.shape[1];
    Product p;
    p.x = in.as<float>();
    if (pairs_) {
      share(rows, {rows * K, 0}, [&](int64_t begin, int64_t end, int) {
        const int64_t first = begin * K;
        round_to_bf16(p.x + first, static_cast<size_t>((end - begin) * K), rounded_.data() + first);
      });
      p.rounded = rounded_.data();
    }
    p.x_stride = static_cast<size_t>(K);
    p.rows = static_cast<size_t>(rows);
    p.weight = linear.weight;
    p.bias = linear.bias;
    p.y = out.as<float>();
    p.y_stride = static_cast<size_t>(out.shape[1]);
    p.add = add;
    return p;
  }

  void product(const View& in, const Linear& linear, int64_t rows, const View& out, bool add) {
    const Product p = prepare(in, linear, rows, out, add);
    const int64_t outputs = linear.weight.shape[0];
    share(
        groups(outputs), work_of(linear, rows),
        [&](int64_t begin, int64_t end, int thread) {
          multiply(p, static_cast<size_t>(begin * kProductGroup),
                   static_cast<size_t>(std::min(outputs, end * kProductGroup)),
                   multiply_scratch_[static_cast<size_t>(thread)].data());
        },
        kProductPiece);
  }

  // norm[i] = RMSNorm(x[from(i)]) * weight
  template <class From>
  void norm_rows(int64_t rows, const View& weight, const From& from) {
    const int64_t H = d_.hidden_size;
    share(rows, {rows * H * kNormElement, 0}, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        rms_norm(x(from(i)), weight, model_.rms_norm_eps, static_cast<size_t>(H),
                 b_.norm.as<float>() + i * H);
    });
  }

  // One row's q, k and v from `qkv`: norm and rotate heads, q to `q`, k and v to their place in the pages.
  void place_heads(int64_t r, const Layer& layer, float* cos_sin) {
    const int64_t D = d_.head_dim, Q = d_.q_size(), KV = d_.kv_size();
    const Row at = row(r);
    rope_angles(model_.rope, D, at.position, slot(at.slot).prompt_length, cos_sin);
    float* q = b_.qkv.as<float>() + r * d_.qkv_size();
    for (int64_t h = 0; h < d_.heads + d_.kv_heads; ++h) {
      float* head = q + h * D;
      const View& norm = h < d_.heads ? layer.q_norm : layer.k_norm;
      if (norm) rms_norm(head, norm, model_.rms_norm_eps, static_cast<size_t>(D), head);
      rotate(cos_sin, D, head);
    }
    std::memcpy(b_.q.as<float>() + r * Q, q, static_cast<size_t>(Q) * sizeof(float));
    if (at.slot == 0)
      return;  // padding: nobody reads the scrap page, and all padding rows would write the same place of it
    const int64_t page = page_table(at.slot)[at.position / d_.page_size];
    for (int64_t g = 0; g < d_.kv_heads; ++g) {
      const int64_t offset = ((page * d_.kv_heads + g) * d_.page_size + at.position % d_.page_size) * D;
      store_as(layer.pages.k.dtype, q + Q + g * D, D, layer.pages.k.data, offset);
      store_as(layer.pages.v.dtype, q + Q + KV + g * D, D, layer.pages.v.data, offset);
    }
  }

  void attend_one(int64_t r, int64_t kv_head, const Layer& layer, float* scratch) {
    const int64_t D = d_.head_dim, first = r * d_.q_size() + kv_head * static_cast<int64_t>(group()) * D;
    const Row at = row(r);
    HeadGroup heads;
    heads.q = b_.q.as<float>() + first;
    heads.o = b_.o.as<float>() + first;
    heads.group = group();
    heads.head_dim = static_cast<size_t>(D);
    heads.scale = 1.0f / std::sqrt(static_cast<float>(D));
    heads.dtype = layer.pages.k.dtype;
    heads.k = layer.pages.k.data;
    heads.v = layer.pages.v.data;
    heads.page_stride = static_cast<size_t>(d_.kv_heads * d_.page_size * D);
    heads.head_offset = static_cast<size_t>(kv_head * d_.page_size * D);
    heads.page_size = static_cast<size_t>(d_.page_size);
    heads.page_table = page_table(at.slot);
    heads.end = static_cast<size_t>(at.position) + 1;
    if (layer.sliding_window > 0)
      heads.begin = static_cast<size_t>(std::max<int64_t>(0, at.position - layer.sliding_window + 1));
    heads.scratch = scratch;
    attend_group(heads);
  }

  const int32_t* page_table(int64_t s) const {
    return b_.page_tables.as<int32_t>() + s * b_.page_tables.shape[1];
  }

  const StepDims d_;
  const StepBuffers b_;
  const Model model_;
  const int64_t weight_bytes_;
  const bool pairs_;
  const int64_t worth_sharing_ns_;
  ThreadPool pool_;
  std::vector<int32_t> active_;    // rows that attend, [R]
  std::vector<uint16_t> rounded_;  // a product's activations as bf16
  // one of each per thread
  std::vector<std::vector<float>> cos_sin_;
  std::vector<std::vector<float>> attend_scratch_;
  std::vector<std::vector<float>> multiply_scratch_;
  std::vector<SampleScratch> sample_scratch_;
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                  int threads, CpuForms forms) {
  if (dims.activation_dtype != DType::f32)
    throw Error(ErrorKind::InvalidArgument, std::string("activation_dtype: expected f32 on the CPU, found ") +
                                                dtype_name(dims.activation_dtype));
  if (dims.kv_heads < 1 || dims.heads % dims.kv_heads != 0)
    throw Error(ErrorKind::InvalidArgument, "heads: expected a multiple of kv_heads " +
                                                std::to_string(dims.kv_heads) + ", found " +
                                                std::to_string(dims.heads));
  return std::make_unique<CpuOps>(dims, buffers, model, threads, forms);
}

}  // namespace rondo
