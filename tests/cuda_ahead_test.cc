// Steps enqueued ahead on the CUDA backend, where they are the rule: the same tokens as step by step. One
// text for the stand-in and for a real GPU; one bucket, so that a row's bits cannot depend on how many rows
// its step has.
#include <gtest/gtest.h>

#include "runner/engine.h"
#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::drawn;
using test::greedy;
using test::some_tokens;

class CudaAhead : public test::CudaTiny {
 protected:
  CudaAhead() : CudaTiny({4}, 3, 32) {}

  // Unequal lengths across the edge of a page, drawn in every way.
  std::vector<Request> requests() {
    std::vector<Request> all = {greedy({1, 2}, 8), greedy({3}, 12), greedy(some_tokens(3, kVocab, 1), 40)};
    all[0].sampling.top_logprobs = 3;
    all[1].sampling = drawn(7);
    all[1].sampling.frequency_penalty = 0.5f;
    all[2].sampling = drawn(8, 0.7f);
    all[2].sampling.top_p = 0.8f;
    return all;
  }

  std::map<SequenceId, std::vector<std::pair<int32_t, float>>> outputs(Engine& engine) {
    std::map<SequenceId, std::vector<std::pair<int32_t, float>>> all;
    for (const auto& [id, told] : test::run_all(engine))
      for (const Output& output : told) {
        all[id].emplace_back(output.token, output.logprob);
        for (const TokenLogprob& top : output.top_logprobs) all[id].emplace_back(top.token, top.logprob);
        all[id].emplace_back(static_cast<int32_t>(output.finish), 0.0f);
      }
    return all;
  }
};

TEST_F(CudaAhead, TokensAreThoseOfStepByStepBitForBit) {
  std::map<SequenceId, std::vector<std::pair<int32_t, float>>> told[2];
  for (bool ahead : {false, true}) {
    options_.launch_ahead = ahead;
    Engine engine = open();
    for (const Request& request : requests()) engine.add(request);
    told[ahead] = outputs(engine);
    const Stats stats = engine.stats();
    EXPECT_EQ(stats.replays, stats.steps);
    EXPECT_EQ(stats.steps_ahead > stats.steps / 2, ahead) << stats.steps_ahead << " of " << stats.steps;
    EXPECT_EQ(stats.finished[static_cast<size_t>(FinishReason::ContextFull)], 1u);
    EXPECT_EQ(stats.pages_used, 0u);
  }
  EXPECT_EQ(told[true], told[false]);
}

TEST_F(CudaAhead, WhoStopsIsCancelledForkedOrComesMeanwhileGetsAndLeavesTheSameTokens) {
  std::vector<std::vector<int32_t>> found[2];
  for (bool ahead : {false, true}) {
    options_.launch_ahead = ahead;
    Engine engine = open();
    std::vector<Request> work = requests();
    work[0].max_new_tokens = 20;
    work[1].stop_ids = {2, 9, 17, 25};
    work[1].max_new_tokens = 25;
    work[2].max_new_tokens = 18;
    const SequenceId first = engine.add(work[0]), stopping = engine.add(work[1]);
    while (engine.tokens(first).size() < 5) engine.step();
    const SequenceId late = engine.add(work[2]);
    while (engine.tokens(first).size() < 10) engine.step();
    engine.cancel(first);  // with a step in flight
    while (engine.tokens(late).size() < 12) engine.step();
    const SequenceId fork = engine.fork(late, drawn(4));
    test::run_all(engine);
    for (SequenceId id : {first, stopping, late, fork}) found[ahead].push_back(engine.tokens(id));
    if (ahead) {
      EXPECT_GT(engine.stats().wasted_rows, 0u);
    }
  }
  EXPECT_EQ(found[true], found[false]);
}

TEST_F(CudaAhead, GraphOffAndCallbacksHaveNothingAhead) {
  options_.graph = GraphMode::Off;
  {
    Engine engine = open();
    test::alone(engine, greedy({1}, 4));
    EXPECT_EQ(engine.stats().steps_ahead, 0u);
  }
  options_.graph = GraphMode::Auto;
  Engine engine = open();
  Request request = greedy({1}, 4);
  const auto expected = test::alone(engine, request);
  const uint64_t before = engine.stats().steps_ahead;
  EXPECT_GT(before, 0u);
  request.on_logits = [](std::span<const int32_t>, std::span<float>) {};
  EXPECT_EQ(test::alone(engine, request), expected);  // the second draw of a step is from the same rows
  EXPECT_EQ(engine.stats().steps_ahead, before);
}

}  // namespace
}  // namespace rondo
