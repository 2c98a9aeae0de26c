// Many sequences on the CUDA backend while its calls fail, on the stand-in.
#include <gtest/gtest.h>

#include "runner/engine_core.h"
#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::drawn;
using test::greedy;
using test::some_tokens;

class CudaServingFaults : public test::CudaTinyFaults {
 protected:
  CudaServingFaults() : CudaTinyFaults({4}, 2, 32) { options_.kv_positions = 40; }
};

// Forks copy pages, preempted ones come back, drafts are checked, all while one call in a hundred fails: a
// step that throws is made again, and no token is ever another.
TEST_F(CudaServingFaults, B45_OneCallInAHundredFailsAndNoTokenIsWrong) {
  {
    std::vector<Request> kinds;
    for (uint32_t i = 0; i < 3; ++i) {
      kinds.push_back(greedy(some_tokens(9, 32, i / 2), 8));
      kinds.back().sampling = drawn(i, i % 2 ? 1.0f : 0.0f);
      kinds.back().draft_tokens = i == 2 ? 2 : 0;
    }
    Engine engine = open();
    std::map<uint64_t, std::vector<int32_t>> expected;  // by kind and seed
    const auto key = [](size_t kind, uint64_t seed) { return kind * 100 + seed; };
    for (size_t kind = 0; kind < kinds.size(); ++kind)
      for (uint64_t seed = 0; seed < 2; ++seed) {
        Request request = kinds[kind];
        request.sampling.seed = seed;
        auto tokens = request.prompt;
        const auto made = alone(engine, request);
        tokens.insert(tokens.end(), made.begin(), made.end());
        expected[key(kind, seed)] = tokens;
      }
    std::mt19937 random(45);
    std::map<SequenceId, uint64_t> live;
    int failed = 0, ended = 0;
    int steps = 80;
    fake::fail_at_random(0.01, 45, cudaErrorMemoryAllocation);
    while (steps > 0) {
      try {
        while (live.size() < 3) {
          const size_t kind = random() % kinds.size();
          Request request = kinds[kind];
          request.sampling.seed = random() % 2;
          const SequenceId id = engine.add(request);
          live[id] = key(kind, request.sampling.seed);
          if (random() % 3 == 0) {
            request.sampling.seed = random() % 2;
            live[engine.fork(id, request.sampling)] = key(kind, request.sampling.seed);
          }
        }
        for (const Output& output : engine.step()) {
          if (output.finish == FinishReason::None) continue;
          ASSERT_EQ(output.finish, FinishReason::Length);
          // Calls between two steps may fail too; what a step told is not told again, so they are asked until
          // they answer.
          for (bool done = false; !done;) {
            try {
              ASSERT_EQ(engine.tokens(output.sequence), expected[live.at(output.sequence)]);
              engine.remove(output.sequence);
              done = true;
            } catch (const Error& error) {
              ASSERT_NE(error.kind(), ErrorKind::DeviceLost) << error.what();
            }
          }
          live.erase(output.sequence);
          ++ended;
        }
        --steps;
      } catch (const Error& error) {
        ASSERT_NE(error.kind(), ErrorKind::DeviceLost) << error.what();
        ++failed;
      }
    }
    EXPECT_GT(failed, 0);
    EXPECT_GT(ended, 0);
    fake::fail_at_random(0, 0, cudaSuccess);
    while (engine.busy()) engine.step();
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  EXPECT_EQ(fake::misuse(), "");
}

TEST_F(CudaServingFaults, AStepThatFailsBehindAPageCopyIsMadeAgainWithTheCopy) {
  Engine engine = open();
  const Request request = greedy(some_tokens(11, 32, 1), 8);
  const auto expected = alone(engine, request);
  for (int nth = 1; nth <= 12; nth += 2) {
    const SequenceId source = engine.add(request), fork = engine.fork(source, {});
    for (int i = 0; i < 4; ++i) engine.step();
    fake::fail("cudaMemcpyAsync", nth, cudaErrorMemoryAllocation);
    while (engine.busy()) {
      try {
        engine.step();
      } catch (const Error& error) {
        ASSERT_NE(error.kind(), ErrorKind::DeviceLost) << error.what();
      }
    }
    for (SequenceId id : {source, fork}) {
      auto tokens = engine.tokens(id);
      tokens.erase(tokens.begin(), tokens.begin() + 11);
      EXPECT_EQ(tokens, expected) << nth;
      engine.remove(id);
    }
    fake::reset();  // a late call may not have come
  }
}

TEST_F(CudaServingFaults, ALostDeviceIsToldToAddAndCancelToo) {
  Engine engine = open();
  const SequenceId id = engine.add(greedy({1, 2}, 4));
  engine.step();
  fake::device_fault(cudaErrorIllegalAddress);
  EXPECT_THROW(engine.step(), Error);
  for (const auto& call : {std::function<void()>([&] { engine.add(greedy({1}, 1)); }),
                           std::function<void()>([&] { engine.cancel(id); })}) {
    try {
      call();
      ADD_FAILURE() << "expected DeviceLost";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::DeviceLost) << error.what();
    }
  }
}

}  // namespace
}  // namespace rondo
