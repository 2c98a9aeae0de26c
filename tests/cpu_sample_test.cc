// What a draw may be: the generator's known answers, exact sets of kept tokens, exact probabilities, rows
// that are not numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "kernels/cpu/sample.h"
#include "kernels/sampling_math.h"

namespace rondo {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Drawn : Sampled {
  std::vector<TopToken> top;
};

// `history`: the sequence's tokens. The row's words start with what no draw may look at.
Drawn draw(const std::vector<float>& logits, const SlotParams& params, int position = 0,
           const std::vector<int32_t>& history = {}, const std::vector<SlotBias>& biases = {}) {
  SampleScratch scratch(logits.size());
  std::vector<uint32_t> words(logits.size(), 0xFFFFFFFFu);
  std::vector<TopToken> top(kMaxTopTokens);
  SampleRow row{logits, params, position, history, biases.data(), words.data(), top.data()};
  const Sampled sampled = sample_row(row, scratch);
  top.resize(std::min(logits.size(), static_cast<size_t>(params.top_logprobs)));
  return {sampled, top};
}

// How often each token comes in 20000 positions.
std::vector<int> counts(const std::vector<float>& logits, const SlotParams& params, int draws = 20000) {
  std::vector<int> n(logits.size());
  for (int p = 0; p < draws; ++p) ++n[static_cast<size_t>(draw(logits, params, p).token)];
  return n;
}

std::set<int> kept(const std::vector<float>& logits, const SlotParams& params) {
  std::set<int> tokens;
  const std::vector<int> n = counts(logits, params);
  for (size_t v = 0; v < n.size(); ++v)
    if (n[v] > 0) tokens.insert(static_cast<int>(v));
  return tokens;
}

std::vector<float> logs(std::vector<double> probabilities) {
  std::vector<float> l;
  for (double p : probabilities) l.push_back(static_cast<float>(std::log(p)));
  return l;
}

SlotParams at_temperature(float t) {
  SlotParams p;
  p.temperature = t;
  p.seed_low = 42;
  return p;
}

// Pearson's statistic of n counts is about chi-squared of n - 1 degrees k, of mean k and deviation sqrt(2 k);
// ten deviations above the mean is less likely than 1e-10 for a right sampler of up to 20 tokens, and the
// seeds are fixed besides.
void expect_distribution(const std::vector<int>& n, const std::vector<double>& p) {
  double total = 0, statistic = 0;
  for (int c : n) total += c;
  for (size_t v = 0; v < n.size(); ++v) {
    const double expected = total * p[v];
    statistic += (n[v] - expected) * (n[v] - expected) / expected;
  }
  const double degrees = static_cast<double>(n.size()) - 1;
  EXPECT_LT(statistic, degrees + 10 * std::sqrt(2 * degrees));
}

TEST(SamplingMath, PhiloxKnownAnswers) {  // Random123's kat_vectors
  const Philox zero = philox(0, 0, 0, 0, 0, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[1], 0xe169c58du);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
  const Philox pi = philox(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u);
  EXPECT_EQ(pi.word[0], 0xd16cfe09u);
  EXPECT_EQ(pi.word[1], 0x94fdccebu);
  EXPECT_EQ(pi.word[2], 0x5001e420u);
  EXPECT_EQ(pi.word[3], 0x24126ea1u);
}

TEST(SamplingMath, UniformIsOpenAndNoiseBounded) {
  for (uint32_t bits : {0u, 1u, 0x7FFFFFFFu, 0xFFFFFF00u, 0xFFFFFFFFu}) {
    EXPECT_GT(uniform_open(bits), 0.0f);
    EXPECT_LT(uniform_open(bits), 1.0f);
  }
  EXPECT_LT(-std::log(-std::log1p(-uniform_open(0))), kMaxGumbelNoise);
  EXPECT_TRUE(std::isfinite(-std::log(-std::log1p(-uniform_open(0xFFFFFFFFu)))));
}

TEST(SamplingMath, OrderKeyOrdersFloats) {
  const std::vector<float> ascending = {-kInf, -3e38f, -1.0f, -1e-40f, 0.0f, 1e-40f, 1.0f, 3e38f, kInf};
  for (size_t i = 0; i + 1 < ascending.size(); ++i)
    EXPECT_LT(order_key(ascending[i]), order_key(ascending[i + 1])) << i;
  EXPECT_EQ(order_key(-0.0f), order_key(0.0f));
}

TEST(CpuSample, GreedyTakesTheLowestOfEqualsAndPenalizesSeenTokens) {
  const std::vector<float> logits = {0.5f, 2.0f, -1.0f, 2.0f};
  const Sampled first = draw(logits, {});
  EXPECT_EQ(first.token, 1);
  double sum = 0;
  for (float l : logits) sum += std::exp(l - 2.0);
  EXPECT_NEAR(first.logprob, -std::log(sum), 1e-6);
  SlotParams p;
  p.repetition_penalty = 1.5f;
  const Sampled penalized = draw(logits, p, 0, {1});
  EXPECT_EQ(penalized.token, 3);
  EXPECT_NEAR(penalized.logprob, -std::log(sum), 1e-6) << "of the raw logits";
  EXPECT_EQ(draw({-2.0f, -1.0f, -1.2f}, p, 0, {1}).token, 2) << "a negative logit is multiplied";
}

TEST(CpuSample, NaNAndInfinityAreReported) {
  for (size_t n : {1, 7, 40, 5000}) {
    for (float bad : {kNan, -kNan, kInf}) {
      for (size_t place : {size_t{0}, n / 2, n - 1}) {
        std::vector<float> logits(n, 1.0f);
        logits[place] = bad;
        const Sampled s = draw(logits, at_temperature(1));
        EXPECT_EQ(s.status, Sampled::kNumerical) << n << " " << bad << " " << place;
        EXPECT_EQ(s.token, 0);
        EXPECT_EQ(s.logprob, 0.0f);
      }
    }
    EXPECT_EQ(draw(std::vector<float>(n, -kInf), {}).status, Sampled::kNumerical) << n;
    std::vector<float> one(n, -kInf);
    one[n - 1] = -5.0f;
    for (float t : {0.0f, 1.0f}) {
      const Sampled s = draw(one, at_temperature(t));
      EXPECT_EQ(s.status, Sampled::kOk);
      EXPECT_EQ(s.token, static_cast<int>(n) - 1);
      EXPECT_NEAR(s.logprob, 0.0f, 1e-6);
    }
  }
}

TEST(CpuSample, DrawsFollowTheProbabilities) {
  const std::vector<double> p = {0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.007, 0.003};
  expect_distribution(counts(logs(p), at_temperature(1)), p);

  std::vector<double> cooled;
  double sum = 0;
  for (double x : p) cooled.push_back(std::pow(x, 1 / 0.7)), sum += cooled.back();
  for (double& x : cooled) x /= sum;
  expect_distribution(counts(logs(p), at_temperature(0.7f)), cooled);
  expect_distribution(counts(std::vector<float>(16, 3.0f), at_temperature(2)),
                      std::vector<double>(16, 1.0 / 16));
}

TEST(CpuSample, KeptSetsAreExact) {
  const std::vector<float> logits =
      logs({0.05, 0.3, 0.1, 0.2, 0.1, 0.15, 0.06, 0.04});  // descending: 1 3 5 (2 4) 6 0 7
  const auto with = [&](int top_k, float top_p, float min_p) {
    SlotParams p = at_temperature(1);
    p.top_k = top_k;
    p.top_p = top_p;
    p.min_p = min_p;
    return kept(logits, p);
  };
  using Set = std::set<int>;
  EXPECT_EQ(with(0, 1, 0), (Set{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(with(1, 1, 0), (Set{1}));
  EXPECT_EQ(with(3, 1, 0), (Set{1, 3, 5}));
  EXPECT_EQ(with(4, 1, 0), (Set{1, 2, 3, 4, 5})) << "2 and 4 tie for the fourth place";
  EXPECT_EQ(with(100, 1, 0), (Set{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(with(0, 0.29f, 0), (Set{1}));
  EXPECT_EQ(with(0, 0.0f, 0), (Set{1})) << "one token is always kept";
  EXPECT_EQ(with(0, 0.45f, 0), (Set{1, 3}));
  EXPECT_EQ(with(0, 0.64f, 0), (Set{1, 3, 5}));
  EXPECT_EQ(with(0, 0.70f, 0), (Set{1, 2, 3, 4, 5})) << "ties with the last one kept are kept";
  EXPECT_EQ(with(2, 0.55f, 0), (Set{1})) << "top_p is over what top_k left, 0.6 and 0.4";
  EXPECT_EQ(with(2, 0.65f, 0), (Set{1, 3}));
  EXPECT_EQ(with(0, 1, 0.45f), (Set{1, 3, 5}));
  EXPECT_EQ(with(0, 1, 0.32f), (Set{1, 2, 3, 4, 5}));
  EXPECT_EQ(with(0, 1, 1.0f), (Set{1}));
  EXPECT_EQ(with(3, 0.9f, 0.6f), (Set{1, 3}));
}

// The definitions of sampling_math.h by sorting, on rows as large and as tied as real ones.
TEST(CpuSample, ThresholdsAgreeWithSorting) {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    const size_t n = round % 2 ? 3001 : 517;
    std::normal_distribution<float> normal(0, round % 3 ? 3.0f : 0.05f);
    std::vector<float> logits(n);
    for (float& l : logits) l = round % 4 ? normal(random) : std::round(2 * normal(random)) / 2;
    SlotParams p = at_temperature(0.5f + 0.25f * static_cast<float>(round % 5));
    p.top_k = round % 3 == 0 ? 0 : 1 + static_cast<int>(random() % 60);
    p.top_p = round % 5 == 0 ? 1.0f : 0.05f * static_cast<float>(1 + random() % 19);
    p.min_p = round % 7 == 0 ? 0.05f : 0.0f;
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    float least = p.top_k > 0 ? sorted[static_cast<size_t>(p.top_k) - 1] : sorted.back();
    if (p.top_p < 1) {
      uint64_t total = 0, mass = 0;
      for (float l : sorted)
        if (l >= least) total += fixed_probability(scaled_gap(l, sorted[0], p.temperature));
      for (float l : sorted) {
        mass += fixed_probability(scaled_gap(l, sorted[0], p.temperature));
        if (mass >= top_p_target(p.top_p, total)) {
          least = std::max(least, l);
          break;
        }
      }
    }
    for (int position = 0; position < 20; ++position) {
      size_t want = n;
      float best = -kInf;
      for (size_t v = 0; v < n; ++v) {
        const float gap = scaled_gap(logits[v], sorted[0], p.temperature);
        if (logits[v] < least || (p.min_p > 0 && !min_p_keeps(gap, p.min_p))) continue;
        const float value =
            gap + gumbel_noise(static_cast<uint32_t>(v), static_cast<uint32_t>(position), 42, 0);
        if (value > best) best = value, want = v;
      }
      ASSERT_EQ(draw(logits, p, position).token, static_cast<int>(want)) << round << " " << position;
    }
  }
}

TEST(CpuSample, ADrawDependsOnSeedAndPositionOnly) {
  const std::vector<float> logits(1000, 0.0f);
  SlotParams p = at_temperature(1);
  const int token = draw(logits, p, 5).token;
  EXPECT_EQ(draw(logits, p, 5).token, token);
  std::set<int> tokens = {token, draw(logits, p, 6).token};
  p.seed_low = 43;
  tokens.insert(draw(logits, p, 5).token);
  p.seed_low = 42;
  p.seed_high = 1;
  tokens.insert(draw(logits, p, 5).token);
  EXPECT_EQ(tokens.size(), 4u);
}

TEST(CpuSample, ExtremeParametersStayInTheVocabulary) {
  std::vector<float> logits = {3e38f, -3e38f, 0.0f, 3e38f, 1.0f};
  for (float temperature : {1e-38f, 1e-3f, 1e30f})
    for (float penalty : {1e-30f, 1.0f, 1e30f}) {
      SlotParams p = at_temperature(temperature);
      p.repetition_penalty = penalty;
      p.top_p = 0.5f;
      const Sampled s = draw(logits, p, 1, {0, 1, 2, 3, 4});
      EXPECT_EQ(s.status, Sampled::kOk);
      EXPECT_GE(s.token, 0);
      EXPECT_LT(s.token, 5);
    }
}

// Four tokens alike: what is taken from one shows who is left.
TEST(CpuSample, FrequencyAndPresenceCountWhatWasGeneratedAndNotThePrompt) {
  SlotParams p;
  p.prompt_length = 3;
  const std::vector<float> logits = {4.0f, 3.9f, 3.0f, 2.0f};
  const std::vector<int32_t> history = {0, 0, 0, 1, 1, 1};  // 0 in the prompt, 1 generated three times
  EXPECT_EQ(draw(logits, p, 5, history).token, 0);
  p.frequency_penalty =
      -0.1f;  // 1 gains 0.3 and passes 0; as presence it would gain 0.1 and tie, and the lower id win
  EXPECT_EQ(draw(logits, p, 5, history).token, 1);
  p.frequency_penalty = 0;
  p.presence_penalty = -0.09f;
  EXPECT_EQ(draw(logits, p, 5, history).token, 0);
  p.presence_penalty = -0.11f;
  EXPECT_EQ(draw(logits, p, 5, history).token, 1);
  p.presence_penalty = 0;
  p.frequency_penalty = 0.5f;
  EXPECT_EQ(draw({3.9f, 4.2f, 2.8f, 2.6f}, p, 5, history).token, 0);
  p.prompt_length = 6;  // now nothing was generated
  EXPECT_EQ(draw({3.9f, 4.2f, 2.8f, 2.6f}, p, 5, history).token, 1);
}

TEST(CpuSample, BiasesComeBeforePenaltiesAndMinusInfinityNeverIsDrawn) {
  SlotParams p;
  p.biases = 2;
  const std::vector<SlotBias> biases = {{2, 3.0f}, {0, -kInf}};
  EXPECT_EQ(draw({5.0f, 2.0f, 0.5f}, p, 0, {0}, biases).token, 2);
  p.repetition_penalty = 2;  // (0.5 + 3) / 2 is less than 2; 0.5 / 2 + 3 would be more
  EXPECT_EQ(draw({5.0f, 2.0f, 0.5f}, p, 0, {2}, biases).token, 1);
  p = at_temperature(50);
  p.biases = 2;
  for (int position = 0; position < 500; ++position)
    ASSERT_NE(
        draw({5.0f, 2.0f, 0.5f}, p, position, std::vector<int32_t>(static_cast<size_t>(position) + 1), biases)
            .token,
        0);
  p.biases = 1;
  const std::vector<SlotBias> all = {{0, -kInf}};
  EXPECT_EQ(draw({5.0f}, p, 0, {0}, all).status, Sampled::kNumerical) << "no token is left";
}

TEST(CpuSample, HeldBackTokensAreDrawnOnceTheSequenceIsLongEnough) {
  SlotParams p;
  p.held_back = 1;
  p.min_length = 6;
  const std::vector<SlotBias> biases = {{1, -kInf}};
  const std::vector<int32_t> history(6, 0);
  EXPECT_EQ(draw({1.0f, 2.0f}, p, 4, history, biases).token, 0);  // five tokens so far
  EXPECT_EQ(draw({1.0f, 2.0f}, p, 5, history, biases).token, 1);
}

TEST(CpuSample, TheLikeliestAreListedFromRawLogitsLowestIdFirstAmongEquals) {
  SlotParams p;
  p.top_logprobs = 3;
  p.biases = 1;
  const std::vector<float> logits = logs({0.1, 0.3, 0.25, 0.3, 0.05});
  const Drawn drawn = draw(logits, p, 0, {0}, {{4, 100.0f}});
  EXPECT_EQ(drawn.token, 4);
  EXPECT_NEAR(drawn.logprob, std::log(0.05), 1e-6);
  ASSERT_EQ(drawn.top.size(), 3u);
  const int tokens[] = {1, 3, 2};
  const double probabilities[] = {0.3, 0.3, 0.25};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(drawn.top[i].token, tokens[i]);
    EXPECT_NEAR(drawn.top[i].logprob, std::log(probabilities[i]), 1e-6);
  }
  p.top_logprobs = 20;
  EXPECT_EQ(draw(logits, p, 0, {0}, {{4, 100.0f}}).top.back().token, 4)
      << "all five where twenty are asked for";
}

}  // namespace
}  // namespace rondo
