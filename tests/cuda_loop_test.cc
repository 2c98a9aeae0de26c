// Generation by one launch: the tokens of step by step, bit for bit. One text for the stand-in and for a real
// GPU; one bucket, so that a row's bits cannot depend on how many rows its step has.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "buffers/loop_buffers.h"
#include "runner/engine.h"
#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::drawn;
using test::greedy;
using test::some_tokens;

class CudaLoop : public test::CudaTiny {
 protected:
  CudaLoop() : CudaTiny({4}, 3, 32) { options_.one_launch = true; }

  // Unequal lengths across the edge of a page, one to the last position, drawn in every way.
  std::vector<Request> requests() {
    std::vector<Request> all = {greedy({1, 2}, 8), greedy({3}, 12), greedy({5, 9}, 40)};
    all[0].sampling.top_logprobs = 3;
    all[1].sampling = drawn(7);
    all[1].sampling.frequency_penalty = 0.5f;
    all[2].sampling = drawn(8, 0.7f);
    all[2].sampling.top_p = 0.8f;
    return all;
  }

  static std::string told(const Output& output) {
    std::string text =
        fmt::format("{} {} {}", output.token, output.logprob, finish_reason_name(output.finish));
    for (const TokenLogprob& top : output.top_logprobs) text += fmt::format(" {} {}", top.token, top.logprob);
    return text + "\n";
  }
  using Told = std::map<SequenceId, std::string>;
  static Told by_steps(Engine& engine) {
    Told all;
    while (engine.busy())
      for (const Output& output : engine.step()) all[output.sequence] += told(output);
    return all;
  }
  static Told by_loops(Engine& engine) {
    Told all;
    engine.generate([&](const Output& output) { all[output.sequence] += told(output); });
    return all;
  }
};

TEST(LoopSteps, AreThoseOfTheLongestSequenceWhereTheirDrawsHaveRoom) {
  StepDims dims;
  const auto steps = [&](int logit_rows, int64_t max_context) {
    dims.max_logit_rows = logit_rows;
    dims.max_context = max_context;
    return loop_steps(dims);
  };
  EXPECT_EQ(steps(1, 131072), 131072);
  EXPECT_EQ(steps(1, 1 << 20), 381300);
  EXPECT_EQ(steps(64, 131072), 5957);
  EXPECT_EQ(steps(4096, 131072), 256);
  EXPECT_EQ(steps(1, 32), 256);
}

TEST_F(CudaLoop, SeveralSequencesToTheirEndsAreOneLaunchAndTheTokensOfStepByStep) {
  Engine steps = open(), loops = open();
  for (const Request& request : requests()) {
    steps.add(request);
    loops.add(request);
  }
  const Told expected = by_steps(steps);
  EXPECT_EQ(by_loops(loops), expected);
  const Stats stats = loops.stats();
  EXPECT_EQ(stats.one_launch, "on");
  EXPECT_EQ(stats.loops, 1u);  // prompts first, step by step
  EXPECT_GT(stats.loop_steps, 25u);
  EXPECT_EQ(stats.replays + stats.loop_steps, stats.steps);
  EXPECT_EQ(stats.tokens, steps.stats().tokens);
  EXPECT_EQ(stats.wasted_rows, 0u);
  EXPECT_EQ(stats.pages_used, 0u);
  EXPECT_EQ(steps.stats().loops, 0u);  // step() makes single steps
}

TEST_F(CudaLoop, StopTokensStopOnTheDeviceAndStopSequencesOnTheHost) {
  Engine steps = open(), loops = open();
  std::vector<Request> work = requests();
  work[0].max_new_tokens = 25;
  for (Request& request : work) request.sampling.top_logprobs = 1;
  const auto ids = test::alone(steps, work[0]), sequence = test::alone(steps, work[1]);
  work[0].stop_ids = {ids[6], 31};
  work[1].stop_sequences = {{sequence[4], sequence[5]}};
  work[2].max_new_tokens = 20;
  for (Engine* engine : {&steps, &loops})
    for (const Request& request : work) engine->add(request);
  auto expected = by_steps(steps), found = by_loops(loops);
  // An engine that made sequences before gives other numbers.
  std::vector<std::string> a, b;
  for (auto& [id, text] : expected) a.push_back(text);
  for (auto& [id, text] : found) b.push_back(text);
  EXPECT_EQ(b, a);
  EXPECT_EQ(loops.stats().finished[static_cast<size_t>(FinishReason::Stop)], 2u);
  EXPECT_GT(loops.stats().wasted_rows, 0u);
}

TEST_F(CudaLoop, WhoComesForksOrIsCancelledMeanwhileEndsTheLoopAndNobodysTokensChange) {
  Engine reference = open(), engine = open();
  std::vector<Request> work = requests();
  work[0].max_new_tokens = 20;
  const auto first = test::alone(reference, work[0]), late = test::alone(reference, work[1]);
  const SequenceId id = engine.add(work[0]), cancelled = engine.add(work[2]);
  SequenceId added = 0;
  std::map<SequenceId, std::vector<int32_t>> tokens;
  FinishReason ended = FinishReason::None;
  engine.generate([&](const Output& output) {
    if (output.token >= 0) tokens[output.sequence].push_back(output.token);
    if (output.sequence == cancelled) ended = output.finish;
    if (output.sequence == id && tokens[id].size() == 5) added = engine.add(work[1]);
    if (output.sequence == id && tokens[id].size() == 12) engine.cancel(cancelled);
  });
  EXPECT_EQ(tokens[id], first);
  EXPECT_EQ(tokens[added], late);
  EXPECT_EQ(ended, FinishReason::Cancelled);
  EXPECT_GT(engine.stats().loops, 1u);
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST_F(CudaLoop, WhatTheCallbackThrowsPassesAndTheRestComesWithTheNextCall) {
  Engine reference = open(), engine = open();
  const std::vector<Request> work = requests();
  std::vector<std::vector<int32_t>> expected;
  std::vector<SequenceId> ids;
  for (size_t i = 0; i < 2; ++i) {
    expected.push_back(test::alone(reference, work[i]));
    ids.push_back(engine.add(work[i]));
  }
  std::map<SequenceId, std::vector<int32_t>> tokens;
  int left = 9;
  const auto each = [&](const Output& output) {
    tokens[output.sequence].push_back(output.token);
    if (--left == 0) throw std::runtime_error("enough");
  };
  EXPECT_THROW(engine.generate(each), std::runtime_error);
  const auto held = engine.stats().pages_used;
  EXPECT_LE(held, 4u);  // what was reserved for steps that were not made is given back
  engine.generate(each);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(tokens[ids[i]], expected[i]) << i;
}

TEST_F(CudaLoop, WithoutPagesForTheWholeWayThereAreShorterLoopsAndTheSameTokens) {
  std::vector<Request> work = {greedy(some_tokens(3, kVocab, 1), 20), greedy(some_tokens(2, kVocab, 2), 20),
                               greedy(some_tokens(4, kVocab, 3), 20)};
  options_.kv_positions = 64;  // eight pages, and three sequences want three each
  Engine steps = open(), loops = open();
  for (Engine* engine : {&steps, &loops})
    for (const Request& request : work) engine->add(request);
  const Told expected = by_steps(steps);
  EXPECT_EQ(by_loops(loops), expected);
  EXPECT_GT(loops.stats().loops, 1u);
  EXPECT_EQ(loops.stats().preemptions, steps.stats().preemptions);
}

TEST_F(CudaLoop, LazyGraphsAreWarmBeforeTheyLoop) {
  Engine reference = open();
  const auto expected = test::alone(reference, requests()[1]);
  options_.graph = GraphMode::Lazy;
  Engine engine = open();
  const SequenceId id = engine.add(requests()[1]);
  by_loops(engine);
  auto tokens = engine.tokens(id);
  tokens.erase(tokens.begin());
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(engine.stats().one_launch, "on");
  EXPECT_EQ(engine.stats().loops, 1u);
}

TEST_F(CudaLoop, GuessesAndCallbacksAreMadeStepByStep) {
  Engine engine = open();
  Request request = requests()[1];
  const auto expected = test::alone(engine, request);
  request.on_logits = [](std::span<const int32_t>, std::span<float>) {};
  const SequenceId id = engine.add(request);
  by_loops(engine);
  auto tokens = engine.tokens(id);
  tokens.erase(tokens.begin());
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(engine.stats().loops, 0u);
}

TEST_F(CudaLoop, TheLogOfLoopsReplaysStepByStepOnTheCpu) {
  std::vector<LogEvent> events;
  options_.kv_positions = 64;
  options_.on_event = [&](const LogEvent& event) { events.push_back(event); };
  std::vector<std::tuple<SequenceId, int32_t, FinishReason>> outputs;
  {
    Engine engine = open();
    for (uint32_t i = 0; i < 5; ++i) {
      Request request = greedy(some_tokens(2, kVocab, i % 2), 6 + 4 * static_cast<int>(i));
      request.sampling = drawn(i, 1.5f);
      request.stop_ids = {3, 11, 19};
      engine.add(request);
    }
    bool cancelled = false;
    engine.generate([&](const Output& output) {
      outputs.emplace_back(output.sequence, output.token, output.finish);
      if (outputs.size() == 20 && !cancelled) engine.cancel(4), cancelled = true;
    });
    EXPECT_GT(engine.stats().loops, 1u);
  }
  const std::vector<LogEvent> asked = std::exchange(events, {});
  options_.device = DeviceKind::Cpu;
  Engine again = open();
  EXPECT_EQ(again.stats().one_launch, "the cpu backend has no graphs");
  std::vector<std::tuple<SequenceId, int32_t, FinishReason>> replayed;
  for (const Output& output : replay_events(again, asked))
    replayed.emplace_back(output.sequence, output.token, output.finish);
  EXPECT_EQ(replayed, outputs);
  EXPECT_EQ(test::log_difference(asked, events), "");
}

}  // namespace
}  // namespace rondo
