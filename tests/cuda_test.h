// What every test of the CUDA backend begins with.
#pragma once

#include <gtest/gtest.h>

#include "buffers/cuda_device.h"

namespace rondo::test {

// Skips where there is no device that the CUDA backend can use, and says why.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    const CudaReport report = probe_cuda();
    if (!report.unusable.empty()) GTEST_SKIP() << report.unusable;
  }
};

}  // namespace rondo::test
