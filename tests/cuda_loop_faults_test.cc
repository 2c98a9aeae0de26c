// Loops of steps while calls fail, on the stand-in.
#include <gtest/gtest.h>

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
