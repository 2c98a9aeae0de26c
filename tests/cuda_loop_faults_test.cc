// Loops of steps while calls fail, on the stand-in.
#include <gtest/gtest.h>

#include <algorithm>

#include "runner/engine_core.h"
#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::greedy;

class CudaLoopFaults : public test::CudaTinyFaults {
 protected:
  CudaLoopFaults() : CudaTinyFaults({2}, 2, 24) { options_.one_launch = true; }
};

TEST_F(CudaLoopFaults, B19_ADeviceWithoutLoopsMakesSingleStepsAndSaysWhy) {
  {
    for (const char* api : {"cudaGraphConditionalHandleCreate", "cudaGraphAddNode", "cudaGraphCreate",
                            "cudaStreamBeginCaptureToGraph"}) {
      fake::fail(api, 1, cudaErrorNotSupported);
      Engine engine = open();
      const SequenceId id = engine.add(greedy({1}, 6));
      engine.generate([](const Output&) {});
      EXPECT_EQ(engine.tokens(id).size(), 7u);
      EXPECT_EQ(engine.stats().loops, 0u);
      EXPECT_NE(engine.stats().one_launch.find("cudaErrorNotSupported"), std::string::npos)
          << engine.stats().one_launch;
    }
  }
  expect_clean();
}

TEST_F(CudaLoopFaults, B28_EveryPointerOfALoopLiesInAnArenaOrInItsMail) {
  EngineCore core(config_.path(), options_);
  for (const auto& pointer : fake::captured_pointers()) {
    bool inside = !fake::allocation_of(pointer.address).on_device;
    for (const Arena* arena : core.arenas()) inside = inside || arena->contains(pointer.address);
    EXPECT_TRUE(inside) << pointer.where;
  }
}

TEST_F(CudaLoopFaults, B31_WhateverFailsInALoopWhatWasToldStandsAndTheRestIsRight) {
  {
    Engine engine = open();
    const Request request = greedy({5, 3}, 14), other = greedy({9}, 10);
    const auto expected = alone(engine, request), others = alone(engine, other);
    const struct {
      const char* api;
      int nth;
    } cases[] = {{"cudaGraphLaunch", 2}, {"cudaMemcpyAsync", 5}, {"cudaEventRecord", 4},
                 {"cudaEventQuery", 1},  {"cudaEventQuery", 6},  {"cudaEventQuery", 10}};
    for (const auto& c : cases) {
      const SequenceId id = engine.add(request), beside = engine.add(other);
      std::map<SequenceId, std::vector<int32_t>> told;
      fake::fail(c.api, c.nth, cudaErrorMemoryAllocation);
      int failed = 0;
      while (engine.busy()) {
        try {
          engine.generate([&](const Output& output) { told[output.sequence].push_back(output.token); });
        } catch (const Error& error) {
          ASSERT_NE(error.kind(), ErrorKind::DeviceLost) << error.what();
          ++failed;
        }
      }
      EXPECT_EQ(failed, 1) << c.api << " call " << c.nth;
      EXPECT_EQ(told[id], expected) << c.api << " call " << c.nth;
      EXPECT_EQ(told[beside], others) << c.api << " call " << c.nth;
      engine.remove(id);
      engine.remove(beside);
    }
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
  expect_clean();
}

// Requests come and are cancelled from the callback, pages are short, all while one call in fifty fails.
TEST_F(CudaLoopFaults, B44_B45_RandomGenerationsThatFailNowAndThenTellNoWrongToken) {
  options_.kv_positions = 40;
  {
    Engine engine = open();
    std::vector<Request> kinds;
    std::vector<std::vector<int32_t>> expected;
    for (uint32_t i = 0; i < 4; ++i) {
      kinds.push_back(greedy(test::some_tokens(1 + static_cast<int>(i), 32, i), 8 + 3 * static_cast<int>(i)));
      if (i % 2) kinds.back().sampling = test::drawn(i);
      expected.push_back(alone(engine, kinds.back()));
    }
    std::mt19937 random(44);
    std::map<SequenceId, std::pair<size_t, std::vector<int32_t>>> live;  // its kind, what it was told
    int added = 0, ended = 0, failed = 0;
    const auto add = [&] {
      const size_t kind = random() % kinds.size();
      live[engine.add(kinds[kind])].first = kind;
      ++added;
    };
    const auto each = [&](const Output& output) {
      auto& [kind, told] = live.at(output.sequence);
      if (output.token >= 0) told.push_back(output.token);
      ASSERT_LE(told.size(), expected[kind].size());
      ASSERT_TRUE(std::equal(told.begin(), told.end(), expected[kind].begin()));
      if (output.finish != FinishReason::None) {
        ++ended;
        EXPECT_EQ(told.size() == expected[kind].size(), output.finish == FinishReason::Length);
      }
      if (added < 16 && random() % 8 == 0) add();
      if (random() % 40 == 0) engine.cancel(output.sequence);
    };
    for (int i = 0; i < 3; ++i) add();
    fake::fail_at_random(0.02, 45, cudaErrorMemoryAllocation);
    while (ended < added) {
      try {
        engine.generate(each);
      } catch (const Error& error) {
        ASSERT_NE(error.kind(), ErrorKind::DeviceLost) << error.what();
        ++failed;
      }
    }
    fake::fail_at_random(0, 0, cudaSuccess);
    EXPECT_GT(failed, 0);
    EXPECT_GT(engine.stats().loops, 5u);
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
  expect_clean();
}

TEST_F(CudaLoopFaults, B32_B35_ADeviceLostInALoopIsSaidAndNothingIsLeft) {
  {
    Engine engine = open();
    engine.add(greedy({5}, 14));
    int told = 0;
    try {
      engine.generate([&](const Output&) {
        if (++told == 4) fake::device_fault_at(3, cudaErrorIllegalAddress);
      });
      FAIL() << "expected DeviceLost";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::DeviceLost) << error.what();
      EXPECT_NE(
          std::string(error.what()).find("step 0 (1 row in the bucket of 2, and those behind it, a loop)"),
          std::string::npos)
          << error.what();
    }
    EXPECT_GE(told, 4);
    EXPECT_LT(told, 14);
    EXPECT_THROW(engine.busy(), Error);
  }
  fake::reset();
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
}

}  // namespace
}  // namespace rondo
