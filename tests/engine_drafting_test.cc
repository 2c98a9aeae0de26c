// Guesses and saved sequences on the CPU backend: the same tokens with them and without.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "runner/drafting.h"
#include "runner/prefix_cache.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::drawn;
using test::greedy;
using test::kVocab;
using test::run_all;
using test::some_tokens;

TEST(PromptLookup, TakesWhatFollowedTheLongestThenTheLatestMatch) {
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(prompt_lookup(Tokens{1, 2, 3, 9, 2, 3, 8, 1, 2, 3}, 3, 2), (Tokens{9, 2}));
  EXPECT_EQ(prompt_lookup(Tokens{1, 2, 3, 9, 2, 3, 8, 1, 2, 3}, 2, 2), (Tokens{8, 1}));
  EXPECT_EQ(prompt_lookup(Tokens{1, 2, 3, 9, 2, 3, 8, 7, 3}, 3, 9), (Tokens{8, 7, 3}))
      << "one token, and not beyond the end";
  EXPECT_EQ(prompt_lookup(Tokens{4, 4, 4}, 2, 5), (Tokens{4}));
  EXPECT_EQ(prompt_lookup(Tokens{1, 2, 3}, 3, 5), Tokens{});
  EXPECT_EQ(prompt_lookup(Tokens{1}, 3, 5), Tokens{});
  EXPECT_EQ(prompt_lookup(Tokens{4, 4, 4}, 2, 0), Tokens{});
}

TEST(PrefixCache, AContentIsFoundBehindItsOwnPrefixAlone) {
  PrefixCache cache;
  const std::vector<int32_t> a = {1, 2}, b = {3, 4};
  bool added = false;
  const auto first = cache.add(PrefixCache::root(0), a, 7, added);
  EXPECT_TRUE(added);
  const auto second = cache.add(first, b, 8, added);
  EXPECT_EQ(cache.find(first, b).page, 8);
  EXPECT_EQ(cache.find(PrefixCache::root(0), b).serial, 0u);
  EXPECT_EQ(cache.find(PrefixCache::root(5), a).serial, 0u) << "another salt";
  EXPECT_EQ(cache.add(first, b, 9, added), second) << "its page stays the first";
  EXPECT_FALSE(added);
  cache.forget(7);
  EXPECT_EQ(cache.find(PrefixCache::root(0), a).serial, 0u);
  EXPECT_NE(cache.add(PrefixCache::root(0), a, 7, added), first)
      << "what stood behind the forgotten one is not found again";
  cache.forget(7);
  cache.forget(8);
  cache.forget(8);
  EXPECT_EQ(cache.size(), 0u);
}

class EngineDrafting : public testing::Test {
 protected:
  EngineDrafting() { options_.max_logit_rows = 8; }
  Engine open() { return Engine::open(config_.path(), options_); }
  test::TinyConfig config_{{.tied = false}};  // tied ones repeat their last token
  EngineOptions options_ = test::one_thread(test::tiny_options(DeviceKind::Cpu));
};

TEST_F(EngineDrafting, VerifyTakesRightGuessesAndNoWrongOneWhateverTheSampling) {
  Engine engine = open();
  const auto prompt = some_tokens(7, kVocab, 1);
  for (const Sampling& sampling : {Sampling{}, drawn(3), [] {
                                     Sampling s = drawn(4);
                                     s.frequency_penalty = 0.7f;
                                     s.top_logprobs = 2;
                                     return s;
                                   }()}) {
    Request request = greedy(prompt, 24);
    request.sampling = sampling;
    const auto expected = alone(engine, request);
    for (size_t wrong_at = 0; wrong_at <= 5; ++wrong_at) {
      const SequenceId id = engine.add(request);
      while (engine.tokens(id).size() == prompt.size()) engine.step();
      while (engine.finish_reason(id) == FinishReason::None) {
        const size_t made = engine.tokens(id).size() - prompt.size();
        std::vector<int32_t> drafts(
            expected.begin() + static_cast<int64_t>(made),
            expected.begin() + static_cast<int64_t>(std::min(made + 5, expected.size())));
        if (wrong_at < drafts.size()) drafts[wrong_at] = (drafts[wrong_at] + 1) % kVocab;
        const int agreed = engine.verify(id, drafts);
        EXPECT_EQ(static_cast<size_t>(agreed),
                  std::min({wrong_at, drafts.size(), expected.size() - made - 1}));
      }
      auto tokens = engine.tokens(id);
      tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(prompt.size()));
      EXPECT_EQ(tokens, expected);
      engine.remove(id);
    }
  }
}

TEST_F(EngineDrafting, VerifyReportsThroughTheNextStepAndLeavesNeighboursAlone) {
  Engine engine = open();
  const auto prompt = some_tokens(7, kVocab, 1);
  const auto expected = alone(engine, greedy(prompt, 6)), other = alone(engine, greedy({4, 5}, 6));
  const SequenceId id = engine.add(greedy(prompt, 6)), neighbour = engine.add(greedy({4, 5}, 6));
  engine.step();
  EXPECT_EQ(engine.verify(id, {expected[1], expected[2], 0, 0}), 2 + (expected[3] == 0));
  const auto outputs = engine.step();
  std::vector<int32_t> reported;
  for (const Output& output : outputs)
    if (output.sequence == id) reported.push_back(output.token);
  ASSERT_GE(reported.size(), 4u);
  EXPECT_TRUE(std::equal(reported.begin(), reported.end(), expected.begin() + 1));
  run_all(engine);
  const auto tokens = engine.tokens(neighbour);
  EXPECT_TRUE(std::equal(other.begin(), other.end(), tokens.begin() + 2));
}

TEST_F(EngineDrafting, VerifyRefusesWhatIsNotDecodingAndTooManyGuesses) {
  Engine engine = open();
  const auto refused = [&](ErrorKind kind, SequenceId id, const std::vector<int32_t>& drafts) {
    try {
      engine.verify(id, drafts);
      ADD_FAILURE() << "expected " << error_kind_name(kind);
    } catch (const Error& error) {
      EXPECT_STREQ(error_kind_name(error.kind()), error_kind_name(kind)) << error.what();
    }
  };
  const SequenceId id = engine.add(greedy(some_tokens(20, kVocab, 2), 20));
  refused(ErrorKind::Misuse, id, {1});
  engine.step();
  refused(ErrorKind::Misuse, id, {1});
  engine.step();
  engine.step();
  refused(ErrorKind::InvalidArgument, id, std::vector<int32_t>(8, 1));
  refused(ErrorKind::InvalidArgument, id, {kVocab});
  refused(ErrorKind::InvalidArgument, 99, {1});
  engine.cancel(id);
  refused(ErrorKind::Misuse, id, {1});
}

TEST_F(EngineDrafting, LookupDraftsGiveTheSameTokensInFewerSteps) {
  // Random weights repeat nothing by themselves: a bias keeps them to few tokens, so that n-grams come back.
  Request request = greedy(some_tokens(8, 6, 3), 40);
  for (int32_t token = 0; token < 6; ++token) request.sampling.logit_bias.push_back({token, 100});
  uint64_t accepted = 0;
  for (float temperature : {0.0f, 0.7f}) {
    request.sampling.temperature = temperature;
    Engine plain = open(), drafting = open();
    Request guessing = request;
    guessing.draft_tokens = 4;
    EXPECT_EQ(alone(drafting, guessing), alone(plain, request));
    EXPECT_GT(drafting.stats().drafted_tokens, 0u);
    accepted += drafting.stats().accepted_drafts;
    EXPECT_EQ(drafting.stats().steps + drafting.stats().accepted_drafts, plain.stats().steps);
  }
  EXPECT_GT(accepted, 10u);
}

TEST_F(EngineDrafting, DraftsStopAtStopsLengthsAndTheContext) {
  Engine engine = open();
  Request request = greedy(some_tokens(8, 6, 3), 1000);
  for (int32_t token = 0; token < 6; ++token) request.sampling.logit_bias.push_back({token, 100});
  const auto full = alone(engine, request);  // to the end of the context
  for (int length : {1, 2, 7, 20, 1000})
    for (bool stop : {false, true}) {
      Request guessing = request;
      guessing.draft_tokens = 7;
      guessing.max_new_tokens = length;
      if (stop) guessing.stop_sequences = {{full[5], full[6], full[7]}};
      Request plain = guessing;
      plain.draft_tokens = 0;
      EXPECT_EQ(alone(engine, guessing), alone(engine, plain)) << length;
    }
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

class SavedSequences : public EngineDrafting {
 protected:
  Request request() {
    Request r = greedy(some_tokens(13, kVocab, 4), 20);
    r.sampling = drawn(8);
    r.sampling.frequency_penalty = 0.3f;
    r.sampling.logit_bias = {{7, 0.5f}};
    r.stop_sequences = {{319, 318, 317}};
    r.min_new_tokens = 2;
    return r;
  }
};

TEST_F(SavedSequences, GoOnInAnotherEngineWithTheSameTokensAndWithoutComputingThemAgain) {
  Engine first = open();
  const auto expected = alone(first, request());
  for (int steps = 0; steps < 8; ++steps) {
    const SequenceId id = first.add(request());
    for (int i = 0; i < steps; ++i) first.step();
    const auto bytes = first.save(id);
    Engine second = open();
    const SequenceId restored = second.restore(bytes);
    EXPECT_EQ(second.tokens(restored), first.tokens(id));
    const uint64_t made = second.tokens(restored).size() - 13;
    run_all(second);
    auto tokens = second.tokens(restored);
    tokens.erase(tokens.begin(), tokens.begin() + 13);
    EXPECT_EQ(tokens, expected) << steps;
    if (made > 0) {
      EXPECT_EQ(second.stats().rows, 20 - made);
    }  // one row for each token that was still to be made
    first.remove(id);
  }
}

TEST_F(SavedSequences, AreRecomputedWhereNoPagesAreFreeAndComeBackEndedWhereTheyHadEnded) {
  Engine first = open();
  const auto expected = alone(first, request());
  const SequenceId id = first.add(request());
  for (int i = 0; i < 6; ++i) first.step();
  const auto bytes = first.save(id);
  run_all(first);
  const auto ended = first.save(id);
  options_.kv_positions = 64;
  options_.share_prefixes = false;
  Engine second = open();
  second.add(greedy(some_tokens(56, kVocab, 5), 8));
  while (second.stats().pages_used < 7) second.step();
  const SequenceId restored = second.restore(bytes);
  const SequenceId over = second.restore(ended);
  EXPECT_EQ(second.finish_reason(over), first.finish_reason(id));
  EXPECT_EQ(second.tokens(over), first.tokens(id));
  run_all(second);
  auto tokens = second.tokens(restored);
  tokens.erase(tokens.begin(), tokens.begin() + 13);
  EXPECT_EQ(tokens, expected);
}

TEST_F(SavedSequences, AreRefusedWhenCutChangedOrOfAnotherModel) {
  Engine engine = open();
  const SequenceId id = engine.add(request());
  for (int i = 0; i < 5; ++i) engine.step();
  const auto bytes = engine.save(id);
  const auto refused = [&](Engine& by, std::span<const std::byte> what, const char* part) {
    try {
      by.restore(what);
      ADD_FAILURE() << "expected InvalidArgument with '" << part << "'";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidArgument) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  for (size_t length : {size_t{0}, size_t{31}, size_t{32}, bytes.size() / 2, bytes.size() - 1})
    refused(engine, std::span(bytes).first(length), "saved sequence: expected");
  for (size_t at = 0; at < bytes.size(); at += at < 600 ? 1 : 997) {
    auto changed = bytes;
    changed[at] ^= std::byte{0x10};
    refused(engine, changed, "saved sequence");
  }
  options_.page_size = 16;
  Engine other_pages = open();
  refused(other_pages, bytes, "pages of 16");
  options_.page_size = 8;
  options_.weights_seed = 1;
  Engine other_weights = open();
  refused(other_weights, bytes, "weights");
  options_.weights_seed = 0;
  run_all(engine);
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

}  // namespace
}  // namespace rondo
