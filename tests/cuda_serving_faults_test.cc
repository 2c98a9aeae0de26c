// Many sequences on the CUDA backend while its calls fail, on the stand-in.
#include <gtest/gtest.h>

#include "tests/cuda_tiny.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::greedy;
using test::some_tokens;

class CudaServingFaults : public test::CudaTinyFaults {
 protected:
  CudaServingFaults() : CudaTinyFaults({4}, 2, 32) { options_.kv_positions = 40; }
};

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
