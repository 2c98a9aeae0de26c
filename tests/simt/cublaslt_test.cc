// The cuBLASLt stand-in: products agree with double loops, are captured and replayed, and misuse is an error.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/simt/test_support.h"

namespace {

using simt_test::CudaTest;
using simt_test::DeviceArray;

size_t bytes_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

// Elements of the type, and what they are as doubles after rounding to it.
std::vector<unsigned char> encode(std::vector<double>& values, cudaDataType type) {
  std::vector<unsigned char> bytes(values.size() * bytes_of(type));
  for (size_t i = 0; i < values.size(); ++i) {
    const float f = float(values[i]);
    const __nv_bfloat16 b = __float2bfloat16(f);
    const __half h = __float2half(f);
    const void* from = type == CUDA_R_32F   ? static_cast<const void*>(&f)
                       : type == CUDA_R_16F ? static_cast<const void*>(&h)
                                            : static_cast<const void*>(&b);
    std::memcpy(&bytes[i * bytes_of(type)], from, bytes_of(type));
    values[i] = type == CUDA_R_32F ? f : type == CUDA_R_16F ? __half2float(h) : __bfloat162float(b);
  }
  return bytes;
}
double decode(const std::vector<unsigned char>& bytes, size_t i, cudaDataType type) {
  const unsigned char* at = &bytes[i * bytes_of(type)];
  float f = 0;
  __half h;
  __nv_bfloat16 b;
  switch (type) {
    case CUDA_R_32F: std::memcpy(&f, at, sizeof f); return f;
    case CUDA_R_16F: std::memcpy(&h, at, sizeof h); return __half2float(h);
    default: std::memcpy(&b, at, sizeof b); return __bfloat162float(b);
  }
}
// Half a unit in the last place, relative; 2^-24, the smallest step of fp16, where that underflows.
double roundoff(cudaDataType type) {
  return type == CUDA_R_32F ? 0x1p-24 : type == CUDA_R_16F ? 0x1p-11 : 0x1p-8;
}

// Layouts and descriptor of one product, on the stack as the Init functions allow.
struct Product {
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtHandle_t handle = nullptr;

  Product(cudaDataType ab, cudaDataType cd, uint64_t m, uint64_t n, uint64_t k, bool transa, bool transb) {
    EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescInit(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(transa ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t(transb ? CUBLAS_OP_T : CUBLAS_OP_N));
    cublasLtMatrixLayoutInit(&a, ab, transa ? k : m, transa ? m : k, int64_t(transa ? k : m));
    cublasLtMatrixLayoutInit(&b, ab, transb ? n : k, transb ? k : n, int64_t(transb ? n : k));
    cublasLtMatrixLayoutInit(&c, cd, m, n, int64_t(m));
    cublasLtMatrixLayoutInit(&d, cd, m, n, int64_t(m));
    cublasLtMatmulPreferenceInit(&preference);
  }
  ~Product() { EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS); }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    EXPECT_EQ(cublasLtMatmulDescSetAttribute(&desc, attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  void allow_workspace(uint64_t bytes) {
    EXPECT_EQ(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &bytes, sizeof bytes),
              CUBLAS_STATUS_SUCCESS);
  }
  cublasStatus_t choose(cublasLtMatmulHeuristicResult_t& result) {
    int found = 0;
    const cublasStatus_t s =
        cublasLtMatmulAlgoGetHeuristic(handle, &desc, &a, &b, &c, &d, &preference, 1, &result, &found);
    EXPECT_EQ(found, s == CUBLAS_STATUS_SUCCESS ? 1 : 0);
    return s;
  }
};

struct Case {
  cudaDataType ab, cd;
  bool transa, transb;
  float alpha, beta;
  bool bias;
};
std::string name_of(const testing::TestParamInfo<Case>& info) {
  const auto type = [](cudaDataType t) { return t == CUDA_R_32F ? "F32" : t == CUDA_R_16F ? "F16" : "BF16"; };
  const Case& c = info.param;
  return std::string(type(c.ab)) + "to" + type(c.cd) + (c.transa ? "T" : "N") + (c.transb ? "T" : "N") +
         (c.beta != 0 ? "Accumulated" : "") + (c.bias ? "Bias" : "") + std::to_string(info.index);
}
class CublasLtProduct : public CudaTest, public testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Types, CublasLtProduct,
                         testing::Values(Case{CUDA_R_32F, CUDA_R_32F, true, false, 1, 0, false},
                                         Case{CUDA_R_32F, CUDA_R_32F, false, false, -0.5f, 2, true},
                                         Case{CUDA_R_16BF, CUDA_R_16BF, true, false, 1, 0, true},
                                         Case{CUDA_R_16BF, CUDA_R_32F, true, false, 1, 1, false},
                                         Case{CUDA_R_16BF, CUDA_R_32F, true, true, 1, 0, true},
                                         Case{CUDA_R_16F, CUDA_R_16F, false, true, 1, 1, false},
                                         Case{CUDA_R_16F, CUDA_R_32F, true, false, 2, 0, false}),
                         name_of);

TEST_P(CublasLtProduct, MatchesDoubleLoop) {
  const Case& p = GetParam();
  constexpr uint64_t m = 19, n = 5, k = 70;
  std::mt19937 generator(3);
  std::normal_distribution<double> normal;
  const auto random = [&](size_t count) {
    std::vector<double> v(count);
    for (double& x : v) x = normal(generator);
    return v;
  };
  auto a = random(m * k), b = random(k * n), c = random(m * n), bias = random(m);
  DeviceArray<unsigned char> da(encode(a, p.ab)), db(encode(b, p.ab)), dc(encode(c, p.cd)),
      dbias(encode(bias, p.cd)), dd(m * n * bytes_of(p.cd)), workspace(1 << 16);

  cublasLtMatmulHeuristicResult_t chosen{};
  {
    Product product(p.ab, p.cd, m, n, k, p.transa, p.transb);
    if (p.bias) {
      product.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS));
      product.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(dbias.data()));
    }
    product.allow_workspace(1 << 16);
    ASSERT_EQ(product.choose(chosen), CUBLAS_STATUS_SUCCESS);
    EXPECT_GT(chosen.workspaceSize, 0u);
    float alpha = p.alpha, beta = p.beta;
    ASSERT_EQ(cublasLtMatmul(product.handle, &product.desc, &alpha, da.data(), &product.a, db.data(),
                             &product.b, &beta, dc.data(), &product.c, dd.data(), &product.d, &chosen.algo,
                             workspace.data(), chosen.workspaceSize, nullptr),
              CUBLAS_STATUS_SUCCESS);
    alpha = beta = NAN;
  }  // descriptors, alpha and beta may go before the product runs
  const auto d = dd.download();
  for (uint64_t i = 0; i < m; ++i)
    for (uint64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (uint64_t l = 0; l < k; ++l)
        sum += a[p.transa ? i * k + l : l * m + i] * b[p.transb ? l * n + j : j * k + l];
      double expected = double(p.alpha) * sum;
      if (p.beta != 0) expected += double(p.beta) * c[j * m + i];
      if (p.bias) expected += bias[i];
      // One rounding to the result's type; before it, one to fp32.
      const double tolerance = (roundoff(p.cd) + 0x1p-24) * std::fabs(expected) + 0x1p-25;
      ASSERT_NEAR(decode(d, j * m + i, p.cd), expected, tolerance) << i << " " << j;
    }
}

class CublasLt : public CudaTest {
 protected:
  static constexpr uint64_t kM = 16, kN = 2, kK = 8;
  void TearDown() override {
    EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    fake::reset();
  }
  void SetUp() override {
    CudaTest::SetUp();
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 1 << 17), cudaSuccess);
    memory_ = static_cast<char*>(p);
    EXPECT_EQ(cudaMemset(memory_, 0, 1 << 17), cudaSuccess);
  }
  cublasStatus_t multiply(Product& p, const cublasLtMatmulAlgo_t* algo, const void* a, void* d,
                          void* workspace, size_t workspace_bytes, cudaStream_t stream = nullptr) {
    const float one = 1, zero = 0;
    return cublasLtMatmul(p.handle, &p.desc, &one, a, &p.a, memory_ + 4096, &p.b, &zero, d, &p.c, d, &p.d,
                          algo, workspace, workspace_bytes, stream);
  }
  char* memory_ = nullptr;
};

TEST_F(CublasLt, MisuseIsRefusedAndNoted) {
  Product p(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  p.allow_workspace(1 << 16);
  cublasLtMatmulHeuristicResult_t chosen{};
  ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
  char* const d = memory_ + 8192;
  char* const workspace = memory_ + 65536;
  ASSERT_EQ(multiply(p, &chosen.algo, memory_, d, workspace, chosen.workspaceSize), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(fake::misuse(), "");

  const auto refused = [&](cublasStatus_t status, const char* note) {
    EXPECT_EQ(status, CUBLAS_STATUS_INVALID_VALUE);
    EXPECT_NE(fake::misuse().find(note), std::string::npos) << fake::misuse();
    fake::reset();
  };
  refused(multiply(p, nullptr, memory_, d, workspace, chosen.workspaceSize), "without an algorithm");
  refused(multiply(p, &chosen.algo, nullptr, d, workspace, chosen.workspaceSize), "null");
  refused(multiply(p, &chosen.algo, memory_, d, nullptr, chosen.workspaceSize), "workspace missing");
  refused(multiply(p, &chosen.algo, memory_, d, workspace, chosen.workspaceSize - 1), "workspace missing");
  refused(multiply(p, &chosen.algo, memory_ + 2, d, workspace, chosen.workspaceSize), "aligned to less");
  refused(multiply(p, &chosen.algo, memory_, memory_ + (1 << 17) - 64, workspace, chosen.workspaceSize),
          "outside");
  refused(multiply(p, &chosen.algo, memory_, memory_, workspace, chosen.workspaceSize),
          "input of its own product");
  Product other(CUDA_R_16BF, CUDA_R_32F, kM, kN + 1, kK, true, false);
  refused(multiply(other, &chosen.algo, memory_, d, workspace, chosen.workspaceSize),
          "chosen for another product");
  cublasLtMatrixLayoutInit(&p.a, CUDA_R_16BF, kK, kM, int64_t(kK - 1));
  refused(p.choose(chosen), "leading dimension");
  cublasLtMatrixLayoutInit(&p.a, CUDA_R_16BF, kK + 1, kM, int64_t(kK + 1));
  refused(p.choose(chosen), "do not fit together");
}

TEST_F(CublasLt, WhatIsNotModelledIsNotSupported) {
  cublasLtMatmulHeuristicResult_t chosen{};
  Product mixed(CUDA_R_16BF, CUDA_R_16F, kM, kN, kK, true, false);
  EXPECT_EQ(mixed.choose(chosen), CUBLAS_STATUS_NOT_SUPPORTED);
  Product batched(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  const int32_t batch = 2;
  EXPECT_EQ(
      cublasLtMatrixLayoutSetAttribute(&batched.a, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch),
      CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(batched.choose(chosen), CUBLAS_STATUS_NOT_SUPPORTED);
  Product activated(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  activated.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_GELU));
  EXPECT_EQ(activated.choose(chosen), CUBLAS_STATUS_NOT_SUPPORTED);
  const int64_t wrong_size = 1;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(&activated.desc, CUBLASLT_MATMUL_DESC_TRANSA, &wrong_size,
                                           sizeof wrong_size),
            CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLt, WithoutAWorkspaceAllowedNoneIsAsked) {
  Product p(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  cublasLtMatmulHeuristicResult_t chosen{};
  ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(chosen.workspaceSize, 0u);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, nullptr, 0), CUBLAS_STATUS_SUCCESS);
}

TEST_F(CublasLt, RowMajorOrderIsTheTransposedColumnMajorOne) {
  std::vector<double> values(kM * kK);
  for (size_t i = 0; i < values.size(); ++i) values[i] = double(i % 11) - 5;
  std::vector<double> in(kK * kN);
  for (size_t i = 0; i < in.size(); ++i) in[i] = double(i % 5) - 2;
  DeviceArray<unsigned char> w(encode(values, CUDA_R_32F)), x(encode(in, CUDA_R_32F)), y1(kM * kN * 4),
      y2(kM * kN * 4);
  const float one = 1, zero = 0;
  cublasLtMatmulHeuristicResult_t chosen{};
  {  // column-major: W^T stored [K, M], transposed
    Product p(CUDA_R_32F, CUDA_R_32F, kM, kN, kK, true, false);
    ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmul(p.handle, &p.desc, &one, w.data(), &p.a, x.data(), &p.b, &zero, nullptr, &p.c,
                             y1.data(), &p.d, &chosen.algo, nullptr, 0, nullptr),
              CUBLAS_STATUS_SUCCESS);
  }
  {  // row-major: the same memory read as W [M, K]
    Product p(CUDA_R_32F, CUDA_R_32F, kM, kN, kK, false, false);
    const int32_t row_major = CUBLASLT_ORDER_ROW;
    const int64_t ld = kK;
    EXPECT_EQ(
        cublasLtMatrixLayoutSetAttribute(&p.a, CUBLASLT_MATRIX_LAYOUT_ORDER, &row_major, sizeof row_major),
        CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(&p.a, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld),
              CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(cublasLtMatmul(p.handle, &p.desc, &one, w.data(), &p.a, x.data(), &p.b, &zero, nullptr, &p.c,
                             y2.data(), &p.d, &chosen.algo, nullptr, 0, nullptr),
              CUBLAS_STATUS_SUCCESS);
  }
  EXPECT_EQ(y1.download(), y2.download());
}

TEST_F(CublasLt, AProductIsCapturedWithItsPointersAndSpoilsItsWorkspaceWhenReplayed) {
  Product p(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  p.allow_workspace(1 << 16);
  cublasLtMatmulHeuristicResult_t chosen{};
  ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
  char* const workspace = memory_ + 65536;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, workspace, chosen.workspaceSize, stream),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  std::vector<const void*> addresses;
  for (auto& captured : fake::captured_pointers(graph)) addresses.push_back(captured.address);
  EXPECT_EQ(addresses, (std::vector<const void*>{memory_, memory_ + 4096, memory_ + 8192, workspace}));

  const std::vector<float> poison(kM * kN, -1.0f);
  ASSERT_EQ(cudaMemcpy(memory_ + 8192, poison.data(), kM * kN * 4, cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  std::vector<float> out(kM * kN), scratch(4);
  ASSERT_EQ(cudaMemcpy(out.data(), memory_ + 8192, out.size() * 4, cudaMemcpyDeviceToHost), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(scratch.data(), workspace, 16, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(out, std::vector<float>(kM * kN, 0.0f));
  EXPECT_TRUE(std::isnan(scratch[0]));
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(CublasLt, CallsCanBeToldToFailAndBrokenDevicesFailThemAll) {
  Product p(CUDA_R_16BF, CUDA_R_32F, kM, kN, kK, true, false);
  cublasLtMatmulHeuristicResult_t chosen{};
  ASSERT_EQ(p.choose(chosen), CUBLAS_STATUS_SUCCESS);
  fake::fail("cublasLtMatmul", 2, CUBLAS_STATUS_EXECUTION_FAILED);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, nullptr, 0), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, nullptr, 0), CUBLAS_STATUS_EXECUTION_FAILED);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, nullptr, 0), CUBLAS_STATUS_SUCCESS);
  fake::device_fault(cudaErrorIllegalAddress);
  EXPECT_EQ(multiply(p, &chosen.algo, memory_, memory_ + 8192, nullptr, 0), CUBLAS_STATUS_EXECUTION_FAILED);
  fake::reset();
}

TEST_F(CublasLt, HandlesAndDescriptorsAreCounted) {
  const size_t before = fake::live_objects();
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  EXPECT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_16F, 4, 4, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(fake::live_objects(), before + 3);
  EXPECT_EQ(cublasLtMatmulDescDestroy(desc), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatrixLayoutDestroy(layout), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(fake::live_objects(), before);
}

}  // namespace
