// The executor: kernels give what double-precision loops give, in every order of threads; intrinsics mean
// what CUDA's do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/simt/sample_kernels.cuh"
#include "tests/simt/test_support.h"

namespace {

using namespace simt_samples;
using rondo::cuda::launch;
using simt_test::DeviceArray;

double value(bf16 b) { return double(__bfloat162float(b)); }

class Ordered : public simt_test::CudaTest, public testing::WithParamInterface<simt::Options> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    simt::set_options(GetParam());
  }
  void TearDown() override {
    simt::set_options({});
    CudaTest::TearDown();
  }
  std::vector<bf16> random(size_t n) {
    std::normal_distribution<float> normal;
    std::vector<bf16> v(n);
    for (auto& x : v) x = __float2bfloat16(normal(generator_));
    return v;
  }

 private:
  std::mt19937 generator_{7};
};

INSTANTIATE_TEST_SUITE_P(Executor, Ordered,
                         testing::Values(simt::Options{simt::Order::forward, 1},
                                         simt::Options{simt::Order::reverse, 1},
                                         simt::Options{simt::Order::random, 1},
                                         simt::Options{simt::Order::random, 2},
                                         simt::Options{simt::Order::random, 3}));

TEST_P(Ordered, RmsNormMatchesDoubleLoop) {
  // 520: some threads have nothing to do. bf16 keeps 8 bits: half a unit in the last place is at most 2^-8 of
  // the result; fp32 sums of at most 4096 terms add less than 2^-11.
  constexpr double kTolerance = 0x1p-8 + 0x1p-11;
  for (int n : {4096, 520}) {
    const int rows = 3;
    const auto x = random(size_t(rows * n)), w = random(size_t(n));
    DeviceArray<bf16> dx(x), dw(w), dy(x.size());
    launch(rmsnorm<256>, dim3(rows), dim3(256), 0, nullptr, dy.data(), dx.data(), dw.data(), n, 1e-5f);
    const auto y = dy.download();
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int i = 0; i < n; ++i) sum += value(x[r * n + i]) * value(x[r * n + i]);
      const double scale = 1 / std::sqrt(sum / n + 1e-5);
      for (int i = 0; i < n; ++i) {
        const double expected = value(x[r * n + i]) * scale * value(w[i]);
        ASSERT_NEAR(value(y[r * n + i]), expected, kTolerance * std::fabs(expected) + 1e-30)
            << "row " << r << " " << i;
      }
    }
  }
}

TEST_P(Ordered, GemvMatchesDoubleLoop) {
  const int rows = 67, cols = 1024;  // 67: the last block has idle warps
  const auto w = random(size_t(rows * cols)), x = random(cols);
  DeviceArray<bf16> dw(w), dx(x);
  DeviceArray<float> dy(rows);
  launch(gemv<8>, dim3((rows + 7) / 8), dim3(256), 0, nullptr, dy.data(), dw.data(), dx.data(), rows, cols);
  const auto y = dy.download();
  for (int r = 0; r < rows; ++r) {
    double sum = 0, magnitude = 0;
    for (int i = 0; i < cols; ++i) {
      sum += value(w[r * cols + i]) * value(x[i]);
      magnitude += std::fabs(value(w[r * cols + i]) * value(x[i]));
    }
    // A lane adds 32 products, the warp 5 times more: 37 roundings of 2^-24 of the magnitude.
    ASSERT_NEAR(y[r], sum, 37 * 0x1p-24 * magnitude) << r;
  }
}

TEST_P(Ordered, SplitAttentionMatchesDoubleLoop) {
  constexpr int kHeads = 8, kKvHeads = 2, kDim = 128, kMax = 256, kWarps = 4;
  const double scale = 1 / std::sqrt(double(kDim));
  for (auto [position, splits] : {std::pair{0, 4}, {1, 1}, {7, 3}, {100, 8}, {255, 5}}) {
    const auto q = random(kHeads * kDim), k = random(kKvHeads * kMax * kDim),
               v = random(kKvHeads * kMax * kDim);
    DeviceArray<bf16> dq(q), dk(k), dv(v), dout(q.size());
    DeviceArray<float> parts(size_t(kHeads * splits * kDim));
    DeviceArray<float2> ml(size_t(kHeads * splits));
    DeviceArray<int> dposition(std::vector<int>{position});
    launch(attend_split<kDim, kWarps>, dim3(kHeads, splits), dim3(kWarps * 32),
           kWarps * (kDim + 2) * sizeof(float), nullptr, parts.data(), ml.data(), dq.data(), dk.data(),
           dv.data(), dposition.data(), kHeads, kKvHeads, kMax, float(scale));
    launch(attend_combine<kDim>, dim3(kHeads), dim3(128), 0, nullptr, dout.data(), parts.data(), ml.data(),
           splits);
    const auto out = dout.download();
    for (int h = 0; h < kHeads; ++h) {
      const size_t kv = size_t(h / (kHeads / kKvHeads)) * kMax * kDim;
      std::vector<double> p(size_t(position) + 1);
      double m = -1e300, total = 0;
      for (size_t t = 0; t < p.size(); ++t) {
        for (int d = 0; d < kDim; ++d) p[t] += value(q[h * kDim + d]) * value(k[kv + t * kDim + d]) * scale;
        m = std::max(m, p[t]);
      }
      for (auto& e : p) total += e = std::exp(e - m);
      for (int d = 0; d < kDim; ++d) {
        double expected = 0;
        for (size_t t = 0; t < p.size(); ++t) expected += p[t] / total * value(v[kv + t * kDim + d]);
        // The output's bf16 rounding, and fp32 errors far below it.
        ASSERT_NEAR(value(out[h * kDim + d]), expected, 0x1p-8 * std::fabs(expected) + 1e-5)
            << "head " << h << " " << d;
      }
    }
  }
}

TEST_P(Ordered, LastBlockSeesEveryBlocksPart) {
  constexpr int kBlocks = 16;
  std::vector<float> in(32 * kBlocks);
  float expected = 0;
  for (size_t i = 0; i < in.size(); ++i) expected += in[i] = float(i % 7);
  DeviceArray<float> din(in), parts(kBlocks), out(1);
  DeviceArray<unsigned> count(std::vector<unsigned>{0});
  launch(sum_by_last_block<32>, dim3(kBlocks), dim3(32), 0, nullptr, out.data(), parts.data(), count.data(),
         din.data());
  EXPECT_EQ(out.download()[0], expected);  // small integers: exact in any order
}

// A static engine, say, whose work is still queued when the process ends.
struct DestroyedLate {
  float* x = nullptr;
  ~DestroyedLate() {
    launch(sum_by_last_block<32>, dim3(1), dim3(32), 0, nullptr, x, x + 1, reinterpret_cast<unsigned*>(x + 2),
           static_cast<const float*>(x + 3));
    float sum = 0;
    cudaMemcpy(&sum, x, sizeof sum, cudaMemcpyDeviceToHost);
    cudaFree(x);
    _exit(sum == 64.0f ? 7 : 1);
  }
};
void launch_in_a_static_destructor() {
  static DestroyedLate late;
  std::vector<float> values(35, 2.0f);
  values[2] = 0;  // the count: 0 is all zero bits
  void* p = nullptr;
  cudaMalloc(&p, values.size() * sizeof(float));
  late.x = static_cast<float*>(p);
  cudaMemcpy(p, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
  launch(gemv<1>, dim3(1), dim3(32), 0, nullptr, late.x, static_cast<const bf16*>(p),
         static_cast<const bf16*>(p), 0,
         0);  // so that the thread's fibers exist, and are destroyed first
  cudaStreamSynchronize(nullptr);
  std::exit(1);
}

TEST(ExecutorDeathTest, KernelsRunInStaticDestructors) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(launch_in_a_static_destructor(), testing::ExitedWithCode(7), "");
}

}  // namespace
