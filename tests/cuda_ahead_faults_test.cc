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
TEST_F(CudaAheadFaults, AStepAheadIsOneLaunchAndNoCopyButOfNewPages) {
  Engine engine = open();
  engine.add(greedy({1}, 16));
  for (int i = 0; i < 2; ++i) engine.step();
  for (size_t length = 4; length < 16; ++length) {
    const uint64_t copies = fake::calls("cudaMemcpyAsync"), launches = fake::calls("cudaGraphLaunch");
    engine.step();
    EXPECT_EQ(fake::calls("cudaMemcpyAsync") - copies, length == 9 ? 1u : 0u) << length;
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
        if (length == 4 && api == std::string("cudaMemcpyAsync")) continue;  // it copies nothing
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

// The message of what `call` throws.
template <class F>
std::string message_of(F call, ErrorKind kind) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected " << error_kind_name(kind);
  return "";
}

// A device tells of a fault where it is asked next, by whatever call. Steps are numbered as in the log.
TEST_F(CudaAheadFaults, B35_AFaultFoundLateNamesTheStepsUnderWayNotTheCallThatFoundIt) {
  uint64_t made = 0;
  options_.on_event = [&](const LogEvent& event) {
    if (event.kind == LogEvent::Kind::Step) made = event.step + 1;
  };
  const auto decode = [&](Engine& engine, size_t length) {
    const SequenceId id = engine.add(greedy({5, 3}, 14));
    while (engine.tokens(id).size() < length) engine.step();
  };
  const auto step = [&](uint64_t number, const char* form) {
    return "step " + std::to_string(number) + " (1 row in the bucket of 2, " + form + ")";
  };
  const auto lost = [](auto call) { return message_of(call, ErrorKind::DeviceLost); };
  {
    made = 0;
    Engine engine = open();
    decode(engine, 5);
    ASSERT_EQ(made, 3u);
    fake::device_fault_at(3, cudaErrorIllegalAddress);
    const std::string found = lost([&] { engine.step(); });
    EXPECT_NE(found.find("cudaErrorIllegalAddress"), std::string::npos) << found;
    EXPECT_NE(found.find("; under way: " + step(3, "replayed") + ", " + step(4, "replayed")),
              std::string::npos)
        << found;
    EXPECT_NE(lost([&] { engine.busy(); }).find(found), std::string::npos) << "the first cause";
  }
  fake::reset();
  {
    made = 0;
    Engine engine = open();
    decode(engine, 5);
    fake::device_fault(cudaErrorIllegalAddress);
    const std::string found = lost([&] { engine.busy(); });
    EXPECT_NE(found.find("; under way: " + step(3, "replayed")), std::string::npos) << found;
    EXPECT_EQ(found.find("step 4"), std::string::npos) << found;
  }
  fake::reset();
  options_.graph = GraphMode::Off;
  {
    made = 0;
    Engine engine = open();
    decode(engine, 4);
    ASSERT_EQ(made, 2u);
    fake::device_fault_at(3, cudaErrorIllegalAddress);
    const std::string found = lost([&] { engine.step(); });
    EXPECT_NE(found.find("; under way: " + step(2, "eager")), std::string::npos) << found;
    EXPECT_EQ(found.find("step 3"), std::string::npos) << found;
  }
  fake::reset();
  options_.graph = GraphMode::Auto;
  options_.launch_ahead = false;
  {
    made = 0;
    Engine engine = open();
    decode(engine, 4);
    fake::fail("cudaGraphLaunch", 1, cudaErrorMemoryAllocation);
    const std::string found = message_of([&] { engine.step(); }, ErrorKind::OutOfMemory);
    EXPECT_NE(found.find("; under way: " + step(2, "being enqueued")), std::string::npos) << found;
    engine.step();
    fake::device_fault(cudaErrorIllegalAddress);
    const std::string idle = lost([&] { engine.busy(); });
    EXPECT_EQ(idle.find("under way"), std::string::npos) << idle;
  }
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
