// What the conformance tests share: kernels in the dialect, and owners of CUDA's objects. Compiles with nvcc
// as well.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <functional>

#include "buffers/error.h"
#include "kernels/cuda/dialect.h"
#if defined(RONDO_ON_STAND_IN)
#include "tests/simt/fake_cudart.h"
#endif

namespace conformance {

using rondo::cuda::launch;

static __global__ void add_one(float* x) { x[threadIdx.x] += 1.0f; }

// So slow on a GPU that the host finds it unfinished: each addition waits for the memory that the one before
// it wrote.
constexpr int kSlow = 1 << 16;
static __global__ void slowly_add(volatile float* x, int steps) {
  for (int i = 0; i < steps; ++i) *x = *x + 1.0f;
}

static __global__ void add_shared(float* x) {
  RONDO_DYN_SHARED(float, shared);
  shared[threadIdx.x] = 1.0f;
  __syncthreads();
  x[threadIdx.x] += shared[31 - threadIdx.x];
}

static __global__ void trap(int yes) {
  if (yes) __trap();
}

inline bool device_exists() {
  int count = 0;
  const bool exists = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return exists;
}

// A non-blocking stream. On the stand-in, a test must leave nothing behind.
class Cuda : public testing::Test {
 protected:
  void SetUp() override {
#if defined(RONDO_ON_STAND_IN)
    fake::reset();
#endif
    if (!device_exists()) GTEST_SKIP() << "no CUDA device";
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    if (!stream) return;
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    cudaGetLastError();
#if defined(RONDO_ON_STAND_IN)
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    fake::reset();
#endif
  }
  cudaStream_t stream = nullptr;
};

struct Floats {
  explicit Floats(size_t n) : bytes(n * sizeof(float)) {
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, bytes), cudaSuccess);
    data = static_cast<float*>(p);
  }
  ~Floats() { EXPECT_EQ(cudaFree(data), cudaSuccess); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;

  void zero() const {
    EXPECT_EQ(cudaMemset(data, 0, bytes), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // cudaMemset of device memory need not wait
  }
  float first() const {
    float value = -1;
    EXPECT_EQ(cudaMemcpy(&value, data, sizeof value, cudaMemcpyDeviceToHost), cudaSuccess);
    return value;
  }

  float* data = nullptr;
  size_t bytes;
};

struct Stream {
  explicit Stream(unsigned flags) { EXPECT_EQ(cudaStreamCreateWithFlags(&get, flags), cudaSuccess); }
  ~Stream() { EXPECT_EQ(cudaStreamDestroy(get), cudaSuccess); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get = nullptr;
};

struct Event {
  explicit Event(unsigned flags = cudaEventDefault) {
    EXPECT_EQ(cudaEventCreateWithFlags(&get, flags), cudaSuccess);
  }
  ~Event() { EXPECT_EQ(cudaEventDestroy(get), cudaSuccess); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get = nullptr;
};

// What `record` enqueues, captured and instantiated.
struct Graph {
  Graph(cudaStream_t stream, cudaStreamCaptureMode mode, const std::function<void()>& record) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, mode), cudaSuccess);
    record();
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  }
  ~Graph() {
    if (exec) {
      EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
    }
    if (graph) {
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    }
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
};

}  // namespace conformance
