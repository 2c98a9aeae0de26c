// The engine's promises on the CPU backend; the numbers are those of the cases that they keep
// (tests/README.md).
#include "runner/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <thread>

#include "runner/engine_core.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::generate;
using test::greedy;
using test::kVocab;
using test::some_tokens;
using test::tiny_options;
using test::TinyConfig;

template <class F>
void expect_error(ErrorKind kind, const std::string& part, F&& call) {
  try {
    call();
    ADD_FAILURE() << "expected " << error_kind_name(kind) << " with '" << part << "'";
  } catch (const Error& error) {
    EXPECT_STREQ(error_kind_name(error.kind()), error_kind_name(kind)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

class EngineTest : public testing::Test {
 protected:
  TinyConfig config_;
  EngineOptions options_ = tiny_options(DeviceKind::Cpu);
  Engine open() { return Engine::open(config_.path(), options_); }
};

// The file shrinks while its weights are read: the progress callback is where a test can do that.
TEST(EngineLoading, B3_AShortReadInMidWeightsIsAnErrorThatNamesTheFile) {
  namespace fs = std::filesystem;
  const fs::path directory = fs::temp_directory_path() / ("rondo-shrinks-" + std::to_string(getpid()));
  fs::copy(test::kSource / "models/demo", directory);
  EngineOptions options;
  options.device = DeviceKind::Cpu;
  options.progress = [&](uint64_t done, uint64_t total) {
    if (done < total / 2)
      fs::resize_file(directory / "model.safetensors", fs::file_size(directory / "model.safetensors") / 2);
  };
  expect_error(ErrorKind::InvalidModel, "model.safetensors",
               [&] { Engine::open(directory.string(), options); });
  fs::remove_all(directory);
}

TEST_F(EngineTest, B7_AHundredLoadsGiveTheSameTokensInTheSameMemory) {
  const auto prompt = some_tokens(9, kVocab, 1);
  Engine first = open();
  const auto expected = generate(first, {greedy(prompt, 12)});
  int64_t heap = 0, resident = 0;
  for (int i = 0; i < 100; ++i) {
    Engine again = open();
    ASSERT_EQ(generate(again, {greedy(prompt, 12)}), expected) << "load " << i;
    if (i == 20) heap = test::heap_bytes(), resident = test::resident_pages();
  }
  EXPECT_LE(test::heap_bytes(), heap + 4096);  // of 79 engines
  // What lies outside the heap, weights among it: an engine's are some 500 pages. A sanitizer keeps what was
  // freed.
  if (test::kRepeats == 1) {
    EXPECT_LT(test::resident_pages(), resident + 400);
  }
}

TEST_F(EngineTest, B8_TokenIdsOutsideTheVocabularyAreRefused) {
  Engine engine = open();
  for (int32_t bad : {-1, kVocab, std::numeric_limits<int32_t>::max()})
    expect_error(ErrorKind::InvalidArgument, std::to_string(bad), [&] { engine.add(greedy({1, bad}, 4)); });
  EXPECT_FALSE(engine.busy());
}

TEST_F(EngineTest, B9_TheLastPositionWorksThenContextFullThenCutBackAndContinued) {
  Engine engine = open();
  const auto prompt = some_tokens(60, kVocab, 2);
  const auto id = engine.add(greedy(prompt, 1000));
  FinishReason finish = FinishReason::None;
  while (engine.busy())
    for (const Output& output : engine.step()) finish = output.finish;
  EXPECT_EQ(finish, FinishReason::ContextFull);
  const auto full = engine.tokens(id);
  EXPECT_EQ(full.size(), 65u);  // 64 positions fed, and the token that the last of them made
  engine.resume(id, 62, 2);
  while (engine.busy()) engine.step();
  EXPECT_EQ(engine.tokens(id), std::vector<int32_t>(full.begin(), full.begin() + 64));
}

TEST_F(EngineTest, B10_UnknownSequencesAreRefused) {
  Engine engine = open();
  expect_error(ErrorKind::InvalidArgument, "77", [&] { engine.cancel(77); });
  expect_error(ErrorKind::InvalidArgument, "77", [&] { engine.tokens(77); });
  const auto id = engine.add(greedy({1}, 1));
  engine.remove(id);
  expect_error(ErrorKind::InvalidArgument, std::to_string(id), [&] { engine.remove(id); });
  EXPECT_TRUE(engine.step().empty());
}

TEST_F(EngineTest, B12_ASequenceThatDoesNotFitWaitsAndTheOthersDoNotNotice) {
  options_.kv_positions = 64;  // eight pages
  Engine engine = open();
  const auto a = some_tokens(10, kVocab, 3), b = some_tokens(20, kVocab, 4);
  const auto alone = generate(engine, {greedy(a, 20)}).front();
  const auto b_alone = generate(engine, {greedy(b, 40)}).front();
  const auto both = generate(engine, {greedy(a, 20), greedy(b, 40)});
  EXPECT_EQ(both[0], alone);
  EXPECT_EQ(both[1], b_alone);
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST_F(EngineTest, B13_EmptyTooLongAndZeroRequests) {
  Engine engine = open();
  expect_error(ErrorKind::InvalidArgument, "at least one", [&] { engine.add(greedy({}, 4)); });
  expect_error(ErrorKind::ContextFull, "64", [&] { engine.add(greedy(some_tokens(65, kVocab, 5), 4)); });
  expect_error(ErrorKind::InvalidArgument, "-1", [&] { engine.add(greedy({1}, -1)); });
  const auto id = engine.add(greedy({1, 2}, 0));
  const auto outputs = engine.step();
  ASSERT_EQ(outputs.size(), 1u);
  EXPECT_EQ(outputs[0].finish, FinishReason::Length);
  EXPECT_EQ(outputs[0].token, -1);
  EXPECT_EQ(engine.tokens(id).size(), 2u);
}

TEST_F(EngineTest, B14_SamplingParametersThatMeanNothingAreRefused) {
  Engine engine = open();
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const auto refused = [&](const char* name, auto change) {
    Request request = greedy({1}, 1);
    change(request.sampling);
    expect_error(ErrorKind::InvalidArgument, name, [&] { engine.add(request); });
  };
  for (float bad : {nan, inf, -1.0f}) {
    refused("temperature", [&](Sampling& s) { s.temperature = bad; });
    refused("top_p", [&](Sampling& s) { s.top_p = bad; });
    refused("min_p", [&](Sampling& s) { s.min_p = bad; });
    refused("repetition_penalty", [&](Sampling& s) { s.repetition_penalty = bad; });
  }
  refused("top_p", [&](Sampling& s) { s.top_p = 0; });
  refused("top_k", [&](Sampling& s) { s.top_k = -1; });
  refused("top_k", [&](Sampling& s) { s.top_k = kVocab + 1; });
}

TEST_F(EngineTest, B15_ANanRowEndsItsSequenceAndNoOther) {
  const TinyConfig untied({.tied = false});  // else the NaN would be a logit of every row
  const auto good = some_tokens(6, kVocab, 6);
  EngineCore clean(untied.path(), options_);
  const auto expected_id = clean.scheduler().add(greedy(good, 12));
  while (clean.scheduler().busy()) clean.step();

  EngineCore core(untied.path(), options_);
  const View& embedding = core.model().embedding;
  const int32_t poisoned = 319;
  ASSERT_EQ(std::count(good.begin(), good.end(), poisoned), 0);
  core.device().fill(embedding.as<float>() + poisoned * embedding.shape[1], 0xff,
                     static_cast<uint64_t>(embedding.shape[1]) * 4);
  const auto bad_id = core.scheduler().add(greedy({3, poisoned}, 4)),
             good_id = core.scheduler().add(greedy(good, 12));
  while (core.scheduler().busy())
    for (const Output& output : core.step()) {
      if (output.sequence == bad_id) {
        EXPECT_EQ(output.token, -1);
      }
    }
  EXPECT_EQ(core.scheduler().sequence(bad_id).finish, FinishReason::NumericalError);
  EXPECT_EQ(core.scheduler().sequence(bad_id).tokens.size(), 2u);
  EXPECT_EQ(core.scheduler().sequence(good_id).tokens, clean.scheduler().sequence(expected_id).tokens);
}

// Embeddings of +1 or -1, and layers that add nothing, make every logit +-64 times a row of the head, so that
// the head's +inf is +inf for one sequence and -inf for the other.
TEST_F(EngineTest, B16_PlusInfinityEndsASequenceMinusInfinityIsNeverDrawnAndNothingElseIsNoted) {
  const float inf = std::numeric_limits<float>::infinity();
  const TinyConfig untied({.tied = false});
  EngineCore core(untied.path(), options_);
  const auto fill = [](const View& view, auto value) {
    std::fill_n(view.as<float>(), view.bytes() / sizeof(float), value);
  };
  for (const Layer& layer : core.model().layers) {
    fill(layer.o_proj.weight, 0.0f);
    fill(layer.down_proj.weight, 0.0f);
  }
  const int32_t up = 300, infinite = 5;
  const View& embedding = core.model().embedding;
  const View& head = core.model().lm_head.weight;
  const int64_t hidden = embedding.shape[1];
  fill(embedding, -1.0f);
  std::fill_n(embedding.as<float>() + up * hidden, hidden, 1.0f);
  for (int64_t v = 0; v < kVocab;
       ++v)  // -1 times: the likeliest are 0, 1, 2 ..., and `up` is the least likely
    std::fill_n(head.as<float>() + v * hidden, hidden, v == up ? 1.0f : 0.001f * static_cast<float>(v));
  std::fill_n(head.as<float>() + infinite * hidden, hidden, inf);

  const auto run = [&](float temperature) {
    Request ends = greedy({7, up}, 6), goes_on = greedy({up, 7}, 6);
    ends.sampling.temperature = goes_on.sampling.temperature = temperature;
    const auto bad = core.scheduler().add(ends), good = core.scheduler().add(goes_on);
    while (core.scheduler().busy())
      for (const Output& output : core.step()) {
        EXPECT_EQ(output.token == -1, output.sequence == bad);
        EXPECT_TRUE(std::isfinite(output.logprob));
      }
    EXPECT_EQ(core.scheduler().sequence(bad).finish, FinishReason::NumericalError);
    EXPECT_EQ(core.scheduler().sequence(bad).tokens, ends.prompt);
    EXPECT_EQ(core.scheduler().sequence(good).finish, FinishReason::Length);
    return core.scheduler().sequence(good).tokens;
  };
  EXPECT_EQ(run(0), (std::vector<int32_t>{up, 7, 0, 0, 0, 0, 0, 0}));
  const auto drawn = run(2);
  EXPECT_EQ(run(2), drawn);
  EXPECT_EQ(std::count(drawn.begin(), drawn.end(), infinite), 0);

  fill(head, inf);  // all logits are -inf for 7, all are +inf for `up`
  for (int32_t last : {7, up}) {
    const auto id = core.scheduler().add(greedy({3, last}, 4));
    while (core.scheduler().busy()) core.step();
    EXPECT_EQ(core.scheduler().sequence(id).finish, FinishReason::NumericalError) << last;
    EXPECT_EQ(core.scheduler().sequence(id).tokens.size(), 2u);
  }
}

TEST_F(EngineTest, B17_WhatLiesInMemoryBeforeDoesNotReachATokenEver) {
  const auto prompt = some_tokens(11, kVocab, 7);
  Engine clean = open();
  const auto expected = generate(clean, {greedy(prompt, 20)}).front();
  EngineCore core(config_.path(), options_);
  // NaN in every dtype.
  const auto poison = [&](const View& view) { core.device().fill(view.data, 0xff, view.bytes()); };
  for (const Layer& layer : core.model().layers) {
    poison(layer.pages.k);
    poison(layer.pages.v);
  }
  const auto id = core.scheduler().add(greedy(prompt, 20));
  while (core.scheduler().busy()) {
    const StepBuffers& b = core.buffers();
    for (const View& view :
         {b.x, b.norm, b.qkv, b.q, b.o, b.gate_up, b.h, b.partial_o, b.partial_ml, b.logits, b.sampled})
      poison(view);
    core.step();
  }
  EXPECT_EQ(core.scheduler().sequence(id).tokens, expected);
}

TEST_F(EngineTest, B18_CancelBetweenStepsTwice) {
  Engine engine = open();
  const auto a = some_tokens(5, kVocab, 8), b = some_tokens(7, kVocab, 9);
  const auto expected = generate(engine, {greedy(b, 10)}).front();
  const auto cancelled = engine.add(greedy(a, 30)), kept = engine.add(greedy(b, 10));
  engine.step();
  engine.step();
  engine.cancel(cancelled);
  engine.cancel(cancelled);
  while (engine.busy()) engine.step();
  EXPECT_EQ(engine.finish_reason(cancelled), FinishReason::Cancelled);
  EXPECT_EQ(engine.tokens(kept), expected);
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST_F(EngineTest, B24_BucketListsThatMeanNothingAreRefused) {
  for (const std::vector<int>& bad : {std::vector<int>{4, 2, 8}, {2, 2, 8}, {0, 8}, {1, 9}, {1, 2}}) {
    options_.buckets = bad;
    expect_error(ErrorKind::InvalidArgument, "buckets", [&] { open(); });
  }
}

TEST_F(EngineTest, B26_OneRowIsTheSameRowAmongEightBitForBit) {
  // The negative control is a sequence with another first token, which must differ.
  const auto prompt = some_tokens(5, kVocab, 10);
  Engine engine = open();
  const auto alone = generate(engine, {greedy(prompt, 30)}).front();
  auto other = prompt;
  other[0] = (other[0] + 1) % kVocab;
  const auto among =
      generate(engine, {greedy(other, 30), greedy(prompt, 30), greedy(some_tokens(3, kVocab, 11), 30),
                        greedy(some_tokens(8, kVocab, 12), 30)});
  EXPECT_EQ(among[1], alone);
  EXPECT_NE(among[0], alone);
}

// Wide enough that threads share what there is to do.
TEST_F(EngineTest, TokensDoNotDependOnThreadsOrRowLimit) {
  const std::vector<Request> requests = {greedy(some_tokens(20, kVocab, 13), 20),
                                         greedy(some_tokens(3, kVocab, 14), 20)};
  const TinyConfig wide({.hidden = 512, .intermediate = 1024, .heads = 8, .kv_heads = 4, .head_dim = 64});
  Engine reference = Engine::open(wide.path(), options_);
  const auto expected = generate(reference, requests);
  for (const auto& [threads, rows] : {std::pair{1, 8}, {3, 8}, {2, 4}, {2, 33}}) {
    options_.threads = threads;
    options_.max_rows = rows;
    Engine engine = Engine::open(wide.path(), options_);
    EXPECT_EQ(generate(engine, requests), expected) << threads << " threads, " << rows << " rows";
  }
}

TEST_F(EngineTest, SeededSamplingDoesNotDependOnNeighbours) {
  Request request = greedy(some_tokens(4, kVocab, 15), 25);
  request.sampling = {.temperature = 0.9f,
                      .top_k = 40,
                      .top_p = 0.95f,
                      .min_p = 0.01f,
                      .repetition_penalty = 1.1f,
                      .seed = 42};
  Engine engine = open();
  const auto alone = generate(engine, {request}).front();
  EXPECT_EQ(generate(engine, {greedy(some_tokens(9, kVocab, 16), 25), request})[1], alone);
  request.sampling.seed = 43;
  EXPECT_NE(generate(engine, {request}).front(), alone);
}

TEST_F(EngineTest, B38_TwoEnginesInterleavedAreTwoEnginesAlone) {
  const auto a = some_tokens(5, kVocab, 17), b = some_tokens(6, kVocab, 18);
  Engine first = open(), second = open();
  const auto expect_a = generate(first, {greedy(a, 15)}).front(),
             expect_b = generate(second, {greedy(b, 15)}).front();
  const auto id_a = first.add(greedy(a, 15)), id_b = second.add(greedy(b, 15));
  while (first.busy() || second.busy()) {
    first.step();
    second.step();
  }
  EXPECT_EQ(first.tokens(id_a), expect_a);
  EXPECT_EQ(second.tokens(id_b), expect_b);
}

TEST_F(EngineTest, B39_TwoThreadsOnOneEngineEitherTakeTurnsOrAreToldOfMisuse) {
  Engine engine = open();
  const auto prompt = some_tokens(5, kVocab, 19);
  const auto expected = generate(engine, {greedy(prompt, 40)}).front();
  const auto id = engine.add(greedy(prompt, 40));
  test::step_in_two_threads(engine);
  EXPECT_EQ(engine.tokens(id), expected);
}

TEST_F(EngineTest, B40_BuiltUsedAndDestroyedInThreeThreads) {
  const auto prompt = some_tokens(5, kVocab, 20);
  Engine reference = open();
  const auto expected = generate(reference, {greedy(prompt, 10)});
  std::unique_ptr<Engine> engine;
  std::thread([&] { engine = std::make_unique<Engine>(open()); }).join();
  std::thread([&] { EXPECT_EQ(generate(*engine, {greedy(prompt, 10)}), expected); }).join();
  std::thread([&] { engine.reset(); }).join();
  EXPECT_EQ(engine, nullptr);
}

TEST_F(EngineTest, B41_AForkedChildIsToldAndTheParentUntouched) {
  Engine engine = open();
  const auto prompt = some_tokens(5, kVocab, 21);
  const auto expected = generate(engine, {greedy(prompt, 10)});
  EXPECT_TRUE(test::a_forked_child_is_refused(engine));
  EXPECT_EQ(generate(engine, {greedy(prompt, 10)}), expected);
}

TEST_F(EngineTest, B42_AnExceptionFromACallbackPassesThroughAndTheEngineGoesOn) {
  struct Mine {};
  options_.progress = [](uint64_t, uint64_t) { throw Mine{}; };
  EXPECT_THROW(open(), Mine);
  options_.progress = {};
  Engine engine = open();
  const auto prompt = some_tokens(20, kVocab, 22);
  EXPECT_THROW(engine.score(prompt, [](int64_t, std::span<const float>) { throw Mine{}; }), Mine);
  int64_t seen = 0;
  engine.score(prompt, [&](int64_t position, std::span<const float> logits) {
    EXPECT_EQ(position, seen++);
    EXPECT_EQ(logits.size(), size_t{kVocab});
  });
  EXPECT_EQ(seen, 20);
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST_F(EngineTest, ACallFromInsideACallbackIsMisuse) {
  Engine engine = open();
  expect_error(ErrorKind::Misuse, "in use", [&] {
    engine.score({1, 2}, [&](int64_t, std::span<const float>) { engine.step(); });
  });
}

TEST_F(EngineTest, OptionsOutOfRangeAreRefusedBeforeTheDeviceIsTouched) {
  const auto refused = [&](const char* name, auto change) {
    EngineOptions options = options_;
    change(options);
    expect_error(ErrorKind::InvalidArgument, name, [&] { Engine::open(config_.path(), options); });
  };
  refused("max_rows", [](auto& o) { o.max_rows = 0; });
  refused("max_sequences", [](auto& o) { o.max_sequences = 9; });
  refused("max_context", [](auto& o) { o.max_context = 257; });
  refused("page_size", [](auto& o) { o.page_size = 24; });
  refused("threads", [](auto& o) { o.threads = -1; });
  refused("graph", [](auto& o) { o.graph = GraphMode::Require; });
}

TEST_F(EngineTest, StatsCountStepsRowsAndPadding) {
  options_.buckets = {4, 8};
  Engine engine = open();
  generate(engine, {greedy(some_tokens(3, kVocab, 23), 2)});
  const Stats stats = engine.stats();
  EXPECT_EQ(stats.steps, 2u);
  EXPECT_EQ(stats.rows, 4u);
  EXPECT_EQ(stats.padded_rows, 4u);
  EXPECT_EQ(stats.tokens, 2u);
  EXPECT_EQ(stats.eager_off, 2u);
  EXPECT_EQ(stats.replays, 0u);
  EXPECT_EQ(stats.backend, "cpu");
}

}  // namespace
}  // namespace rondo
