// What takes thousands of steps on the CUDA backend. One text for the stand-in and for a real GPU.
#include "tests/cuda_soak.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

namespace rondo {
namespace {

using test::generate;
using test::greedy;
using test::kRepeats;
using test::some_tokens;

using CudaSoak = test::CudaSoak;

TEST_F(CudaSoak, B44_RandomStepsLeaveTheDeviceAsItWasAndReplayFromTheLog) {
  const char* const asked = std::getenv("RONDO_SOAK_STEPS");  // scripts/gpu --soak
  soak(asked ? std::strtoull(asked, nullptr, 10) : 10000 / kRepeats, false);
}

TEST_F(CudaSoak, B26_SixtyFourTokensAreTheSameTwentyTimesByGraphEagerLazyAndAFreshEngine) {
  options_.max_context = 72;
  options_.kv_positions = 0;
  const std::vector<Request> work = {greedy(some_tokens(4, kVocab, 1), 64)};
  Engine first = open();
  const auto expected = generate(first, work);
  EXPECT_EQ(expected[0].size(), 68u);
  for (int i = 1; i < (kRepeats > 1 ? 3 : 20); ++i) ASSERT_EQ(generate(first, work), expected) << i;
  for (GraphMode graph : {GraphMode::Off, GraphMode::Lazy, GraphMode::Require}) {
    options_.graph = graph;
    Engine engine = open();
    EXPECT_EQ(generate(engine, work), expected) << static_cast<int>(graph);
  }
  const std::vector<Request> other = {greedy(some_tokens(4, kVocab, 2), 64)};
  EXPECT_NE(generate(first, other), expected) << "whatever is asked, the answer is the same";
}

// The logits of a row, bit for bit: of a step that has no other, and of one with seven more.
TEST_F(CudaSoak, B26_ARowIsTheSameAmongEight) {
  options_.buckets = {8};
  options_.max_rows = options_.max_sequences = options_.max_logit_rows = 8;
  options_.kv_positions = 0;
  options_.launch_ahead = false;  // or the logits looked at were the next step's
  EngineCore core(config_.path(), options_);
  // Of the row of `prompt`'s last token, when `others` are in the same step, and of all steps behind it.
  const auto logits_of = [&](const std::vector<int32_t>& prompt, int others) {
    std::vector<float> all;
    std::vector<SequenceId> ids;
    for (int i = 0; i <= others; ++i)
      ids.push_back(core.scheduler().add(greedy(i ? std::vector<int32_t>{i} : prompt, 8)));
    while (core.scheduler().busy()) {
      core.step();
      all.resize(all.size() + kVocab);
      core.device().read(all.data() + all.size() - kVocab, core.buffers().logits.data,
                         kVocab * sizeof(float));
      core.device().synchronize();
    }
    for (SequenceId id : ids) core.remove(id);
    return all;
  };
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  const auto alone = logits_of({7}, 0);
  EXPECT_TRUE(same(logits_of({7}, 7), alone));
  EXPECT_FALSE(same(logits_of({8}, 7), alone)) << "another row's logits cannot be these";
}

}  // namespace
}  // namespace rondo
