// What tests of the CPU backend's verbs share: one layer with random weights and the buffers of a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <ostream>
#include <random>
#include <vector>

#include "buffers/arena.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace rondo::test {

inline double at(const View& v, int64_t i) {
  if (v.dtype == DType::f32) return v.as<float>()[i];
  return v.dtype == DType::f16 ? f32_from_f16(v.as<uint16_t>()[i]) : f32_from_bf16(v.as<uint16_t>()[i]);
}

inline void put(const View& v, int64_t i, float value) {
  if (v.dtype == DType::f32)
    v.as<float>()[i] = value;
  else
    v.as<uint16_t>()[i] = v.dtype == DType::f16 ? f16_from_f32(value) : bf16_from_f32(value);
}

struct Spec {
  DType dtype = DType::f32;
  int head_dim = 16, heads = 4, kv_heads = 2, page_size = 8, window = 0;
  bool bias = false, head_norm = false;
  int hidden = 72, intermediate = 104, vocab = 203, threads = 2;  // no multiple of a vector
  int64_t worth_sharing_ns = 0;                                   // small as they are, they are shared
  bool pairs = true;                                              // of bf16, where the CPU multiplies them
};

inline void PrintTo(const Spec& s, std::ostream* out) {
  *out << dtype_name(s.dtype) << " head_dim " << s.head_dim << " heads " << s.heads << "/" << s.kv_heads
       << " page " << s.page_size << " window " << s.window << (s.bias ? " bias" : "")
       << (s.head_norm ? " head_norm" : "") << (s.pairs ? "" : " no pairs");
}

// One layer with random weights, K/V pages filled at random, slots 1 .. 34 with pages in a shuffled order.
struct Bed {
  Spec s;
  StepDims d;
  std::unique_ptr<Device> device = make_host_device();
  Model m;
  StepBuffers b;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Ops> ops;
  std::mt19937 random{7};

  explicit Bed(const Spec& spec) : s(spec) {
    d.hidden_size = s.hidden;
    d.intermediate_size = s.intermediate;
    d.layers = 1;
    d.heads = s.heads;
    d.kv_heads = s.kv_heads;
    d.head_dim = s.head_dim;
    d.vocab_size = s.vocab;
    d.weight_dtype = s.dtype;
    d.activation_dtype = DType::f32;
    d.buckets = {1, 8, 33};
    d.max_logit_rows = 33;
    d.max_sequences = 34;
    d.max_context = 96;
    d.page_size = s.page_size;
    d.pages = 1 + d.max_sequences * d.pages_per_slot();
    m.layers.resize(1);
    Layer& l = m.layers[0];
    std::vector<View> all;
    arena = std::make_unique<Arena>(*device, "all", [&](Layout& layout) {
      all.clear();
      const auto weight = [&](const char* name, Shape shape) {
        all.push_back(layout.place(name, s.dtype, shape));
        return all.back();
      };
      m.embedding = weight("embedding", {s.vocab, s.hidden});
      l.attention_norm = weight("attention_norm", {s.hidden});
      l.qkv.weight = weight("qkv.weight", {d.qkv_size(), s.hidden});
      l.o_proj.weight = weight("o_proj.weight", {s.hidden, d.q_size()});
      l.mlp_norm = weight("mlp_norm", {s.hidden});
      l.gate_up.weight = weight("gate_up.weight", {2 * s.intermediate, s.hidden});
      l.down_proj.weight = weight("down_proj.weight", {s.hidden, s.intermediate});
      m.final_norm = weight("final_norm", {s.hidden});
      if (s.bias) {
        l.qkv.bias = weight("qkv.bias", {d.qkv_size()});
        l.o_proj.bias = weight("o_proj.bias", {s.hidden});
        l.gate_up.bias = weight("gate_up.bias", {2 * s.intermediate});
        l.down_proj.bias = weight("down_proj.bias", {s.hidden});
      }
      if (s.head_norm) {
        l.q_norm = weight("q_norm", {s.head_dim});
        l.k_norm = weight("k_norm", {s.head_dim});
      }
      m.rope.inv_freq = layout.place("inv_freq", DType::f32, {s.head_dim / 2});
      l.pages = lay_out_pages(layout, d)[0];
      b = lay_out_step(layout, d);
    });
    all.push_back(l.pages.k);
    all.push_back(l.pages.v);
    for (const View& v : all)
      fill(v, v.shape.rank == 2 ? 1.0f / std::sqrt(static_cast<float>(v.shape[1])) : 1.0f);
    for (int i = 0; i < s.head_dim / 2; ++i)
      m.rope.inv_freq.as<float>()[i] =
          std::pow(100.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.head_dim));
    m.lm_head.weight = m.embedding;
    l.sliding_window = s.window;
    std::vector<int32_t> pages(static_cast<size_t>(d.pages) - 1);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i) + 1;
    std::shuffle(pages.begin(), pages.end(), random);
    std::copy(pages.begin(), pages.end(), b.page_tables.as<int32_t>() + d.pages_per_slot());
    for (int i = 0; i < d.slots(); ++i) b.slots.as<SlotParams>()[i] = SlotParams{};
    for (int l_row = 0; l_row < 33; ++l_row) b.logit_rows.as<int32_t>()[l_row] = l_row;
    ops = make_cpu_ops(d, b, m, s.threads, {s.pairs, s.worth_sharing_ns});
  }

  bool by_pairs() const { return s.pairs && s.dtype == DType::bf16 && has_pairs(); }

  void fill(const View& v, float scale) {
    std::uniform_real_distribution<float> uniform(-2 * scale, 2 * scale);
    for (int64_t i = 0; i < static_cast<int64_t>(v.shape.elements()); ++i) put(v, i, uniform(random));
  }
  Row& row(int r) { return b.rows.as<Row>()[r]; }
  Bucket set_rows(const std::vector<Row>& rows) {
    const Bucket bucket = bucket_of(d, static_cast<int>(rows.size()));
    for (int r = 0; r < bucket.rows; ++r)
      row(r) = r < static_cast<int>(rows.size()) ? rows[static_cast<size_t>(r)] : Row{};
    return bucket;
  }
  int64_t page_element(int slot, int64_t position, int64_t kv_head) const {
    const int64_t page = b.page_tables.as<int32_t>()[slot * d.pages_per_slot() + position / s.page_size];
    return ((page * s.kv_heads + kv_head) * s.page_size + position % s.page_size) * s.head_dim;
  }
  void step(Bucket k) {
    const Layer& l = m.layers[0];
    ops->embed(k);
    ops->qkv(k, l);
    ops->attend(k, l);
    ops->add_project(k, b.o, l.o_proj);
    ops->gate_up(k, l);
    ops->add_project(k, b.h, l.down_proj);
    ops->logits(k);
    ops->sample(k);
  }
};

}  // namespace rondo::test
