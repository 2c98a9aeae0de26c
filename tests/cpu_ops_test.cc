// The CPU backend's verbs against loops in double precision.
//
// Each verb is compared given the inputs it actually had, so bounds do not pile up. A sum of n fp32 products
// is off by at most (n + 8) 2^-24 times the sum of their magnitudes (Higham, "Accuracy and Stability", 3.1),
// whatever its order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "buffers/error.h"
#include "kernels/cpu/rope.h"
#include "tests/cpu_bed.h"

namespace rondo {
namespace {

using test::at;
using test::Bed;
using test::Spec;

constexpr double kEps = 0x1p-24;

// Half a unit in the last place of `value` once stored.
double storage_error(DType dtype, double value) {
  if (dtype == DType::f32) return 0;
  return dtype == DType::f16 ? std::fabs(value) * 0x1p-11 + 0x1p-25 : std::fabs(value) * 0x1p-8;
}

struct Bounded {
  double value = 0, error = 0;
};

// As products by pairs see a number.
float rounded_if(bool pairs, float x) { return pairs ? f32_from_bf16(bf16_from_f32(x)) : x; }

Bounded dot(const Bed& t, const float* x, const Linear& l, int64_t n) {
  const int64_t K = l.weight.shape[1];
  Bounded y;
  double magnitude = 0;
  for (int64_t k = 0; k < K; ++k) {
    const double term = static_cast<double>(rounded_if(t.by_pairs(), x[k])) * at(l.weight, n * K + k);
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
        e = dot(t, norm, l.qkv, h * D + i);
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
        const Bounded y = dot(t, in.as<float>() + r * in.shape[1], linear, n);
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
      const Bounded gate = dot(t, norm, l.gate_up, n), up = dot(t, norm, l.gate_up, F + n);
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
      const Bounded y = dot(t, norm, t.m.lm_head, v);
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
    odd.pairs = false;
    all.push_back(odd);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, CpuVerbs, testing::ValuesIn(specs()));

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

}  // namespace
}  // namespace rondo
