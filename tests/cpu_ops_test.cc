// The CPU backend's verbs against loops in double precision, row bits against company and threads, and what a
// draw may be.
//
// Each verb is compared given the inputs it actually had, so bounds do not pile up. A sum of n fp32 products
// is off by at most (n + 8) 2^-24 times the sum of their magnitudes (Higham, "Accuracy and Stability", 3.1),
// whatever its order.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "buffers/arena.h"
#include "buffers/error.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace rondo {
namespace {

constexpr double kEps = 0x1p-24;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double at(const View& v, int64_t i) {
  if (v.dtype == DType::f32) return v.as<float>()[i];
  return v.dtype == DType::f16 ? f32_from_f16(v.as<uint16_t>()[i]) : f32_from_bf16(v.as<uint16_t>()[i]);
}

void put(const View& v, int64_t i, float value) {
  if (v.dtype == DType::f32)
    v.as<float>()[i] = value;
  else
    v.as<uint16_t>()[i] = v.dtype == DType::f16 ? f16_from_f32(value) : bf16_from_f32(value);
}

// Half a unit in the last place of `value` once stored.
double storage_error(DType dtype, double value) {
  if (dtype == DType::f32) return 0;
  return dtype == DType::f16 ? std::fabs(value) * 0x1p-11 + 0x1p-25 : std::fabs(value) * 0x1p-8;
}

struct Spec {
  DType dtype = DType::f32;
  int head_dim = 16, heads = 4, kv_heads = 2, page_size = 8, window = 0;
  bool bias = false, head_norm = false;
  int hidden = 72, intermediate = 104, vocab = 203, threads = 2;  // no multiple of a vector
};

void PrintTo(const Spec& s, std::ostream* out) {
  *out << dtype_name(s.dtype) << " head_dim " << s.head_dim << " heads " << s.heads << "/" << s.kv_heads
       << " page " << s.page_size << " window " << s.window << (s.bias ? " bias" : "")
       << (s.head_norm ? " head_norm" : "");
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
    ops = make_cpu_ops(d, b, m, s.threads);
  }

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

struct Bounded {
  double value = 0, error = 0;
};

Bounded dot(const float* x, const Linear& l, int64_t n) {
  const int64_t K = l.weight.shape[1];
  Bounded y;
  double magnitude = 0;
  for (int64_t k = 0; k < K; ++k) {
    const double term = static_cast<double>(x[k]) * at(l.weight, n * K + k);
    y.value += term;
    magnitude += std::fabs(term);
  }
  if (l.bias) y.value += at(l.bias, n), magnitude += std::fabs(at(l.bias, n));
  y.error = static_cast<double>(K + 8) * kEps * magnitude;
  return y;
}

void expect_rms_norm(const float* x, const View& weight, double eps, int64_t n, const float* y) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    const double want = x[i] * scale * at(weight, i);
    ASSERT_NEAR(y[i], want, static_cast<double>(n / 2 + 8) * kEps * std::fabs(want)) << i;
  }
}

// A prompt of five rows across a page's edge, two rows of another sequence further on, then padding.
std::vector<Row> mixed_rows() {
  return {{3, 29, 1, 5}, {202, 30, 1, 0}, {0, 31, 1, 0}, {77, 32, 1, 0},
          {5, 33, 1, 0}, {9, 0, 2, 1},    {11, 70, 3, 1}};
}

class CpuVerbs : public testing::TestWithParam<Spec> {};

TEST_P(CpuVerbs, EmbedCopiesAndNotesTokensAtTheirPositions) {
  Bed t(GetParam());
  const auto rows = mixed_rows();
  t.device->fill(t.b.history.data, 0xFF, t.b.history.bytes());
  t.ops->embed(t.set_rows(rows));
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int64_t i = 0; i < t.s.hidden; ++i)
      ASSERT_EQ(t.b.x.as<float>()[static_cast<int64_t>(r) * t.s.hidden + i],
                at(t.m.embedding, rows[r].token * t.s.hidden + i));
  }
  for (int slot = 0; slot < t.d.slots(); ++slot)
    for (int64_t p = 0; p < t.d.max_context; ++p) {
      const auto row = std::find_if(rows.begin(), rows.end(),
                                    [&](const Row& r) { return r.slot == slot && r.position == p; });
      ASSERT_EQ(t.b.history.as<int32_t>()[slot * t.d.max_context + p], row == rows.end() ? -1 : row->token)
          << slot << " " << p;
    }
}

TEST_P(CpuVerbs, QkvNormsRotatesAndStores) {
  Bed t(GetParam());
  const auto rows = mixed_rows();
  const Bucket k = t.set_rows(rows);
  const Layer& l = t.m.layers[0];
  t.ops->embed(k);
  t.ops->qkv(k, l);
  const int D = t.s.head_dim, H = t.s.hidden;
  for (size_t r = 0; r < rows.size(); ++r) {
    const int64_t row = static_cast<int64_t>(r);
    const float* norm = t.b.norm.as<float>() + row * H;
    expect_rms_norm(t.b.x.as<float>() + row * H, l.attention_norm, t.m.rms_norm_eps, H, norm);
    for (int h = 0; h < t.s.heads + 2 * t.s.kv_heads; ++h) {
      const bool is_q = h < t.s.heads, is_v = h >= t.s.heads + t.s.kv_heads;
      std::vector<Bounded> y(static_cast<size_t>(D));
      double squares = 0, worst = 0;
      for (int i = 0; i < D; ++i) {
        Bounded& e = y[static_cast<size_t>(i)];
        e = dot(norm, l.qkv, h * D + i);
        squares += e.value * e.value;
        worst = std::max(worst, e.error);
      }
      const View& weight = is_q ? l.q_norm : l.k_norm;
      if (weight && !is_v) {
        const double rms = std::sqrt(squares / D + t.m.rms_norm_eps);
        for (int i = 0; i < D; ++i) {
          Bounded& e = y[static_cast<size_t>(i)];
          const double w = std::fabs(at(weight, i));
          e.error = w / rms * (e.error + std::fabs(e.value) / rms * worst) +
                    (D + 8) * kEps * w * std::fabs(e.value) / rms;
          e.value = e.value / rms * at(weight, i);
        }
      }
      for (int i = 0; i < D; ++i) {
        Bounded e = y[static_cast<size_t>(i)];
        if (!is_v) {
          const int pair = i % (D / 2);
          const Bounded a = y[static_cast<size_t>(pair)], c = y[static_cast<size_t>(pair + D / 2)];
          const float angle = static_cast<float>(rows[r].position) * t.m.rope.inv_freq.as<float>()[pair];
          const double cosine = std::cos(static_cast<double>(angle)),
                       sine = std::sin(static_cast<double>(angle));
          e.value = i < D / 2 ? a.value * cosine - c.value * sine : c.value * cosine + a.value * sine;
          e.error = a.error + c.error + 4 * kEps * (std::fabs(a.value) + std::fabs(c.value));
        }
        if (is_q) {
          ASSERT_NEAR(t.b.q.as<float>()[row * t.d.q_size() + h * D + i], e.value, e.error)
              << r << " " << h << " " << i;
          continue;
        }
        const int g = (h - t.s.heads) % t.s.kv_heads;
        const int64_t place = t.page_element(rows[r].slot, rows[r].position, g) + i;
        ASSERT_NEAR(at(is_v ? l.pages.v : l.pages.k, place), e.value,
                    e.error + storage_error(t.s.dtype, std::fabs(e.value) + e.error))
            << r << " " << h << " " << i;
      }
    }
  }
}

TEST_P(CpuVerbs, AttendIsSoftmaxOverTheWindow) {
  Bed t(GetParam());
  const auto rows = mixed_rows();
  const Bucket k = t.set_rows(rows);
  const Layer& l = t.m.layers[0];
  t.fill(t.b.q, 1.0f);
  const int D = t.s.head_dim;
  const float untouched = 12345.0f;
  for (int64_t i = 0; i < k.rows * t.d.q_size(); ++i) t.b.o.as<float>()[i] = untouched;
  t.ops->attend(k, l);
  for (int64_t r = 0; r < static_cast<int64_t>(rows.size()); ++r) {
    const Row& row = rows[static_cast<size_t>(r)];
    const int64_t first = t.s.window > 0 ? std::max(0, row.position - t.s.window + 1) : 0;
    for (int h = 0; h < t.s.heads; ++h) {
      const int g = h / (t.s.heads / t.s.kv_heads);
      const float* q = t.b.q.as<float>() + r * t.d.q_size() + h * D;
      std::vector<double> scores;
      double max = -1e300, worst = 0;
      for (int64_t p = first; p <= row.position; ++p) {
        double score = 0, magnitude = 0;
        for (int i = 0; i < D; ++i) {
          const double term = q[i] * at(l.pages.k, t.page_element(row.slot, p, g) + i) / std::sqrt(D);
          score += term;
          magnitude += std::fabs(term);
        }
        scores.push_back(score);
        max = std::max(max, score);
        worst = std::max(worst, (D + 8) * kEps * magnitude);
      }
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - max);
      const double n = static_cast<double>(scores.size());
      for (int i = 0; i < D; ++i) {
        double value = 0, magnitude = 0;
        for (size_t p = 0; p < scores.size(); ++p) {
          const double v = at(l.pages.v, t.page_element(row.slot, first + static_cast<int64_t>(p), g) + i);
          value += scores[p] / sum * v;
          magnitude += scores[p] / sum * std::fabs(v);
        }
        // scores shift numerator and denominator by their error each; then two sums of n, and exponentials
        // good to 4 ulp
        const double error = (2 * worst + (2 * n + 32) * kEps) * magnitude;
        ASSERT_NEAR(t.b.o.as<float>()[r * t.d.q_size() + h * D + i], value, error)
            << "row " << r << " head " << h;
      }
    }
  }
  for (int64_t i = static_cast<int64_t>(rows.size()) * t.d.q_size(); i < k.rows * t.d.q_size(); ++i)
    ASSERT_EQ(t.b.o.as<float>()[i], untouched) << "padding has no positions to attend to";
}

TEST_P(CpuVerbs, ProductsAndLogits) {
  Bed t(GetParam());
  const Bucket k = t.set_rows(mixed_rows());
  const Layer& l = t.m.layers[0];
  const int64_t H = t.s.hidden, F = t.s.intermediate, V = t.s.vocab;
  t.fill(t.b.x, 1.0f);
  t.fill(t.b.o, 1.0f);
  const std::vector<float> before(t.b.x.as<float>(), t.b.x.as<float>() + k.rows * H);
  const auto expect_added = [&](const View& in, const Linear& linear, const std::vector<float>& x) {
    for (int64_t r = 0; r < k.rows; ++r)
      for (int64_t n = 0; n < H; ++n) {
        const Bounded y = dot(in.as<float>() + r * in.shape[1], linear, n);
        const double want = x[static_cast<size_t>(r * H + n)] + y.value;
        ASSERT_NEAR(t.b.x.as<float>()[r * H + n], want, y.error + 2 * kEps * std::fabs(want))
            << r << " " << n;
      }
  };
  t.ops->add_project(k, t.b.o, l.o_proj);
  expect_added(t.b.o, l.o_proj, before);

  t.ops->gate_up(k, l);
  for (int64_t r = 0; r < k.rows; ++r) {
    const float* norm = t.b.norm.as<float>() + r * H;
    expect_rms_norm(t.b.x.as<float>() + r * H, l.mlp_norm, t.m.rms_norm_eps, H, norm);
    for (int64_t n = 0; n < F; ++n) {
      const Bounded gate = dot(norm, l.gate_up, n), up = dot(norm, l.gate_up, F + n);
      const double silu = gate.value / (1 + std::exp(-gate.value)), want = silu * up.value;
      const double error = 1.1 * gate.error * std::fabs(up.value) + std::fabs(silu) * up.error +
                           1.1 * gate.error * up.error + 16 * kEps * std::fabs(want);  // |silu'| < 1.1
      ASSERT_NEAR(t.b.h.as<float>()[r * F + n], want, error) << r << " " << n;
    }
  }
  const std::vector<float> middle(t.b.x.as<float>(), t.b.x.as<float>() + k.rows * H);
  t.ops->add_project(k, t.b.h, l.down_proj);
  expect_added(t.b.h, l.down_proj, middle);

  t.b.logit_rows.as<int32_t>()[0] = 6;
  t.b.logit_rows.as<int32_t>()[1] = 2;
  t.ops->logits(k);
  for (int64_t i = 0; i < k.logit_rows; ++i) {
    const float* norm = t.b.norm.as<float>() + i * H;
    expect_rms_norm(t.b.x.as<float>() + t.b.logit_rows.as<int32_t>()[i] * H, t.m.final_norm, t.m.rms_norm_eps,
                    H, norm);
    for (int64_t v = 0; v < V; ++v) {
      const Bounded y = dot(norm, t.m.lm_head, v);
      ASSERT_NEAR(t.b.logits.as<float>()[i * V + v], y.value, y.error) << i << " " << v;
    }
  }
}

std::vector<Spec> specs() {
  std::vector<Spec> all;
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    int i = 0;
    for (int head_dim : {8, 24, 40, 64, 80, 128, 256}) {
      Spec s;
      s.dtype = dtype;
      s.head_dim = head_dim;
      s.kv_heads = 2;
      s.heads = 2 << (i % 4);  // groups of 1, 2, 4, 8
      s.page_size = i % 2 ? 32 : 8;
      s.window = i % 3 == 2 ? 13 : 0;
      s.bias = i % 2 == 1;
      s.head_norm = i % 3 == 1;
      ++i;
      all.push_back(s);
    }
    Spec odd;  // groups of 3 and 7 heads, and sums longer than one chunk of the product
    odd.dtype = dtype;
    odd.heads = 7;
    odd.kv_heads = 1;
    odd.hidden = 1100;
    odd.intermediate = 1030;
    odd.threads = 3;
    all.push_back(odd);
    odd.heads = 6;
    odd.kv_heads = 2;
    odd.hidden = 64;
    all.push_back(odd);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuVerbs, testing::ValuesIn(specs()));

// Whatever else is in the step, and however many threads, the bits of one row: x, q, o, h, logits, its draw,
// its K and V.
std::vector<char> bits_of_row(Bed& t, int rows, int place) {
  const Spec& spec = t.s;
  std::vector<Row> all;
  for (int r = 0; r < rows; ++r)
    all.push_back({(r * 31 + 5) % spec.vocab, 10 + r, r < place ? r + 2 : r + 1, 1});
  all[static_cast<size_t>(place)] = {17, 37, 1, 1};
  t.b.slots.as<SlotParams>()[1].temperature = 1;
  t.step(t.set_rows(all));
  std::vector<char> bits;
  const auto keep = [&](const void* p, int64_t bytes) {
    bits.insert(bits.end(), static_cast<const char*>(p), static_cast<const char*>(p) + bytes);
  };
  for (const View& v : {t.b.x, t.b.q, t.b.o, t.b.h, t.b.logits})
    keep(v.as<float>() + place * v.shape[1], v.shape[1] * 4);
  keep(t.b.sampled.as<Sampled>() + place, sizeof(Sampled));
  const int64_t size = static_cast<int64_t>(dtype_bytes(spec.dtype));
  for (int g = 0; g < spec.kv_heads; ++g)
    for (const View& v : {t.m.layers[0].pages.k, t.m.layers[0].pages.v})
      keep(v.as<char>() + t.page_element(1, 37, g) * size, spec.head_dim * size);
  return bits;
}

TEST(CpuRows, BitsDependOnNeitherCompanyNorThreads) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (int hidden : {72, 1100}) {
      Spec s;
      s.dtype = dtype;
      s.hidden = hidden;
      s.intermediate = 1030;
      s.threads = 1;
      s.bias = s.head_norm = true;
      Bed first(s);
      const std::vector<char> alone = bits_of_row(first, 1, 0);
      for (int threads : {1, 2, 3}) {
        s.threads = threads;
        Bed bed(s);
        for (auto [rows, place] :
             {std::pair{1, 0}, {2, 1}, {3, 0}, {5, 4}, {7, 3}, {8, 5}, {33, 0}, {33, 20}, {33, 32}})
          ASSERT_TRUE(bits_of_row(bed, rows, place) == alone)
              << dtype_name(dtype) << " hidden " << hidden << " threads " << threads << " row " << place
              << " of " << rows;
      }
    }
  }
}

// Few rows are streamed and many go by blocks; a row must not see which.
TEST(CpuProduct, ARowsBitsAreTheSameStreamedAndInBlocks) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> scratch(multiply_scratch_floats());
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (auto [out, in] : {std::pair<int64_t, int64_t>{1, 3}, {7, 512}, {131, 1100}, {270, 40}}) {
      constexpr size_t kRows = 260;  // more than one block of rows
      const size_t outs = static_cast<size_t>(out), ins = static_cast<size_t>(in);
      std::vector<char> memory(static_cast<size_t>(out * in + out) * dtype_bytes(dtype));
      Product p;
      p.weight = View{memory.data(), dtype, {out, in}};
      p.bias = View{memory.data() + static_cast<size_t>(out * in) * dtype_bytes(dtype), dtype, {out}};
      for (int64_t i = 0; i < out * in + out; ++i) put(p.weight, i, uniform(random));
      std::vector<float> x(kRows * ins), before(kRows * outs);
      for (float& f : x) f = uniform(random);
      for (float& f : before) f = uniform(random);
      p.x_stride = ins;
      p.y_stride = outs;
      p.add = true;
      std::vector<float> alone = before;
      for (size_t r = 0; r < kRows; ++r) {
        p.rows = 1;
        p.x = x.data() + r * ins;
        p.y = alone.data() + r * outs;
        multiply(p, 0, outs, scratch.data());
      }
      for (size_t rows : {2, 3, 4, 5, 6, 7, 9, 17, 260}) {
        std::vector<float> together = before;
        p.rows = rows;
        p.x = x.data();
        p.y = together.data();
        const size_t middle = outs / 8 * 4;  // as two threads would share it
        multiply(p, 0, middle, scratch.data());
        multiply(p, middle, outs, scratch.data());
        ASSERT_EQ(memcmp(together.data(), alone.data(), rows * outs * sizeof(float)), 0)
            << dtype_name(dtype) << " " << out << " x " << in << ", " << rows << " rows";
        ASSERT_TRUE(std::equal(together.begin() + static_cast<std::ptrdiff_t>(rows * outs), together.end(),
                               before.begin() + static_cast<std::ptrdiff_t>(rows * outs)))
            << "rows beyond the last were written";
      }
    }
}

TEST(CpuRows, NaNInOneRowLeavesTheOthersBitsAlone) {
  Spec s;
  const std::vector<Row> rows = {{1, 3, 1, 1}, {2, 4, 2, 1}, {3, 5, 3, 1}};
  Bed clean(s), dirty(s);
  clean.step(clean.set_rows(rows));
  const Bucket k = dirty.set_rows(rows);
  put(dirty.m.embedding, 2 * s.hidden, kNan);
  dirty.m.lm_head = {};
  dirty.ops = make_cpu_ops(
      dirty.d, dirty.b,
      [&] {
        Model m = dirty.m;
        m.lm_head.weight = clean.m.embedding;
        return m;
      }(),
      2);
  dirty.step(k);
  EXPECT_EQ(dirty.b.sampled.as<Sampled>()[1].status, Sampled::kNumerical);
  EXPECT_EQ(dirty.b.sampled.as<Sampled>()[1].token, 0);
  for (int r : {0, 2}) {
    EXPECT_EQ(dirty.b.sampled.as<Sampled>()[r].status, Sampled::kOk);
    EXPECT_EQ(memcmp(dirty.b.logits.as<float>() + r * s.vocab, clean.b.logits.as<float>() + r * s.vocab,
                     static_cast<size_t>(s.vocab) * 4),
              0);
  }
}

TEST(CpuOps, RefusesWhatItCannotRun) {
  Bed t({});
  StepDims d = t.d;
  d.activation_dtype = DType::bf16;
  EXPECT_THROW(make_cpu_ops(d, t.b, t.m, 1), Error);
  EXPECT_THROW(make_cpu_ops(t.d, t.b, t.m, -1), Error);
  d = t.d;
  d.heads = 3;
  EXPECT_THROW(make_cpu_ops(d, t.b, t.m, 1), Error);
}

TEST(Convert, RoundsToNearestEvenAndBack) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const uint16_t half = static_cast<uint16_t>(h);
    const float from16 = f32_from_f16(half), frombf = f32_from_bf16(half);
    if (from16 == from16) {
      ASSERT_EQ(f16_from_f32(from16), half);
    } else {
      ASSERT_NE(f32_from_f16(f16_from_f32(from16)), f32_from_f16(f16_from_f32(from16)));
    }
    if (frombf == frombf) {
      ASSERT_EQ(bf16_from_f32(frombf), half);
    } else {
      ASSERT_NE(f32_from_bf16(bf16_from_f32(frombf)), f32_from_bf16(bf16_from_f32(frombf)));
    }
    if (h % 0x8000 < 0x7BFF) {  // half way to the next f16 goes to the even one, a hair beyond it up
      const float middle = 0.5f * (from16 + f32_from_f16(static_cast<uint16_t>(h + 1)));
      ASSERT_EQ(f16_from_f32(middle), (h & 1) ? h + 1 : h);
      ASSERT_EQ(f16_from_f32(std::nextafter(middle, 2 * middle)), h + 1);
    }
  }
  EXPECT_EQ(f16_from_f32(65519.9f), 0x7BFF);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7C00);
  EXPECT_EQ(bf16_from_f32(1.00390625f), 0x3F80);  // 1 + 2^-8: half way, to even
  EXPECT_EQ(bf16_from_f32(1.01171875f), 0x3F82);  // 1 + 3 2^-8: half way, to even
}

TEST(CpuRope, TablesFollowTheLengthOfTheSequence) {
  float near[2] = {1.0f, 0.1f}, far[2] = {0.5f, 0.01f}, out[4];
  Rope rope;
  rope.inv_freq = View{near, DType::f32, {2}};
  rope.long_inv_freq = View{far, DType::f32, {2}};
  rope.scaling = 1.5f;
  rope.long_scaling = 2.5f;
  rope.original_length = 8;
  rope_angles(rope, 4, 7, 0, out);
  EXPECT_EQ(out[1], std::cos(0.7f) * 1.5f);
  rope_angles(rope, 4, 3, 9,
              out);  // the prompt is longer than the table, so its early rows use the long one too
  EXPECT_EQ(out[0], std::cos(1.5f) * 2.5f);
  EXPECT_EQ(out[2], std::sin(1.5f) * 2.5f);
  rope.long_inv_freq = {};
  rope.dynamic = true;
  rope.dynamic_theta = 10000;
  rope.dynamic_factor = 4;
  rope_angles(rope, 4, 11, 0, out);
  const double base = 10000 * std::pow(4.0 * 12 / 8 - 3, 2.0);
  EXPECT_NEAR(out[3], 1.5 * std::sin(11 / std::sqrt(base)), 1e-6);
}

TEST(ThreadPool, CoversEveryIndexOnceAndSurvivesSleepAndFork) {
  auto pool = std::make_unique<ThreadPool>(3);
  ASSERT_EQ(pool->threads(), 3);
  const auto covered = [&](int64_t n) {
    std::vector<int> hits(static_cast<size_t>(n));
    pool->parallel_for(n, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
    return std::count(hits.begin(), hits.end(), 1) == n;
  };
  for (int round = 0; round < 300; ++round)
    for (int64_t n : {0, 1, 2, 3, 7, 100}) ASSERT_TRUE(covered(n)) << n;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // workers are asleep by now, and must wake
  ASSERT_TRUE(covered(100));
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool ok = covered(100);
    pool.reset();
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  ASSERT_TRUE(covered(100));
}

}  // namespace
}  // namespace rondo
