// How the tests of planted faults run a kernel, in several orders of threads, and what they expect of it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cuda/dialect.h"
#include "tests/simt/test_support.h"

namespace faulty {

using Kernel = void (*)(float*, const float*);

constexpr size_t kValues = 1024;
inline const simt::Options kOrders[] = {
    {simt::Order::forward, 1}, {simt::Order::reverse, 1}, {simt::Order::random, 1}, {simt::Order::random, 2}};

inline float input(size_t i) { return float(1 + i % 7); }

struct Outcome {
  cudaError_t status = cudaSuccess;
  std::string misuse;
  std::vector<float> out;
};

template <rondo::cuda::Blocks kBlocks = rondo::cuda::Blocks::independent>
Outcome run(Kernel kernel, unsigned grid, unsigned block, size_t shared, const simt::Options& options) {
  fake::reset();
  simt::set_options(options);
  std::vector<float> in(kValues);
  for (size_t i = 0; i < kValues; ++i) in[i] = input(i);
  Outcome o;
  {
    simt_test::DeviceArray<float> din(in), dout(std::vector<float>(kValues, 0.0f));
    rondo::cuda::launch<kBlocks>(kernel, dim3(grid), dim3(block), shared, nullptr, dout.data(),
                                 static_cast<const float*>(din.data()));
    o.status = cudaStreamSynchronize(nullptr);
    if (!o.status) o.out = dout.download();
    o.misuse = fake::misuse();
  }
  simt::set_options({});
  fake::reset();
  return o;
}

// The kernel as it should be: the same finite values, not all zero, in every order.
inline void expect_no_alarm(Kernel kernel, unsigned grid, unsigned block, size_t shared) {
  const Outcome first = run(kernel, grid, block, shared, kOrders[0]);
  ASSERT_EQ(first.status, cudaSuccess) << first.misuse;
  float sum = 0;
  for (float v : first.out) sum += v;
  EXPECT_TRUE(std::isfinite(sum));
  EXPECT_GT(sum, 0.0f);
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(kernel, grid, block, shared, order);
    EXPECT_EQ(o.status, cudaSuccess) << o.misuse;
    EXPECT_EQ(o.out, first.out);
  }
}

// The launch fails, in every order, and says so.
inline void expect_error(Kernel kernel, unsigned grid, unsigned block, const std::string& message,
                         size_t shared = 0) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(kernel, grid, block, shared, order);
    EXPECT_EQ(o.status, cudaErrorLaunchFailure);
    EXPECT_NE(o.misuse.find(message), std::string::npos) << o.misuse;
    EXPECT_NE(o.misuse.find("block (0,0,0)"), std::string::npos) << o.misuse;
  }
}

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer ends the process and names the place: a file, or a function.
inline void expect_reported_race(Kernel kernel, unsigned grid, unsigned block, const simt::Options& order,
                                 const char* place, size_t shared = 0) {
  GTEST_FLAG_SET(death_test_style,
                 "threadsafe");  // a fresh process: the stand-in refuses to work in a forked one
  EXPECT_EXIT(
      {
        run(kernel, grid, block, shared, order);
        std::exit(0);
      },
      testing::ExitedWithCode(66), std::string("data race(.|\n)*") + place);
}
#endif

}  // namespace faulty
