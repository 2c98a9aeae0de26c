// What a request may ask of its tokens, through the engine on the CPU backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::drawn;
using test::greedy;
using test::kVocab;
using test::some_tokens;

constexpr float kInf = std::numeric_limits<float>::infinity();

class EngineSampling : public testing::Test {
 protected:
  test::TinyConfig config_{{.tied = false}};  // tied ones repeat their last token
  EngineOptions options_ = test::one_thread(test::tiny_options(DeviceKind::Cpu));
  Engine engine_ = Engine::open(config_.path(), options_);
  std::vector<int32_t> prompt_ = some_tokens(6, kVocab, 1);
};

TEST_F(EngineSampling, AStopSequenceEndsItWhereverItsLastTokenFalls) {
  const auto free = alone(engine_, greedy(prompt_, 20));
  for (int64_t at = 1; at < 12; ++at) {
    Request request = greedy(prompt_, 20);
    request.stop_sequences = {{-1 + kVocab, free[0]}, {free.begin() + at - 1, free.begin() + at + 1}};
    // The pair may have come before: then there.
    int64_t first = 1;
    while (!std::equal(free.begin() + at - 1, free.begin() + at + 1, free.begin() + first - 1)) ++first;
    const SequenceId id = engine_.add(request);
    const auto outputs = test::run_all(engine_)[id];
    EXPECT_EQ(outputs.size(), static_cast<size_t>(first + 1)) << at;
    EXPECT_EQ(outputs.back().finish, FinishReason::Stop);
    EXPECT_EQ(outputs.back().token, free[static_cast<size_t>(at)]);
  }
}

TEST_F(EngineSampling, AStopSequenceIsOfGeneratedTokensAlone) {
  const auto free = alone(engine_, greedy(prompt_, 4));
  Request request = greedy(prompt_, 4);
  ASSERT_NE(prompt_.back(), free[0]);
  request.stop_sequences = {{prompt_.back(), free[0]}};
  EXPECT_EQ(alone(engine_, request), free);
}

TEST_F(EngineSampling, StopIdsAreNotDrawnBeforeMinNewTokens) {
  const auto free = alone(engine_, greedy(prompt_, 12));
  Request request = greedy(prompt_, 12);
  request.stop_ids = {free[2]};
  EXPECT_EQ(alone(engine_, request).size(),
            1 + static_cast<size_t>(std::find(free.begin(), free.end(), free[2]) - free.begin()));
  request.min_new_tokens = 6;
  const auto held = alone(engine_, request);
  ASSERT_GE(held.size(), 7u);
  EXPECT_EQ(std::count(held.begin(), held.begin() + 6, free[2]), 0);
  request.min_new_tokens = 12;
  EXPECT_EQ(alone(engine_, request).size(), 12u);
}

TEST_F(EngineSampling, StopSequencesDoNotStopBeforeMinNewTokens) {
  const auto free = alone(engine_, greedy(prompt_, 12));
  Request request = greedy(prompt_, 12);
  request.stop_sequences = {{free[1]}, {free[7]}};
  request.min_new_tokens = 8;
  const auto held = alone(engine_, request);
  EXPECT_EQ(held, std::vector<int32_t>(free.begin(), free.begin() + 8));
}

TEST_F(EngineSampling, ABiasBringsATokenOrBansIt) {
  const auto free = alone(engine_, greedy(prompt_, 10));
  Request request = greedy(prompt_, 10);
  request.sampling.logit_bias = {{17, 1000.0f}};
  EXPECT_EQ(alone(engine_, request), std::vector<int32_t>(10, 17));
  request.sampling.logit_bias = {{free[0], -kInf}};
  const auto banned = alone(engine_, request);
  EXPECT_EQ(std::count(banned.begin(), banned.end(), free[0]), 0);
}

TEST_F(EngineSampling, AGreatPresencePenaltyGivesNoGeneratedTokenTwiceThoughThePromptMayRepeat) {
  Request request = greedy(some_tokens(12, kVocab, 3), 40);
  request.sampling.presence_penalty = 1e6f;
  const auto tokens = alone(engine_, request);
  EXPECT_EQ(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 40u);
  // Two tokens that alternate under a bias: counts decide, not presence.
  request.sampling.presence_penalty = 0;
  request.sampling.frequency_penalty = 1000;
  request.sampling.logit_bias = {{5, 1e5f}, {6, 1e5f}};
  const auto turns = alone(engine_, request);
  EXPECT_EQ(std::count(turns.begin(), turns.end(), 5), 20);
  EXPECT_EQ(std::count(turns.begin(), turns.end(), 6), 20);
}

TEST_F(EngineSampling, TopLogprobsAreTheLargestOfWhatScoreSees) {
  Request request = greedy(prompt_, 5);
  request.sampling = drawn(9);
  request.sampling.top_logprobs = 4;
  const SequenceId id = engine_.add(request);
  const auto outputs = test::run_all(engine_)[id];
  const auto tokens = engine_.tokens(id);
  std::vector<std::vector<float>> logits;
  engine_.score(tokens,
                [&](int64_t, std::span<const float> row) { logits.emplace_back(row.begin(), row.end()); });
  ASSERT_EQ(outputs.size(), 5u);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto& row = logits[prompt_.size() - 1 + i];
    double sum = 0;
    for (float logit : row) sum += std::exp(static_cast<double>(logit));
    ASSERT_EQ(outputs[i].top_logprobs.size(), 4u);
    auto sorted = row;
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t n = 0; n < 4; ++n) {
      const TokenLogprob& top = outputs[i].top_logprobs[n];
      EXPECT_EQ(row[static_cast<size_t>(top.token)], sorted[n]);
      EXPECT_NEAR(top.logprob, sorted[n] - std::log(sum), 1e-5);
    }
    EXPECT_NEAR(outputs[i].logprob, row[static_cast<size_t>(outputs[i].token)] - std::log(sum), 1e-5);
  }
}

TEST_F(EngineSampling, B14_NewParametersThatMeanNothingAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [&](const char* name, auto change) {
    Request request = greedy({1}, 4);
    change(request);
    try {
      engine_.add(request);
      ADD_FAILURE() << "expected InvalidArgument of " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidArgument) << error.what();
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  };
  refused("presence_penalty", [&](Request& r) { r.sampling.presence_penalty = nan; });
  refused("frequency_penalty", [&](Request& r) { r.sampling.frequency_penalty = kInf; });
  refused("top_logprobs", [](Request& r) { r.sampling.top_logprobs = 21; });
  refused("logit_bias", [&](Request& r) { r.sampling.logit_bias = {{3, nan}}; });
  refused("logit_bias", [&](Request& r) { r.sampling.logit_bias = {{3, kInf}}; });
  refused("logit_bias", [](Request& r) { r.sampling.logit_bias = {{kVocab, 1}}; });
  refused("twice", [](Request& r) { r.sampling.logit_bias = {{3, 1}, {3, 2}}; });
  refused("logit_bias", [](Request& r) {
    for (int32_t i = 0; i < 64; ++i) r.sampling.logit_bias.push_back({i, 1});
    r.stop_ids = {1};
    r.min_new_tokens = 1;
  });
  refused("min_new_tokens", [](Request& r) { r.min_new_tokens = 5; });
  refused("stop_sequences", [](Request& r) { r.stop_sequences = {{}}; });
  refused("stop_sequences", [](Request& r) { r.stop_sequences = {{-1}}; });
  refused("draft_tokens", [](Request& r) { r.draft_tokens = 9; });
  refused("draft_ngram", [](Request& r) { r.draft_ngram = 0; });
  EXPECT_FALSE(engine_.busy());
}

TEST_F(EngineSampling, ACallbackSeesTheTokensSoFarAndWhatItLeavesIsDrawnFrom) {
  const auto free = alone(engine_, greedy(prompt_, 6));
  const auto other = alone(engine_, greedy({1, 2, 3}, 6));
  std::vector<size_t> lengths;
  Request request = greedy(prompt_, 6);
  request.on_logits = [&](std::span<const int32_t> tokens, std::span<float> logits) {
    EXPECT_EQ(logits.size(), size_t{kVocab});
    EXPECT_TRUE(std::equal(prompt_.begin(), prompt_.end(), tokens.begin()));
    lengths.push_back(tokens.size());
    if (tokens.size() % 2 == 0) logits[40] = 1e6f;
  };
  const SequenceId id = engine_.add(request), neighbour = engine_.add(greedy({1, 2, 3}, 6));
  const auto outputs = test::run_all(engine_)[id];
  EXPECT_EQ(lengths, (std::vector<size_t>{6, 7, 8, 9, 10, 11}));
  for (size_t i = 0; i < 6; i += 2) {
    EXPECT_EQ(outputs[i].token, 40);
    EXPECT_EQ(outputs[i].logprob, 0);
  }
  const auto beside = engine_.tokens(neighbour);
  EXPECT_TRUE(std::equal(other.begin(), other.end(), beside.begin() + 3, beside.end()));
  EXPECT_EQ(engine_.stats().host_logit_rows, 6u);
  EXPECT_EQ(engine_.stats().eager_samples, 6u);
  request.on_logits = [](std::span<const int32_t>, std::span<float>) {};
  EXPECT_EQ(alone(engine_, request), free);
}

TEST_F(EngineSampling, B42_WhatACallbackThrowsPassesThroughAndTheStepCanBeMadeAgain) {
  struct Mine {};
  const auto free = alone(engine_, greedy(prompt_, 6));
  int calls = 0;
  Request request = greedy(prompt_, 6);
  request.on_logits = [&](std::span<const int32_t>, std::span<float> logits) {
    if (++calls % 2 == 0) {
      std::fill(logits.begin(), logits.end(), 0.0f);
      throw Mine{};
    }
  };
  const SequenceId id = engine_.add(request), neighbour = engine_.add(greedy(prompt_, 6));
  int thrown = 0;
  while (engine_.busy()) {
    const auto before = engine_.tokens(id);
    try {
      engine_.step();
    } catch (const Mine&) {
      ++thrown;
      EXPECT_EQ(engine_.tokens(id), before);
    }
  }
  EXPECT_EQ(thrown, 5);
  EXPECT_EQ(engine_.tokens(id), engine_.tokens(neighbour));
  EXPECT_EQ(engine_.stats().pages_used, 0u);
}

TEST_F(EngineSampling, ACallbackMayAddAndCancel) {
  Request request = greedy(prompt_, 4);
  std::vector<SequenceId> added;
  SequenceId self = 0;
  request.on_logits = [&](std::span<const int32_t> tokens, std::span<float>) {
    added.push_back(engine_.add(greedy({1, 2}, 2)));
    if (tokens.size() == 8) engine_.cancel(self);
  };
  self = engine_.add(request);
  test::run_all(engine_);
  EXPECT_EQ(engine_.finish_reason(self), FinishReason::Cancelled);
  EXPECT_EQ(added.size(), 3u);
  for (SequenceId id : added) EXPECT_EQ(engine_.tokens(id).size(), 4u);
}

}  // namespace
}  // namespace rondo
