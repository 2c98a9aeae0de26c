// A step in flight while calls fail, on the stand-in.
#include <gtest/gtest.h>

#include "runner/engine.h"
#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::greedy;

class CudaAheadFaults : public test::CudaTinyFaults {
 protected:
  CudaAheadFaults() : CudaTinyFaults({2}, 2, 24) {}
};

// But at a page's edge, where its entry in the page table goes up.
TEST_F(CudaAheadFaults, AStepAheadIsOneLaunchAndOneCopyBack) {
  Engine engine = open();
  engine.add(greedy({1}, 16));
  for (int i = 0; i < 2; ++i) engine.step();
  for (size_t length = 4; length < 16; ++length) {
    const uint64_t copies = fake::calls("cudaMemcpyAsync"), launches = fake::calls("cudaGraphLaunch");
    engine.step();
    EXPECT_EQ(fake::calls("cudaMemcpyAsync") - copies, length == 9 ? 2u : 1u) << length;
    EXPECT_EQ(fake::calls("cudaGraphLaunch") - launches, 1u) << length;
  }
}

TEST_F(CudaAheadFaults, B31_WhateverFailsWithAStepInFlightTheRetryGivesTheRightTokens) {
  {
    Engine engine = open();
    const Request request = greedy({5, 3}, 14), other = greedy({9}, 14);
    const auto expected = alone(engine, request), others = alone(engine, other);
    for (const char* api : {"cudaGraphLaunch", "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize"})
      for (const size_t length : {4u, 8u}) {  // a step between, and one at a page's edge
        const SequenceId id = engine.add(request), beside = engine.add(other);
        while (engine.tokens(id).size() < length) engine.step();
        const auto before = engine.tokens(id);
        fake::fail(api, 1, cudaErrorMemoryAllocation);
        EXPECT_THROW(engine.step(), Error) << api;
        EXPECT_EQ(engine.tokens(id), before) << api;
        if (length == 8) engine.cancel(beside);
        while (engine.busy()) engine.step();
        auto tokens = engine.tokens(id);
        tokens.erase(tokens.begin(), tokens.begin() + 2);
        EXPECT_EQ(tokens, expected) << api;
        engine.remove(id);
        engine.remove(beside);
        EXPECT_EQ(alone(engine, other), others) << api;
      }
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  EXPECT_EQ(fake::misuse(), "");
}

TEST_F(CudaAheadFaults, B32_ADeviceLostInTheStepInFlightIsSaidByTheNextStep) {
  {
    Engine engine = open();
    const SequenceId id = engine.add(greedy({5, 3}, 14));
    while (engine.tokens(id).size() < 5) engine.step();
    fake::device_fault_at(3, cudaErrorIllegalAddress);  // a kernel of the step in flight
    try {
      engine.step();
      FAIL() << "expected DeviceLost";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::DeviceLost) << error.what();
    }
    EXPECT_THROW(engine.step(), Error);
  }  // the destructor returns
  fake::reset();
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
}

TEST_F(CudaAheadFaults, B36_AnEngineMayGoWithAStepInFlight) {
  {
    Engine engine = open();
    engine.add(greedy({5}, 14));
    for (int i = 0; i < 3; ++i) engine.step();
    EXPECT_GT(engine.stats().steps_ahead, 0u);
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  EXPECT_EQ(fake::misuse(), "");
}

}  // namespace
}  // namespace rondo
