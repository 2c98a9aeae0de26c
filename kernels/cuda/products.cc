#include "kernels/cuda/products.h"

#include <algorithm>

#include "buffers/error.h"

namespace rondo::cuda {
namespace {

// The rows up to which products are streamed where nobody chooses: where the activations fit in one phase,
// and with phases where tiles are not to be had. Without tiles, products of one phase up to eight. Measured
// with the 8B and 1B shapes on an H200; see docs/performance.md.
constexpr int kStreamedRows = 4;
constexpr int kStreamedRowsInOnePhase = 8;
// Tiles are taken up to so many rows, and beyond where W has so many elements.
constexpr int kTiledRows = 32;
constexpr int64_t kTiledElements = int64_t{48} << 20;
// Up to how many rows the streaming kernels normalise their input themselves.
constexpr int kNormedRows = 4;

Gemm::Product composed(const Product& p) { return {p.in, p.linear.weight, p.out, p.rows, p.accumulate}; }

}  // namespace

Products::Products(DType dtype, const StepBuffers& buffers, float eps, CudaForms forms, Queue& queue)
    : dtype_(dtype),
      buffers_(buffers),
      eps_(eps),
      forms_(forms),
      queue_(queue),
      gemm_(buffers.workspace, queue.stream) {}

std::optional<Products::Streamed> Products::streamed(const Product& p) const {
  if (!forms_.streamed || dtype_ == DType::f32) return std::nullopt;
  StreamGemmArgs a{};
  a.weight = p.linear.weight.data;
  a.bias = p.linear.bias.data;
  a.out = p.streamed_out;
  a.N = static_cast<int>(p.linear.weight.shape[0]);
  a.K = static_cast<int>(p.linear.weight.shape[1]);
  a.rows = p.rows;
  a.output = p.output;
  if (p.rope) a.rope = *p.rope;
  const auto fits = [&](bool norm_first) -> std::optional<Streamed> {
    const bool one = stream_row_fits(a, queue_);
    if (!one && !stream_gemm_fits(a, queue_)) return std::nullopt;
    return Streamed{a, one, norm_first};
  };
  // The kernel multiplies x by the norm's weight before it knows how large x is: too far for f16's range.
  if (p.norm_weight && dtype_ == DType::bf16 && p.rows <= kNormedRows) {
    a.in = buffers_.x.data;
    a.gather = p.gather;
    a.norm_weight = p.norm_weight.data;
    a.eps = eps_;
    a.input = StreamInput::norm;
    if (auto found = fits(false)) return found;
  }
  a.in = p.in.data;
  a.input = StreamInput::plain;
  return fits(static_cast<bool>(p.norm_weight));
}

std::optional<StreamTilesArgs> Products::tiles(const Product& p) const {
  if (!forms_.streamed || dtype_ == DType::f32) return std::nullopt;
  StreamTilesArgs a{};
  a.weight = p.linear.weight.data;
  a.bias = p.linear.bias.data;
  a.in = p.in.data;
  a.out = p.streamed_out;
  a.N = static_cast<int>(p.linear.weight.shape[0]);
  a.K = static_cast<int>(p.linear.weight.shape[1]);
  a.rows = p.rows;
  a.output = p.output;
  if (p.rope) a.rope = *p.rope;
  a.parts = buffers_.product_parts.as<float>();
  if (p.norm_begun) a.squares = buffers_.squares.as<const float>();
  a.eps = eps_;
  if (p.next_norm) {
    a.next_norm = p.next_norm.data;
    a.next_in = buffers_.norm.data;
    a.next_squares = buffers_.squares.as<float>();
  }
  const auto fits = [&] { return stream_tiles_fits(a, queue_, buffers_.product_parts.bytes()); };
  if (!fits() && p.output == StreamOutput::rope_append) {  // which is left to the caller, with the bias
    a.bias = nullptr;
    a.out = p.out.data;
    a.output = StreamOutput::store;
  }
  if (!fits()) return std::nullopt;
  return a;
}

Products::Form Products::unasked(const Product& p) const {
  const auto s = streamed(p);
  const bool whole = s && (s->one || s->args.phases == 1);
  if (whole && p.rows <= kStreamedRows) return {Form::streamed};
  const bool large = static_cast<int64_t>(p.linear.weight.shape.elements()) >= kTiledElements;
  if ((p.rows <= kTiledRows || large) && tiles(p)) return {Form::tiles};
  const bool few = whole && p.rows <= kStreamedRowsInOnePhase && p.verb != Verb::Logits;
  return {few || (s && p.rows <= kStreamedRows) ? Form::streamed : Form::composed};
}

Products::Form Products::taken(const Product& p) const {
  const auto chosen = choices_.find({p.verb, p.rows});
  return chosen == choices_.end() ? unasked(p) : chosen->second;
}

bool Products::begin_norms(const Product& one, const Product& other) const {
  return dtype_ == DType::bf16 && taken(one).kind == Form::tiles && taken(other).kind == Form::tiles &&
         one.rows <= kBegunRows && one.linear.weight.shape[0] % 16 == 0;
}

bool Products::run(const Product& p) {
  const Form form = taken(p);
  if (form.kind == Form::streamed) {
    const auto s = streamed(p);
    if (s->norm_first) norm(p);
    s->one ? enqueue_stream_row(dtype_, s->args, queue_) : enqueue_stream_gemm(dtype_, s->args, queue_);
    return true;
  }
  if (p.norm_weight && !p.norm_begun) norm(p);
  if (form.kind == Form::tiles) {
    const StreamTilesArgs args = *tiles(p);
    enqueue_stream_tiles(dtype_, args, queue_);
    return args.output == p.output;
  }
  gemm_.multiply(composed(p), form.algorithm);
  return false;
}

void Products::norm(const Product& p) {
  RmsNormArgs a{};
  a.x = buffers_.x.as<const float>();
  a.gather = p.gather;
  a.weight = p.norm_weight.data;
  a.out = p.in.data;
  a.hidden_size = buffers_.x.shape[1];
  a.rows = p.rows;
  a.eps = eps_;
  enqueue_rmsnorm(dtype_, a, queue_);
}

std::vector<Products::Form> Products::list(const Product& p) {
  std::vector<Form> all{unasked(p)};
  const auto add = [&](Form form) {
    if (form != all.front()) all.push_back(form);
  };
  for (size_t i = 0; i < gemm_.algorithms(composed(p)); ++i) add({Form::composed, i});
  if (streamed(p)) add({Form::streamed});
  if (tiles(p)) add({Form::tiles});
  return all;
}

size_t Products::forms(const Product& p) { return list(p).size(); }

size_t Products::form(const Product& p) {
  const auto all = list(p);
  return static_cast<size_t>(std::find(all.begin(), all.end(), taken(p)) - all.begin());
}

void Products::choose(const Product& p, size_t form) {
  const auto all = list(p);
  if (form >= all.size())
    throw Error(ErrorKind::InvalidArgument, std::string(verb_name(p.verb)) + ": expected a form below " +
                                                std::to_string(all.size()) + ", found " +
                                                std::to_string(form));
  choices_[{p.verb, p.rows}] = all[form];
}

std::string Products::kernels(const Product& p) const {
  const Form form = taken(p);
  if (form.kind == Form::streamed) {
    const auto s = streamed(p);
    return std::string(s->norm_first ? "rmsnorm + " : "") + (s->one ? "stream_row" : "stream_gemm");
  }
  std::string name = p.norm_weight && !p.norm_begun ? "rmsnorm + " : "";
  name += form.kind == Form::tiles ? "stream_tiles" : "cublasLt";
  if (form.algorithm) name += " (the heuristic's choice " + std::to_string(form.algorithm + 1) + ")";
  if (form.kind == Form::tiles && tiles(p)->output == p.output) return name;
  if (p.output == StreamOutput::rope_append) return name + " + rope_append";
  if (p.output == StreamOutput::silu_mul) return name + " + silu_mul";
  return p.linear.bias ? name + " + add_bias" : name;
}

}  // namespace rondo::cuda
