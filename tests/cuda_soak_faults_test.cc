// Thousands of random steps on the CUDA backend while its calls fail, on the stand-in.
#include <gtest/gtest.h>

#include "tests/cuda_soak.h"

namespace rondo {
namespace {

using test::kRepeats;

class CudaSoakFaults : public test::CudaSoak {
 protected:
  static void expect_clean() {
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    EXPECT_EQ(fake::misuse(), "");
  }
};

TEST_F(CudaSoakFaults, B45_OneCallInAHundredFailsAndNoTokenIsWrong) {
  soak(10000 / kRepeats, true);
  expect_clean();
}

TEST_F(CudaSoakFaults, B45_OneCallInAHundredFailsWhileOneLaunchMakesManySteps) {
  options_.one_launch = true;
  // In the second a loop fails at a page's edge, before its first step.
  for (const uint64_t seed : {45, 100}) soak(2000 / (kRepeats > 1 ? 5 : 1), true, seed);
  expect_clean();
}

}  // namespace
}  // namespace rondo
