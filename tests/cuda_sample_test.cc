// `sample` of the CUDA backend against the CPU backend, on the same logits: the same tokens, for a GPU, and
// on the executor.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/cuda_pair.h"

namespace rondo {
namespace {

using test::Case;
using test::CudaTest;
using test::kInf;
using test::kNan;
using test::Pair;
using test::Side;

View logits_of(Side& s) { return s.buffers.logits; }

class CudaSample : public CudaTest {};

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

TEST_F(CudaSample, SampleDrawsTheTokensOfTheCpu) {
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

TEST_F(CudaSample, SamplePenalizesBiasesHoldsBackAndListsAsTheCpu) {
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

TEST_F(CudaSample, SampleReportsARowWhoseBiasesLeaveNoToken) {
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
TEST_F(CudaSample, SampleMovesItsRowsOnToTheNextStep) {
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

TEST_F(CudaSample, SampleTakesTheLowestOfEqualTokensAndKeepsTies) {
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
TEST_F(CudaSample, SampleAddsProbabilitiesWithoutLosingACarry) {
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

TEST_F(CudaSample, B15_B16_SampleReportsRowsWithoutAnAnswerAndOnlyThose) {
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

}  // namespace
}  // namespace rondo
