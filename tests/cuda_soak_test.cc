// What takes thousands of steps on the CUDA backend. One text for the stand-in and for a real GPU.
#include "tests/cuda_soak.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace rondo {
namespace {

using test::kRepeats;

using CudaSoak = test::CudaSoak;

TEST_F(CudaSoak, B44_RandomStepsLeaveTheDeviceAsItWasAndReplayFromTheLog) {
  const char* const asked = std::getenv("RONDO_SOAK_STEPS");  // scripts/gpu --soak
  soak(asked ? std::strtoull(asked, nullptr, 10) : 10000 / kRepeats, false);
}

}  // namespace
}  // namespace rondo
