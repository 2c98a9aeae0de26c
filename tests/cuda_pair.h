// One model on two devices, for tests that hold the CUDA backend's verbs to the CPU backend's: the same
// numbers on both sides, and comparisons whose tolerance follows from the type and the length of the sums.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "buffers/arena.h"
#include "buffers/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "tests/cuda_test.h"
#include "tests/numbers.h"
#ifdef RONDO_SIMT
#include "tests/simt/fake_cudart.h"
#include "tests/simt/simt.h"
#endif

namespace rondo::test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// One layer of a model, and everything that changes which code runs.
struct Case {
  DType dtype = DType::f32;
  int64_t heads = 4, kv_heads = 2, head_dim = 8;
  int64_t hidden = 40, intermediate = 56, vocab = 90;
  int64_t max_context = 64, window = 0;
  int page_size = 8;
  bool qk_norm = false, bias = false;
  int rows = 4;  // and as many sequences
  std::function<void(Rope&)> rope = [](Rope&) {};

  std::string text() const {
    return std::string(dtype_name(dtype)) + " heads " + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " x " + std::to_string(head_dim) + " context " +
           std::to_string(max_context) + " window " + std::to_string(window) + (qk_norm ? " qk_norm" : "") +
           (bias ? " bias" : "");
  }
};

inline StepDims dims_of(const Case& c, DType activation) {
  StepDims d;
  d.hidden_size = c.hidden;
  d.intermediate_size = c.intermediate;
  d.layers = 1;
  d.heads = c.heads;
  d.kv_heads = c.kv_heads;
  d.head_dim = c.head_dim;
  d.vocab_size = c.vocab;
  d.weight_dtype = c.dtype;
  d.activation_dtype = activation;
  for (int rows = 1; rows <= c.rows; ++rows) d.buckets.push_back(rows);
  d.max_logit_rows = d.max_sequences = c.rows;
  d.max_context = c.max_context;
  d.page_size = c.page_size;
  d.pages = 1 + c.rows * d.pages_per_slot();
  d.workspace_bytes = activation == c.dtype ? uint64_t{288 << 10} * static_cast<uint64_t>(c.rows) : 0;
  d.product_part_bytes = activation == c.dtype ? kCudaProductPartBytes : 0;
  return d;
}

// Half the distance between neighbours, relative: what one rounding to the type moves a number at most.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
}

// The CUDA backend rounds activations to the weights' type where the CPU backend keeps fp32. Each rounding
// moves a vector by at most a unit roundoff of its length, and a product with a random matrix keeps that
// share; sums of `terms` fp32 numbers in another order differ by at most terms * 2^-24.
inline double tolerance(DType dtype, int roundings, int64_t terms) {
  return roundings * unit_roundoff(dtype) + static_cast<double>(terms) * 0x1p-24;
}

// A device with a model, pages and step buffers in it.
struct Side {
  std::unique_ptr<Device> device;
  StepDims dims;
  Model model;
  StepBuffers buffers;
  std::unique_ptr<Arena> weights, pages, step;
  std::unique_ptr<Ops> ops;

  Side(std::unique_ptr<Device> on, const Case& c, DType activation)
      : device(std::move(on)), dims(dims_of(c, activation)) {
    std::vector<KvPages> kv;
    pages = std::make_unique<Arena>(*device, "pages", [&](Layout& l) { kv = lay_out_pages(l, dims); });
    weights = std::make_unique<Arena>(*device, "weights", [&](Layout& l) {
      const auto linear = [&](const char* name, int64_t out, int64_t in) {
        Linear made;
        made.weight = l.place(name, c.dtype, {out, in});
        if (c.bias) made.bias = l.place(std::string(name) + ".bias", c.dtype, {out});
        return made;
      };
      model = {};
      model.embedding = l.place("embedding", c.dtype, {c.vocab, c.hidden});
      Layer layer;
      layer.attention_norm = l.place("attention_norm", c.dtype, {c.hidden});
      layer.qkv = linear("qkv", dims.qkv_size(), c.hidden);
      if (c.qk_norm) {
        layer.q_norm = l.place("q_norm", c.dtype, {c.head_dim});
        layer.k_norm = l.place("k_norm", c.dtype, {c.head_dim});
      }
      layer.o_proj = linear("o_proj", c.hidden, dims.q_size());
      layer.mlp_norm = l.place("mlp_norm", c.dtype, {c.hidden});
      layer.gate_up = linear("gate_up", 2 * c.intermediate, c.hidden);
      layer.down_proj = linear("down_proj", c.hidden, c.intermediate);
      if (!kv.empty()) layer.pages = kv[0];
      layer.sliding_window = c.window;
      model.layers = {layer};
      model.final_norm = l.place("final_norm", c.dtype, {c.hidden});
      model.lm_head = linear("lm_head", c.vocab, c.hidden);
      model.rope.inv_freq = l.place("inv_freq", DType::f32, {c.head_dim / 2});
      model.rope.long_inv_freq = l.place("long_inv_freq", DType::f32, {c.head_dim / 2});
      c.rope(model.rope);
    });
    step = std::make_unique<Arena>(*device, "step", [&](Layout& l) { buffers = lay_out_step(l, dims); });
    device->fill(step->data(), 0xFF, step->bytes());  // NaN: nothing may be read that was not written
    device->fill(pages->data(), 0xFF, pages->bytes());
    device->fill(buffers.history.data, 0, buffers.history.bytes());
    clear_partial_results(*device, buffers);
  }

  const Layer& layer() const { return model.layers[0]; }

  // Every word that a block left for another was taken, and put back.
  void expect_no_partial_results() {
    for (const View& view : {buffers.partial_o, buffers.partial_ml, buffers.product_parts}) {
      const auto bytes = read(view.data, view.bytes());
      EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0xFF}; }));
    }
  }

  void write(void* to, const void* from, uint64_t bytes) {
    auto pinned = device->allocate_pinned(bytes, "test");
    std::memcpy(pinned->data(), from, bytes);
    device->write(to, pinned->data(), bytes);
    device->synchronize();
  }
  std::vector<std::byte> read(const void* from, uint64_t bytes) {
    auto pinned = device->allocate_pinned(bytes, "test");
    device->read(pinned->data(), from, bytes);
    device->synchronize();
    const auto* p = static_cast<const std::byte*>(pinned->data());
    return {p, p + bytes};
  }
  void set(const View& view, const std::vector<float>& values) {
    ASSERT_EQ(view.shape.elements(), values.size());
    write(view.data, to_bytes(view.dtype, values).data(), view.bytes());
  }
  std::vector<float> get(const View& view) { return from_bytes(view.dtype, read(view.data, view.bytes())); }
};

// The same model on both devices.
class Pair {
 public:
  explicit Pair(const Case& c)
      : c_(c), cpu(make_host_device(), c, DType::f32), cuda(open(), c, c.dtype), random_(20251123) {
    // Sizes as trained models have them: norm weights near 1, a product's outputs of the size of its inputs.
    const auto scale = [](int64_t in) { return 1 / std::sqrt(static_cast<float>(in)); };
    const float bias = 0.3f;
    randomize([](Side& s) { return s.model.embedding; }, 1);
    randomize([](Side& s) { return s.layer().attention_norm; }, 0.3f, 1);
    randomize([](Side& s) { return s.layer().mlp_norm; }, 0.3f, 1);
    randomize([](Side& s) { return s.model.final_norm; }, 0.3f, 1);
    randomize([](Side& s) { return s.layer().q_norm; }, 0.3f, 1);
    randomize([](Side& s) { return s.layer().k_norm; }, 0.3f, 1);
    for (auto linear : {&Layer::qkv, &Layer::o_proj, &Layer::gate_up, &Layer::down_proj}) {
      randomize([=](Side& s) { return (s.layer().*linear).weight; },
                scale((cpu.layer().*linear).weight.shape[1]));
      randomize([=](Side& s) { return (s.layer().*linear).bias; }, bias);
    }
    randomize([](Side& s) { return s.model.lm_head.weight; }, scale(c.hidden));
    randomize([](Side& s) { return s.model.lm_head.bias; }, bias);
    std::vector<float> slow, fast;
    for (int64_t i = 0; i < c.head_dim / 2; ++i) {
      fast.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.head_dim)));
      slow.push_back(fast.back() / (1 + static_cast<float>(i)));
    }
    set([](Side& s) { return s.model.rope.inv_freq; }, fast);
    if (cpu.model.rope.long_inv_freq) set([](Side& s) { return s.model.rope.long_inv_freq; }, slow);
    const int64_t per_slot = cpu.dims.pages_per_slot();
    std::vector<int32_t> tables(static_cast<size_t>((c.rows + 1) * per_slot),
                                0);  // slot 0 names the scrap page alone
    std::iota(tables.begin() + per_slot, tables.end(), 1);
    std::shuffle(tables.begin() + per_slot, tables.end(), random_);
    tables_ = tables;
    for (Side* s : sides()) s->write(s->buffers.page_tables.data, tables.data(), tables.size() * 4);
    set_params({});
    std::vector<int32_t> all(static_cast<size_t>(c.rows));
    std::iota(all.begin(), all.end(), 0);
    set_logit_rows(all);
    cpu.ops = make_cpu_ops(cpu.dims, cpu.buffers, cpu.model, 1, {.pairs = false});
    cuda.ops = make_cuda_ops(cuda.dims, cuda.buffers, cuda.model, cuda_device().stream());
  }

  std::vector<Side*> sides() { return {&cpu, &cuda}; }
  CudaDevice& cuda_device() { return static_cast<CudaDevice&>(*cuda.device); }

  // Both sides hold the same numbers, of the weights' type even where the CPU keeps fp32.
  template <class F>
  void set(F view, std::vector<float> values) {
    if (view(cuda).dtype != DType::f32) values = rounded(c_.dtype, std::move(values));
    for (Side* s : sides()) s->set(view(*s), values);
  }
  template <class F>
  std::vector<float> randomize(F view, float scale, float mean = 0) {
    if (!view(cpu)) return {};
    const auto values = normal_numbers(random_, view(cpu).shape.elements(), mean, scale);
    set(view, values);
    return values;
  }
  void set_rows(std::vector<Row> rows) {
    rows.resize(static_cast<size_t>(c_.rows));
    for (Side* s : sides()) s->write(s->buffers.rows.data, rows.data(), rows.size() * sizeof(Row));
    rows_ = rows;
  }
  // What qkv() and attend() need of the rows; x is for randomize() to fill.
  void embed(int rows) {
    for (Side* s : sides()) s->ops->embed({rows, rows});
  }
  void set_logit_rows(const std::vector<int32_t>& rows) {
    for (Side* s : sides()) s->write(s->buffers.logit_rows.data, rows.data(), rows.size() * 4);
  }
  void set_params(std::vector<SlotParams> params) {  // from slot 1
    params.insert(params.begin(), SlotParams{});
    params.resize(static_cast<size_t>(c_.rows) + 1);
    for (Side* s : sides())
      s->write(s->buffers.slots.data, params.data(), params.size() * sizeof(SlotParams));
  }
  // K and V of what the rows may look at; NaN everywhere else.
  void fill_pages() {
    const StepDims& d = cpu.dims;
    std::vector<float> k(static_cast<size_t>(d.pages * d.kv_heads * d.page_size * d.head_dim), kNan), v = k;
    for (const Row& row : rows_) {
      if (row.slot == 0) continue;
      const int64_t first = c_.window ? std::max<int64_t>(0, row.position - c_.window + 1) : 0;
      for (int64_t p = first; p <= row.position; ++p)
        for (int64_t h = 0; h < d.kv_heads; ++h) {
          for (auto* tensor : {&k, &v}) {
            const auto head = normal_numbers(random_, static_cast<size_t>(d.head_dim), 0, 1);
            std::copy(head.begin(), head.end(),
                      tensor->begin() + static_cast<int64_t>(place(row.slot, p, h)));
          }
        }
    }
    set([](Side& s) { return s.layer().pages.k; }, k);
    set([](Side& s) { return s.layer().pages.v; }, v);
  }

  // K and V at the rows' own positions, which the step appends.
  void expect_appended(double allowed) {
    for (auto view :
         {+[](Side& s) { return s.layer().pages.k; }, +[](Side& s) { return s.layer().pages.v; }}) {
      const auto expected = cpu.get(view(cpu)), found = cuda.get(view(cuda));
      double difference = 0, size = 0;
      for (const Row& row : rows_) {
        if (row.slot == 0) continue;
        for (int64_t h = 0; h < c_.kv_heads; ++h)
          for (size_t i = place(row.slot, row.position, h), end = i + static_cast<size_t>(c_.head_dim);
               i < end; ++i) {
            difference += std::pow(double{found[i]} - double{expected[i]}, 2);
            size += std::pow(double{expected[i]}, 2);
          }
      }
      EXPECT_GT(size, 0) << c_.text();
      EXPECT_LE(std::sqrt(difference / size), allowed) << c_.text();
    }
  }

  // Runs a verb on both. The CUDA backend's result must not depend on chance: the same bits in every order of
  // threads.
  template <class F>
  void run(F verb) {
    verb(cpu);
    const auto step = cuda.read(cuda.step->data(), cuda.step->bytes());
    const auto pages = cuda.read(cuda.pages->data(), cuda.pages->bytes());
    std::vector<std::byte> first_step, first_pages;
    for (int order = 0; order < 3; ++order) {
      cuda.write(cuda.step->data(), step.data(), step.size());
      cuda.write(cuda.pages->data(), pages.data(), pages.size());
#ifdef RONDO_SIMT
      simt::Options options;
      options.order = std::array{simt::Order::forward, simt::Order::reverse,
                                 simt::Order::random}[static_cast<size_t>(order)];
      simt::set_options(options);
#endif
      verb(cuda);
      const auto after_step = cuda.read(cuda.step->data(), cuda.step->bytes());
      const auto after_pages = cuda.read(cuda.pages->data(), cuda.pages->bytes());
      if (order == 0) {
        first_step = after_step;
        first_pages = after_pages;
      }
      EXPECT_TRUE(after_step == first_step && after_pages == first_pages) << c_.text() << ", order " << order;
    }
#ifdef RONDO_SIMT
    simt::set_options({});
    EXPECT_EQ(fake::misuse(), "") << c_.text();
#endif
  }

  // |cuda - cpu| <= tolerance * |cpu| over elements first .. first + count - 1. NaN on either side passes no
  // comparison.
  template <class F>
  void expect_close(F view, double allowed, int64_t count = -1, int64_t first = 0) {
    const auto expected = cpu.get(view(cpu)), found = cuda.get(view(cuda));
    ASSERT_EQ(expected.size(), found.size());
    const auto begin = static_cast<size_t>(first),
               end = count < 0 ? expected.size() : begin + static_cast<size_t>(count);
    double difference = 0, size = 0;
    for (size_t i = begin; i < end; ++i) {
      difference += std::pow(double{found[i]} - double{expected[i]}, 2);
      size += std::pow(double{expected[i]}, 2);
    }
    EXPECT_GT(size, 0) << c_.text();
    EXPECT_LE(std::sqrt(difference / size), allowed) << c_.text();
  }

 private:
  static std::unique_ptr<Device> open() {
#ifdef RONDO_SIMT
    fake::reset();
#endif
    return make_cuda_device(0);
  }
  // Of an element in a layer's pages: the first of a position of a slot, in one K/V head.
  size_t place(int slot, int64_t position, int64_t kv_head) const {
    const StepDims& d = cpu.dims;
    const int64_t page = tables_[static_cast<size_t>(slot * d.pages_per_slot() + position / d.page_size)];
    return static_cast<size_t>(((page * d.kv_heads + kv_head) * d.page_size + position % d.page_size) *
                               d.head_dim);
  }

  Case c_;

 public:
  Side cpu, cuda;

 private:
  std::mt19937 random_;
  std::vector<int32_t> tables_;
  std::vector<Row> rows_;
};

// For randomize() and expect_close().
inline constexpr auto x_of = +[](Side& s) { return s.buffers.x; };
inline constexpr auto q_of = +[](Side& s) { return s.buffers.q; };
inline constexpr auto o_of = +[](Side& s) { return s.buffers.o; };
inline constexpr auto h_of = +[](Side& s) { return s.buffers.h; };
inline constexpr auto logits_of = +[](Side& s) { return s.buffers.logits; };

// As many rows, each of a sequence of its own.
inline std::vector<Row> rows_of(int count) {
  std::vector<Row> rows;
  for (int r = 0; r < count; ++r) rows.push_back({1, (7 + r) % 50, 1 + r, 1});
  return rows;
}

}  // namespace rondo::test
