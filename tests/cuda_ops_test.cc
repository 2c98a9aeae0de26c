// Every verb of the CUDA backend against the CPU backend, on the same numbers: for a GPU, and, where
// RONDO_SIMT says so, on the executor, which runs each verb in three orders of threads that must agree bit
// for bit.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "buffers/cuda_check.h"
#include "buffers/error.h"
#include "graphs/cuda_capture.h"
#include "tests/cuda_pair.h"

namespace rondo {
namespace {

using test::Case;
using test::kInf;
using test::kNan;
using test::Pair;
using test::Side;
using test::tolerance;

View x_of(Side& s) { return s.buffers.x; }
View q_of(Side& s) { return s.buffers.q; }
View o_of(Side& s) { return s.buffers.o; }
View h_of(Side& s) { return s.buffers.h; }
View logits_of(Side& s) { return s.buffers.logits; }
View k_of(Side& s) { return s.layer().pages.k; }
View v_of(Side& s) { return s.layer().pages.v; }

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const CudaReport report = probe_cuda();
    if (!report.unusable.empty()) GTEST_SKIP() << report.unusable;
  }
};
class CudaVerbs : public CudaTest, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaVerbs, testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(dtype_name(dtype.param)); });

TEST_P(CudaVerbs, EmbedCopiesRowsOfTheTableAndNotesTokensAtTheirPositions) {
  Case c;
  c.dtype = GetParam();
  for (int rows = 1; rows <= 4; ++rows) {
    Pair pair(c);
    pair.set_rows({{89, 0, 1, 1}, {31, 5, 2, 2}, {32, 6, 2, 0}, {0, 0, 0, 0}});
    pair.run([&](Side& s) { s.ops->embed({rows, rows}); });
    const int64_t n = rows * c.hidden;
    pair.expect_close(x_of, 0, n);
    const auto history = pair.cpu.buffers.history;
    EXPECT_EQ(pair.cpu.read(history.data, history.bytes()),
              pair.cuda.read(pair.cuda.buffers.history.data, history.bytes()));
    const auto x = pair.cuda.get(pair.cuda.buffers.x);
    for (size_t i = static_cast<size_t>(n); i < x.size(); ++i)
      ASSERT_TRUE(std::isnan(x[i])) << "row beyond the bucket";
  }
}

// A place in the pages that is not a row's own keeps its bits.
void expect_appended(Pair& pair, double allowed, size_t appended) {
  for (auto view : {k_of, v_of}) {
    const auto expected = pair.cpu.get(view(pair.cpu)), found = pair.cuda.get(view(pair.cuda));
    double difference = 0, size = 0;
    size_t written = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::isnan(expected[i]), std::isnan(found[i])) << "element " << i;
      if (std::isnan(expected[i])) continue;
      difference += std::pow(double{found[i]} - double{expected[i]}, 2);
      size += std::pow(double{expected[i]}, 2);
      ++written;
    }
    EXPECT_EQ(written, appended);
    EXPECT_LE(std::sqrt(difference / size), allowed);
  }
}

void check_qkv(const Case& c, const std::vector<Row>& rows, const std::vector<SlotParams>& params,
               double angle_error = 0) {
  SCOPED_TRACE(c.text());
  Pair pair(c);
  pair.set_rows(rows);
  pair.set_params(params);
  pair.randomize(x_of, 2);
  pair.run([&](Side& s) { s.ops->qkv({static_cast<int>(rows.size()), 1}, s.layer()); });
  // Rounded by CUDA: the normed x, the product, and q or k; by the CPU: k. Sums over H, and over head_dim in
  // the heads' norm.
  const double allowed = tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + angle_error;
  pair.expect_close(q_of, allowed, static_cast<int64_t>(rows.size()) * c.heads * c.head_dim);
  size_t live = 0;
  for (const Row& row : rows) live += row.slot != 0;
  expect_appended(pair, allowed, live * static_cast<size_t>(c.kv_heads * c.head_dim));
}

TEST_P(CudaVerbs, QkvNormalisesRotatesAndAppends) {
  Case c;
  c.dtype = GetParam();
  const std::vector<Row> rows = {{1, 0, 1, 1}, {1, 7, 2, 1}, {1, 8, 3, 1}, {0, 0, 0, 0}};
  for (int64_t head_dim : {8, 40, 64, 128, 256})
    for (bool extras : {false, true}) {
      c.head_dim = head_dim;
      c.heads = head_dim > 64 ? 2 : 6;
      c.kv_heads = head_dim > 64 ? 1 : 3;
      c.qk_norm = c.bias = extras;
      const double angle_error =
          9 * 0x1p-23;  // angles to 9 rad, sine and cosine of either library good to an ulp
      check_qkv(c, rows, {}, angle_error);
      check_qkv(c, {rows[1], rows[2]}, {}, angle_error);
    }
}

TEST_P(CudaVerbs, QkvTurnsByTheTableThatTheLengthAsksFor) {
  Case c;
  c.dtype = GetParam();
  c.head_dim = 16;
  const std::vector<Row> rows = {{1, 19, 1, 1}, {1, 20, 2, 1}, {1, 3, 3, 1}, {1, 33, 4, 1}};
  std::vector<SlotParams> params(4);
  params[2].prompt_length = 21;  // position 3 of a prompt that is longer than the original length
  const double angle_error = 34 * 4 * 0x1p-23;  // angles to 34 rad, frequencies good to four roundings
  c.rope = [](Rope& r) {
    r.original_length = 20;
    r.scaling = 1.25f;
    r.long_scaling = 1.5f;
  };
  check_qkv(c, rows, params, angle_error);
  c.rope = [](Rope& r) {
    r.original_length = 20;
    r.long_inv_freq = {};
    r.dynamic = true;
    r.dynamic_theta = 10000;
    r.dynamic_factor = 4;
  };
  check_qkv(c, rows, params, angle_error);
}

TEST_F(CudaTest, QkvTurnsAccuratelyAtTheLastPosition) {
  Case c;
  c.max_context = 131072;
  c.page_size = 256;
  // The angle is the same fp32 product on both sides; sine and cosine of 131071 rad must be as good as those
  // of 1.
  check_qkv(c, {{1, 131071, 1, 1}, {1, 105616, 2, 1}}, {}, 4 * 0x1p-24);
}

TEST_P(CudaVerbs, AddProjectAddsToTheResidual) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true})
    for (int rows = 1; rows <= 4; ++rows) {
      c.bias = bias;
      Pair pair(c);
      pair.randomize(x_of, 2);
      pair.randomize(o_of, 1);
      pair.randomize(h_of, 1);
      const Bucket bucket{rows, 1};
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj); });
      pair.expect_close(x_of, tolerance(DType::f32, 2, c.heads * c.head_dim));
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj); });
      pair.expect_close(x_of, tolerance(DType::f32, 4, c.heads * c.head_dim + c.intermediate));
    }
}

TEST_P(CudaVerbs, GateUpIsSiluOfTheGateTimesUp) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true})
    for (int rows : {1, 3}) {
      c.bias = bias;
      Pair pair(c);
      pair.randomize(x_of, 2);
      pair.run([&](Side& s) { s.ops->gate_up({rows, 1}, s.layer()); });
      // Rounded: the normed x (felt by gate and up), gate, up and h. silu's slope is at most 1.1.
      pair.expect_close(h_of, tolerance(c.dtype, 6, 2 * c.hidden + 16), rows * c.intermediate);
    }
}

TEST_P(CudaVerbs, LogitsTakeTheRowsThatTheListNames) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true}) {
    c.bias = bias;
    Pair pair(c);
    pair.randomize(x_of, 2);
    pair.set_logit_rows({3, 1, 0, 0});
    pair.run([&](Side& s) { s.ops->logits({4, 3}); });
    pair.expect_close(logits_of, tolerance(c.dtype, 1, 2 * c.hidden + 16), 3 * c.vocab);
  }
}

// ---- sample

std::vector<Sampled> sampled(Side& s) {
  const auto bytes = s.read(s.buffers.sampled.data, s.buffers.sampled.bytes());
  std::vector<Sampled> out(bytes.size() / sizeof(Sampled));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Runs `sample` on four logit rows, row l of slot l + 1, and expects the CPU's answers.
std::vector<Sampled> check_sample(Pair& pair, const std::vector<SlotParams>& params) {
  pair.set_rows({{1, 11, 1, 1}, {1, 50, 2, 1}, {1, 3, 3, 1}, {1, 0, 4, 1}});
  pair.set_params(params);
  pair.run([](Side& s) { s.ops->sample({4, 4}); });
  const auto expected = sampled(pair.cpu), found = sampled(pair.cuda);
  for (size_t l = 0; l < 4; ++l) {
    EXPECT_EQ(found[l].status, expected[l].status) << "row " << l;
    EXPECT_EQ(found[l].token, expected[l].token) << "row " << l;
    // A sum of at most 3000 fp32 terms, and log-probabilities of some ten.
    EXPECT_NEAR(found[l].logprob, expected[l].logprob, 3000 * 0x1p-24) << "row " << l;
  }
  return found;
}

// Tokens that all slots hold, at every position.
void set_history(Pair& pair, int64_t vocab) {
  std::vector<int32_t> history;
  for (uint32_t i = 0; i < pair.cpu.buffers.history.shape.elements(); ++i)
    history.push_back(static_cast<int32_t>((i * 2654435761u >> 16) % static_cast<uint32_t>(vocab)));
  for (Side* s : pair.sides()) s->write(s->buffers.history.data, history.data(), 4 * history.size());
}

SlotParams drawn(float temperature, int top_k, float top_p, float min_p, float penalty, uint32_t seed) {
  return {temperature, top_p, min_p, penalty, top_k, seed, seed * 77, 0};
}

TEST_F(CudaTest, SampleDrawsTheTokensOfTheCpu) {
  for (int64_t vocab : {90, 2999}) {
    Case c;
    c.vocab = vocab;
    Pair pair(c);
    set_history(pair, vocab);
    pair.randomize(logits_of, 3);
    check_sample(pair, {{}, drawn(0, 0, 1, 0, 1.5f, 1), drawn(1, 0, 1, 0, 1, 2), drawn(0.5f, 0, 1, 0, 2, 3)});
    check_sample(pair, {drawn(1, 1, 1, 0, 1, 4), drawn(2, 5, 1, 0, 1, 5), drawn(3, 40, 1, 0, 1, 6),
                        drawn(1, 1 << 30, 1, 0, 1, 7)});
    check_sample(pair, {drawn(1, 0, 0.9f, 0, 1, 8), drawn(2, 0, 0.5f, 0, 1, 9), drawn(5, 0, 0.01f, 0, 1, 10),
                        drawn(9, 0, 0, 0, 1, 11)});
    check_sample(pair, {drawn(3, 20, 0.8f, 0, 1, 12), drawn(3, 0, 1, 0.2f, 1, 13),
                        drawn(4, 50, 0.95f, 0.1f, 1.2f, 14), drawn(1e-6f, 0, 1, 0, 1, 15)});
    for (uint32_t seed = 100; seed < 104; ++seed)
      check_sample(pair, {drawn(4, 30, 0.9f, 0, 1, seed), drawn(4, 0, 0.7f, 0.05f, 1.1f, seed),
                          drawn(9, 0, 1, 0, 1, seed), drawn(2, 3, 1, 0, 1, seed)});
  }
}

TEST_F(CudaTest, SamplePenalizesBiasesHoldsBackAndListsAsTheCpu) {
  for (int64_t vocab : {13, 2999}) {
    Case c;
    c.vocab = vocab;
    Pair pair(c);
    set_history(pair, vocab);
    const auto v = static_cast<int32_t>(vocab);
    std::vector<SlotBias> biases;
    for (int32_t slot = 0; slot < 5; ++slot)
      for (int32_t i = 0; i < kMaxSlotBiases; ++i)
        biases.push_back({(i * 7 + slot) % v, i % 3 == 0 ? -kInf : 0.25f * static_cast<float>(i % 9)});
    for (Side* s : pair.sides())
      s->write(s->buffers.biases.data, biases.data(), biases.size() * sizeof(SlotBias));
    pair.randomize(logits_of, 3);
    for (float temperature : {0.0f, 2.0f}) {
      std::vector<SlotParams> params(4, drawn(temperature, 0, 1, 0, 1, 21));
      params[0].frequency_penalty = 0.7f;
      params[0].prompt_length = 4;
      params[1].presence_penalty = 1.5f;
      params[1].frequency_penalty = -0.2f;
      params[1].repetition_penalty = 1.2f;
      params[1].prompt_length = 20;
      params[2].biases = 3;
      params[2].held_back = 4;
      params[2].min_length = 5;  // of a row at position 3: the last that holds back
      params[3].biases = 9;
      params[3].held_back = 2;
      params[3].min_length = 1;
      params[3].presence_penalty = 0.5f;
      for (size_t i = 0; i < 4; ++i) params[i].top_logprobs = static_cast<int32_t>(i * i * 2 + 1);
      check_sample(pair, params);
      const auto top = [](Side& s) {
        const auto bytes = s.read(s.buffers.top.data, s.buffers.top.bytes());
        std::vector<TopToken> all(bytes.size() / sizeof(TopToken));
        std::memcpy(all.data(), bytes.data(), bytes.size());
        return all;
      };
      const auto expected = top(pair.cpu), found = top(pair.cuda);
      for (size_t l = 0; l < 4; ++l)
        for (size_t i = 0;
             i < std::min(static_cast<size_t>(params[l].top_logprobs), static_cast<size_t>(vocab)); ++i) {
          const size_t at = l * kMaxTopTokens + i;
          EXPECT_EQ(found[at].token, expected[at].token) << "row " << l << " entry " << i;
          EXPECT_NEAR(found[at].logprob, expected[at].logprob, 3000 * 0x1p-24)
              << "row " << l << " entry " << i;
        }
    }
  }
}

TEST_F(CudaTest, SampleReportsARowWhoseBiasesLeaveNoToken) {
  Case c;
  c.vocab = 8;
  Pair pair(c);
  pair.randomize(logits_of, 1);
  std::vector<SlotBias> biases;
  for (int32_t i = 0; i < 5 * kMaxSlotBiases; ++i) biases.push_back({i % 8, -kInf});
  for (Side* s : pair.sides())
    s->write(s->buffers.biases.data, biases.data(), biases.size() * sizeof(SlotBias));
  std::vector<SlotParams> params(4);
  params[1].biases = 8;
  params[2].biases = 7;
  const auto found = check_sample(pair, params);
  EXPECT_EQ(found[1].status, Sampled::kNumerical);
  EXPECT_EQ(found[2].token, 7);
}

// Rows become their successors: not one that nothing is drawn from, not padding, not past the last position,
// and once where unused entries name row 0 too. A row without a token goes on with one that can be embedded.
TEST_F(CudaTest, SampleMovesItsRowsOnToTheNextStep) {
  Case c;
  Pair pair(c);
  std::vector<float> logits(static_cast<size_t>(4 * c.vocab), -1.0f);
  logits[5] = logits[90 + 8] = 2.0f;
  logits[2 * 90] = kNan;
  pair.set(logits_of, logits);
  std::vector<SlotParams> params(4);
  for (SlotParams& p : params) p.last_position = 50;
  params[2].last_position = 3;
  const auto moved = [&](const std::vector<int32_t>& list) {
    pair.set_params(params);
    pair.set_rows({{1, 11, 1, 1}, {1, 50, 2, 1}, {1, 2, 3, 1}, {}});
    pair.set_logit_rows(list);
    pair.run([](Side& s) { s.ops->sample({4, 4}); });
    std::vector<std::vector<int32_t>> rows;
    for (Side* s : pair.sides()) {
      const auto bytes = s->read(s->buffers.rows.data, s->buffers.rows.bytes());
      rows.emplace_back(16);
      std::memcpy(rows.back().data(), bytes.data(), 16 * sizeof(int32_t));
    }
    EXPECT_EQ(rows[1], rows[0]);
    return rows[1];
  };
  EXPECT_EQ(moved({0, 1, 2, 3}), (std::vector<int32_t>{5, 12, 1, 1, 8, 50, 2, 1, 0, 3, 3, 1, 0, 0, 0, 0}));
  EXPECT_EQ(moved({1, 0, 0, 0}), (std::vector<int32_t>{8, 12, 1, 1, 5, 50, 2, 1, 1, 2, 3, 1, 0, 0, 0, 0}));
}

TEST_F(CudaTest, SampleTakesTheLowestOfEqualTokensAndKeepsTies) {
  Case c;
  Pair pair(c);
  std::vector<float> logits(static_cast<size_t>(4 * c.vocab), -1.0f);
  for (size_t v : {7u, 40u, 41u, 89u}) logits[v] = logits[90 + v] = 2.0f;
  logits[2 * 90 + 5] = -0.0f;
  logits[2 * 90 + 50] = 0.0f;
  pair.set(logits_of, logits);
  const auto greedy = check_sample(pair, {{}, {}, {}, {}});
  EXPECT_EQ(greedy[0].token, 7);
  EXPECT_EQ(greedy[2].token, 5) << "-0 and +0 are equal";
  EXPECT_EQ(greedy[3].token, 0);
  // top_k 2 of four equal ones keeps all four: over seeds, all of them are drawn, and nothing else.
  std::vector<int> times(90, 0);
  for (uint32_t seed = 0; seed < 24; ++seed)
    for (int32_t l : {0, 1})
      ++times[static_cast<size_t>(
          check_sample(
              pair,
              {drawn(1, 2, 1, 0, 1, seed), drawn(1, 0, 0.3f, 0, 1, seed), {}, {}})[static_cast<size_t>(l)]
              .token)];
  EXPECT_EQ(times[7] + times[40] + times[41] + times[89], 48);
  for (size_t v : {7u, 40u, 41u, 89u}) EXPECT_GT(times[v], 0) << v;
}

// 2000 tokens hold 99.85 % of the probability, in sums that carry from the low to the high word of a
// histogram more than a thousand times; top_p 0.998 is met by them alone. A lost carry would miss 0.27 % and
// let the other tokens in.
TEST_F(CudaTest, SampleAddsProbabilitiesWithoutLosingACarry) {
  Case c;
  c.vocab = 2999;
  Pair pair(c);
  std::vector<float> logits(static_cast<size_t>(4 * c.vocab));
  for (size_t i = 0; i < logits.size(); ++i) {
    const size_t v = i % 2999;
    logits[i] = v == 0 ? 0.0f : v <= 2000 ? -0.1f : -5.8f;
  }
  pair.set(logits_of, logits);
  pair.set_rows({{1, 11, 1, 1}, {1, 50, 2, 1}, {1, 3, 3, 1}, {1, 0, 4, 1}});
  uint32_t seed = 0;  // of a draw that, with all tokens to choose from, falls on one of the others
  for (int32_t token = 0; token <= 2000 && seed < 20000; token = sampled(pair.cpu)[0].token) {
    pair.set_params({drawn(1, 0, 1, 0, 1, ++seed)});
    pair.cpu.ops->sample({1, 1});
  }
  ASSERT_LT(seed, 20000u);
  const auto found =
      check_sample(pair, {drawn(1, 0, 0.998f, 0, 1, seed), drawn(1, 0, 1, 0, 1, seed), {}, {}});
  EXPECT_LE(found[0].token, 2000);
}

TEST_F(CudaTest, B15_B16_SampleReportsRowsWithoutAnAnswerAndOnlyThose) {
  Case c;
  Pair pair(c);
  auto logits = pair.randomize(logits_of, 1);
  logits[60] = kNan;
  logits[90 + 89] = kInf;
  for (size_t v = 0; v < 90; ++v) logits[2 * 90 + v] = -kInf;
  for (size_t v = 0; v < 89; ++v) logits[3 * 90 + v] = -kInf;
  pair.set(logits_of, logits);
  for (float temperature : {0.0f, 1.0f}) {
    const auto found =
        check_sample(pair, std::vector<SlotParams>(4, drawn(temperature, 3, 0.5f, 0.1f, 1, 1)));
    for (size_t l : {0u, 1u, 2u}) EXPECT_EQ(found[l].status, Sampled::kNumerical);
    EXPECT_EQ(found[3].status, Sampled::kOk);
    EXPECT_EQ(found[3].token, 89);
  }
}

// ---- the step as a whole

void step(Side& s, Bucket bucket) {
  s.ops->embed(bucket);
  s.ops->qkv(bucket, s.layer());
  s.ops->attend(bucket, s.layer());
  s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj);
  s.ops->gate_up(bucket, s.layer());
  s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj);
  s.ops->logits(bucket);
  s.ops->sample(bucket);
}

TEST_P(CudaVerbs, ReplayGivesTheBitsOfTheEagerStep) {
  Case c;
  c.dtype = GetParam();
  c.qk_norm = true;
  Pair pair(c);
  Side& s = pair.cuda;
  const auto recorder = make_cuda_recorder(pair.cuda_device());
  pair.set_params({drawn(1, 0, 0.9f, 0, 1, 5), {}, {}, {}});
  const auto rows = [&](int32_t n) { pair.set_rows({{n, n, 1, 1}, {n + 9, 0, 2, 1}}); };
  rows(0);
  step(s, {2, 2});
  s.device->synchronize();
  RecordingCost cost;
  const auto recording = recorder->record([&] { step(s, {2, 2}); }, cost);
  EXPECT_GE(cost.nodes, 12);
  const auto pages = s.read(s.pages->data(), s.pages->bytes());
  for (int32_t n : {1, 2, 3}) {  // what changes lies in the input block: one recording serves every position
    rows(n);
    s.write(s.pages->data(), pages.data(), pages.size());
    for (int32_t p = 0; p < n; ++p) {
      rows(p);
      step(s, {2, 2});
      s.device->synchronize();
    }
    rows(n);
    step(s, {2, 2});
    const auto eager = s.read(s.buffers.logits.data, s.buffers.logits.bytes());
    const auto eager_sampled = s.read(s.buffers.sampled.data, s.buffers.sampled.bytes());
    s.device->fill(s.buffers.logits.data, 0xFF, s.buffers.logits.bytes());
    s.device->fill(s.buffers.sampled.data, 0xFF, 2 * sizeof(Sampled));
    rows(n);  // the eager step has moved them on
    recording->launch();
    s.device->synchronize();
    EXPECT_EQ(std::memcmp(eager.data(), s.read(s.buffers.logits.data, 2 * 90 * 4).data(), 2 * 90 * 4), 0)
        << n;
    EXPECT_EQ(std::memcmp(eager_sampled.data(), s.read(s.buffers.sampled.data, 32).data(), 32), 0) << n;
  }
}

TEST_F(CudaTest, WhatOtherRowsHoldChangesNoBitOfARow) {
  Pair pair(Case{});
  std::vector<std::byte> alone;
  for (bool padded : {true, false}) {
    pair.set_rows(
        {{5, 0, 1, 1}, padded ? Row{} : Row{17, 0, 2, 1}, {6, 0, 3, 1}, padded ? Row{} : Row{80, 0, 4, 1}});
    step(pair.cuda, {4, 4});
    auto logits = pair.cuda.read(pair.cuda.buffers.logits.data, pair.cuda.buffers.logits.bytes());
    for (size_t l : {1u, 3u})
      std::fill_n(logits.begin() + static_cast<long>(l * 90 * 4), 90 * 4, std::byte{0});
    if (padded) alone = logits;
    EXPECT_TRUE(logits == alone);
  }
}

template <class F>
void expect_error(ErrorKind kind, const std::string& part, F f) {
  try {
    f();
    ADD_FAILURE() << "expected " << error_kind_name(kind) << " with \"" << part << "\"";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "left behind for somebody else's call to find";
}

TEST_F(CudaTest, RecordingAStepThatFailsLeavesTheStreamUsable) {
  Pair pair(Case{});
  const auto recorder = make_cuda_recorder(pair.cuda_device());
  pair.set_rows({{1, 0, 1, 1}});
  RecordingCost cost;
  const auto record = [&] { recorder->record([&] { step(pair.cuda, {1, 1}); }, cost); };
  expect_error(ErrorKind::Misuse, "plan", record);  // never run eagerly
  step(pair.cuda, {1, 1});
  pair.cuda.device->synchronize();
  const auto illegal = [&] {
    recorder->record([&] { pair.cuda.device->allocate(256, "scratch of a step"); }, cost);
  };
  expect_error(ErrorKind::Misuse, "scratch of a step", illegal);
  expect_error(ErrorKind::Misuse, "cudaStreamSynchronize",
               [&] { recorder->record([&] { pair.cuda.device->synchronize(); }, cost); });
  expect_error(ErrorKind::Misuse, "already", [&] { recorder->record(record, cost); });
  const auto recording = recorder->record([&] { step(pair.cuda, {1, 1}); }, cost);
  recording->launch();
  pair.cuda.device->synchronize();
}

TEST_F(CudaTest, OutOfMemorySaysWhatWasAskedAndWhatIsFree) {
  const auto device = make_cuda_device(0);
  expect_error(ErrorKind::OutOfMemory,
               "weights: cudaMalloc: 1125899906842624 bytes of device memory were asked for",
               [&] { device->allocate(uint64_t{1} << 50, "weights"); });
  EXPECT_NE(device->allocate(256, "after it")->data(), nullptr);
  EXPECT_EQ(device->allocate(0, "nothing")->data(), nullptr);
}

TEST_F(CudaTest, ADeviceThatDoesNotExistIsRefusedByNumber) {
  expect_error(ErrorKind::InvalidArgument, "cuda:99", [] { make_cuda_device(99); });
  expect_error(ErrorKind::InvalidArgument, "cuda:-1", [] { make_cuda_device(-1); });
}

TEST_F(CudaTest, AForkedChildIsToldSoAndTheParentGoesOn) {
  const auto device = make_cuda_device(0);
  const pid_t child = fork();
  if (child == 0) {
    try {
      device->enter();
      _exit(1);
    } catch (const Error& e) {
      _exit(e.kind() == ErrorKind::Misuse ? 0 : 2);
    }
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const DeviceUse use(*device);
  device->synchronize();
}

TEST_F(CudaTest, AnErrorThatForeignCodeLeftIsNotOurs) {
  Pair pair(Case{});
  pair.set_rows({{1, 0, 1, 1}});
  EXPECT_NE(cudaSetDevice(1 << 20), cudaSuccess);  // stays in the runtime for whoever asks
  step(pair.cuda, {1, 1});
  pair.cuda.device->synchronize();
  cudaGetLastError();
}

TEST_F(CudaTest, WeightsThatDoNotFitTheDimensionsAreRefused) {
  Pair pair(Case{});
  Side& s = pair.cuda;
  Model model = s.model;
  model.layers[0].o_proj.weight.shape = {8, 8};
  expect_error(ErrorKind::InvalidArgument, "layers.0.o_proj.weight: expected f32 [40, 32], found f32 [8, 8]",
               [&] { make_cuda_ops(s.dims, s.buffers, model, pair.cuda_device().stream()); });
  StepDims dims = s.dims;
  dims.activation_dtype = DType::bf16;
  expect_error(ErrorKind::InvalidArgument, "activation_dtype",
               [&] { make_cuda_ops(dims, s.buffers, s.model, pair.cuda_device().stream()); });
}

#ifdef RONDO_SIMT
TEST_F(CudaTest, MachinesWithoutAUsableGpuSayWhy) {
  fake::Device device;
  const auto reason = [&] {
    fake::set_device(device);
    const std::string said = probe_cuda().unusable;
    expect_error(ErrorKind::DeviceLost, said, [] { make_cuda_device(0); });
    fake::reset();
    return said;
  };
  device.count = 0;
  EXPECT_EQ(reason(), "no CUDA device was found");
  device = {};
  device.driver_version = 12020;
  EXPECT_EQ(reason(), "the NVIDIA driver is too old (found 12.2, need 13.0)");
  device.driver_version = 0;
  EXPECT_EQ(reason(), "no NVIDIA driver was found");
  device = {};
  device.major = 7;
  device.minor = 5;
  EXPECT_EQ(reason(), "stand-in has compute capability 7.5, need 8.0");
}

TEST_F(CudaTest, AFaultOnTheDeviceIsDeviceLostFromThenOn) {
  {
    Pair pair(Case{});
    pair.set_rows({{1, 0, 1, 1}});
    step(pair.cuda, {1, 1});
    fake::device_fault(cudaErrorIllegalAddress);
    expect_error(ErrorKind::DeviceLost, "cudaErrorIllegalAddress", [&] { pair.cuda.device->synchronize(); });
    expect_error(ErrorKind::DeviceLost, "cudaErrorIllegalAddress", [&] { pair.cuda.ops->logits({1, 1}); });
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  fake::reset();
}

TEST_F(CudaTest, EverythingIsReleased) {
  fake::reset();
  {
    Pair pair(Case{});
    pair.set_rows({{1, 0, 1, 1}});
    step(pair.cuda, {1, 1});
    pair.cuda.device->synchronize();
    const auto event = pair.cuda.device->make_event();
    event->wait();  // none was recorded: returns at once
    event->record();
    event->wait();
    RecordingCost cost;
    const auto recording = make_cuda_recorder(pair.cuda_device())
                               ->record(
                                   [&] {
                                     step(pair.cuda, {1, 1});
                                   },
                                   cost);
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  EXPECT_EQ(fake::misuse(), "");
}
#endif

TEST(CudaCheck, OnlyErrorsThatTakeTheContextAreSticky) {
  for (cudaError_t e : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorLaunchTimeout,
                        cudaErrorECCUncorrectable, cudaErrorCudartUnloading})
    EXPECT_TRUE(cuda::is_sticky(e)) << cudaGetErrorName(e);
  for (cudaError_t e : {cudaErrorMemoryAllocation, cudaErrorInvalidValue, cudaErrorStreamCaptureInvalidated,
                        cudaErrorNotReady})
    EXPECT_FALSE(cuda::is_sticky(e)) << cudaGetErrorName(e);
}

}  // namespace
}  // namespace rondo
