// Many sequences on the CUDA backend: what each gives alone. One text for the stand-in and for a real GPU;
// every engine here has one bucket, so that a row's bits cannot depend on how many rows its step has.
#include <gtest/gtest.h>

#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::drawn;
using test::greedy;
using test::run_all;
using test::some_tokens;

class CudaServing : public test::CudaTiny {
 protected:
  CudaServing() : CudaTiny({4}, 2, 32) {}

  // One of every kind.
  std::vector<Request> requests() {
    std::vector<Request> all;
    for (uint32_t i = 0; i < 6; ++i) {
      Request request = greedy(some_tokens(9 + static_cast<int>(i % 3), kVocab, i / 2), 10);
      request.prompt.push_back(static_cast<int32_t>(i));
      if (i % 2) request.sampling = drawn(i);
      if (i == 2) request.sampling.frequency_penalty = 0.8f;
      if (i == 3) request.sampling.logit_bias = {{4, 2.0f}, {5, -2.0f}};
      if (i == 4) request.draft_tokens = 2;
      if (i == 5) request.stop_sequences = {{1, 2}};
      request.sampling.top_logprobs = static_cast<int>(i);
      all.push_back(request);
    }
    return all;
  }
};

TEST_F(CudaServing, SharedForkedPreemptedAndGuessedSequencesGiveWhatTheyGiveAloneOnTheCpu) {
  EngineOptions cpu = options_;
  cpu.device = DeviceKind::Cpu;
  Engine host = Engine::open(config_.path(), cpu);
  options_.kv_positions = 32;  // four pages: one sequence wants three
  Engine engine = open();
  std::vector<SequenceId> ids;
  std::vector<std::vector<int32_t>> expected;
  for (const Request& request : requests()) {
    ids.push_back(engine.add(request));
    expected.push_back(alone(host, request));
    Request other = request;
    other.sampling.seed += 100;
    ids.push_back(engine.fork(ids.back(), other.sampling));
    expected.push_back(alone(host, other));
  }
  auto outputs = run_all(engine);
  for (size_t i = 0; i < ids.size(); ++i) {
    std::vector<int32_t> tokens;
    for (const Output& output : outputs[ids[i]]) {
      tokens.push_back(output.token);
      EXPECT_EQ(output.top_logprobs.size(), i / 2) << i;
      // Greedy without bias and penalty: the drawn token is the likeliest.
      if (i / 2 == 4) {
        EXPECT_EQ(output.top_logprobs[0].token, output.token);
        EXPECT_EQ(output.top_logprobs[0].logprob, output.logprob);
      }
    }
    EXPECT_EQ(tokens, expected[i]) << i;
  }
  const Stats stats = engine.stats();
  EXPECT_GT(stats.preemptions, 0u);
  EXPECT_GT(stats.page_copies, 0u);
  EXPECT_GT(stats.prefix_tokens, 0u);
  EXPECT_EQ(stats.pages_used, 0u);
  EXPECT_EQ(stats.replays, stats.steps);
}

TEST_F(CudaServing, ASavedSequenceGoesOnInAnotherEngineFromItsPages) {
  Engine first = open(), second = open();
  const Request request = requests()[3];
  const auto expected = alone(first, request);
  const SequenceId id = first.add(request);
  for (int i = 0; i < 5; ++i) first.step();
  const SequenceId restored = second.restore(first.save(id));
  const auto made = second.tokens(restored).size() - request.prompt.size();
  run_all(second);
  auto tokens = second.tokens(restored);
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(request.prompt.size()));
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(second.stats().rows, expected.size() - made);
}

TEST_F(CudaServing, ACallbackLeavesTheGraphBeforeTheDrawAndIsCounted) {
  Engine engine = open();
  Request request = requests()[1];
  const auto expected = alone(engine, request);
  request.on_logits = [](std::span<const int32_t> tokens, std::span<float> logits) {
    if (tokens.size() == 12) logits[9] = 1e4f;
  };
  const SequenceId id = engine.add(request), beside = engine.add(requests()[0]);
  run_all(engine);
  EXPECT_EQ(engine.tokens(id)[12], 9);
  EXPECT_EQ(engine.tokens(id)[11], expected[0]);
  EXPECT_EQ(engine.stats().host_logit_rows, 10u);
  EXPECT_EQ(engine.stats().eager_samples, 10u);
  EXPECT_EQ(engine.stats().replays, engine.stats().steps);
  EXPECT_EQ(engine.tokens(beside).size(), requests()[0].prompt.size() + 10);
}

TEST_F(CudaServing, VerifyAgreesWithWhatIsDrawn) {
  Engine engine = open();
  const Request request = requests()[2];
  const auto expected = alone(engine, request);
  const SequenceId id = engine.add(request);
  while (engine.tokens(id).size() == request.prompt.size()) engine.step();
  EXPECT_EQ(engine.verify(id, {expected[1], expected[2], (expected[3] + 1) % kVocab}), 2);
  run_all(engine);
  auto tokens = engine.tokens(id);
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(request.prompt.size()));
  EXPECT_EQ(tokens, expected);
}

}  // namespace
}  // namespace rondo
