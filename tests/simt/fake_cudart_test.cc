// The stand-in runtime's own features: planted failures, limits, bookkeeping. What it has in common with the
// real runtime is in the conformance tests.
#include "tests/simt/fake_cudart.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "buffers/error.h"
#include "kernels/cuda/dialect.h"
#include "tests/simt/test_support.h"

namespace {

using rondo::cuda::launch;
using simt_test::CudaTest;
using simt_test::DeviceArray;

__global__ void add(float* x, float amount) { x[threadIdx.x] += amount; }

struct Arguments {
  float* x;
  int rows, cols;
};
__global__ void add_packed(Arguments a, const float* amount) { a.x[threadIdx.x] += *amount; }

// A small life with CUDA: memory, a captured graph, replay and read-back. Returns the first failure, having
// released whatever it had.
cudaError_t capture_and_replay(float* result) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaEvent_t event = nullptr;
  void *x = nullptr, *host = nullptr;
  const auto body = [&]() -> cudaError_t {
    if (auto e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)) return e;
    if (auto e = cudaEventCreateWithFlags(&event, cudaEventDisableTiming)) return e;
    if (auto e = cudaMalloc(&x, 128)) return e;
    if (auto e = cudaMallocHost(&host, 4)) return e;
    if (auto e = cudaMemsetAsync(x, 0, 128, stream)) return e;
    if (auto e = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)) return e;
    cudaError_t launched = cudaSuccess;
    try {
      launch(add, dim3(1), dim3(32), 0, stream, static_cast<float*>(x), 1.0f);
    } catch (const rondo::Error&) {
      launched = cudaErrorUnknown;
    }
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (launched) return launched;
    if (ended) return ended;
    if (auto e = cudaGraphInstantiate(&exec, graph, 0)) return e;
    for (int i = 0; i < 3; ++i)
      if (auto e = cudaGraphLaunch(exec, stream)) return e;
    if (auto e = cudaMemcpyAsync(host, x, 4, cudaMemcpyDeviceToHost, stream)) return e;
    if (auto e = cudaEventRecord(event, stream)) return e;
    if (auto e = cudaEventSynchronize(event)) return e;
    std::memcpy(result, host, 4);
    return cudaSuccess;
  };
  const cudaError_t e = body();
  if (exec) cudaGraphExecDestroy(exec);
  if (graph) cudaGraphDestroy(graph);
  if (event) cudaEventDestroy(event);
  if (x) cudaFree(x);
  if (host) cudaFreeHost(host);
  if (stream) cudaStreamDestroy(stream);
  cudaGetLastError();
  return e;
}

using FakeCudart = CudaTest;

TEST_F(FakeCudart, WorkRunsOnlyWhenSomethingWaits) {
  DeviceArray<float> x(std::vector<float>(32, 0.0f));
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  launch(add, dim3(1), dim3(32), 0, stream, x.data(), 1.0f);
  EXPECT_EQ(x.download()[0], 0.0f);  // a copy on the legacy stream does not wait for this stream
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.download()[0], 1.0f);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(FakeCudart, FreshMemoryIsNaN) {
  DeviceArray<float> x(4);
  for (float v : x.download()) EXPECT_NE(v, v);
}

TEST_F(FakeCudart, TheNthCallFailsOnceWithTheErrorAskedFor) {
  fake::fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
  void *a = nullptr, *b = nullptr;
  EXPECT_EQ(cudaMalloc(&a, 8), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&b, 8), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&b, 8), cudaSuccess);
  EXPECT_EQ(fake::calls("cudaMalloc"), 3u);
  EXPECT_EQ(cudaFree(a), cudaSuccess);
  EXPECT_EQ(cudaFree(b), cudaSuccess);
}

TEST_F(FakeCudart, AFaultInAnUnknownFunctionIsRefused) {
  EXPECT_THROW(fake::fail("cudaMaloc", 1, cudaErrorUnknown), std::invalid_argument);
  EXPECT_THROW(fake::fail("cudaMalloc", 0, cudaErrorUnknown), std::invalid_argument);
  EXPECT_THROW(fake::fail("cudaMalloc", 1, cudaSuccess), std::invalid_argument);
}

TEST_F(FakeCudart, EveryCallFailsInTurnAndNothingIsLeft) {
  float result = 0;
  ASSERT_EQ(capture_and_replay(&result), cudaSuccess);
  ASSERT_EQ(result, 3.0f);
  const auto counts = fake::calls();
  ASSERT_GE(counts.size(), 15u);
  const std::set<std::string> releasing = {"cudaGraphExecDestroy", "cudaGraphDestroy",
                                           "cudaEventDestroy",     "cudaFree",
                                           "cudaFreeHost",         "cudaStreamDestroy"};
  for (const auto& [api, calls] : counts)
    for (uint64_t nth = 1; nth <= calls; ++nth) {
      SCOPED_TRACE(api + " " + std::to_string(nth));
      fake::reset();
      fake::fail(api, int(nth), cudaErrorUnknown);
      const cudaError_t e = capture_and_replay(&result);
      EXPECT_EQ(e, releasing.count(api) ? cudaSuccess : cudaErrorUnknown);
      EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
      EXPECT_EQ(fake::misuse(), "");
      fake::reset();
      EXPECT_EQ(capture_and_replay(&result), cudaSuccess);
      EXPECT_EQ(result, 3.0f);
    }
}

TEST_F(FakeCudart, RandomFailuresLeaveNothingAndNoWrongResult) {
  int failures = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    fake::reset();
    fake::fail_at_random(0.01, seed, cudaErrorUnknown);
    float result = 0;
    if (capture_and_replay(&result))
      ++failures;
    else
      EXPECT_EQ(result, 3.0f);
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  }
  // About 20 calls each: some of the hundred lives fail, and some do not.
  EXPECT_GT(failures, 0);
  EXPECT_LT(failures, 100);
}

TEST_F(FakeCudart, MemoryEndsWhereItIsToldTo) {
  fake::set_memory(1000);
  void *a = nullptr, *b = nullptr;
  size_t free_bytes = 0, total = 0;
  EXPECT_EQ(cudaMalloc(&a, 600), cudaSuccess);
  EXPECT_EQ(fake::live_bytes(), 600u);
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
  EXPECT_EQ(free_bytes, 400u);
  EXPECT_EQ(total, 1000u);
  EXPECT_EQ(cudaMalloc(&b, 401), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&b, 400), cudaSuccess);
  EXPECT_EQ(cudaFree(a), cudaSuccess);
  EXPECT_EQ(cudaFree(b), cudaSuccess);
  EXPECT_EQ(fake::live_bytes(), 0u);
  cudaGetLastError();
}

TEST_F(FakeCudart, ADeviceFaultCanStrikeInsideAReplay) {
  DeviceArray<float> x(std::vector<float>(32, 0.0f));
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (int i = 0; i < 2; ++i) launch(add, dim3(1), dim3(32), 0, stream, x.data(), 1.0f);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  fake::device_fault_at(4, cudaErrorIllegalAddress);  // the second kernel of the second replay
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);  // not here: the device is asynchronous
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaErrorIllegalAddress);
  // What is released now goes, whatever the calls say: x too, at the end of this test.
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorIllegalAddress);
}

TEST_F(FakeCudart, NoDeviceOrAnOldDriverFailsEveryCall) {
  struct Case {
    fake::Device device;
    cudaError_t error;
  };
  fake::Device none, old;
  none.count = 0;
  old.driver_version = 12080;
  for (const auto& [device, error] :
       {Case{none, cudaErrorNoDevice}, Case{old, cudaErrorInsufficientDriver}}) {
    fake::set_device(device);
    int value = -1;
    void* p = nullptr;
    EXPECT_EQ(cudaGetDeviceCount(&value), error);
    EXPECT_EQ(value, 0);
    EXPECT_EQ(cudaMalloc(&p, 8), error);
    EXPECT_EQ(cudaFree(nullptr), error);
    EXPECT_EQ(cudaDriverGetVersion(&value), cudaSuccess);
    EXPECT_EQ(value, device.driver_version);
    EXPECT_EQ(cudaRuntimeGetVersion(&value), cudaSuccess);
    EXPECT_EQ(value, 13000);
  }
}

TEST_F(FakeCudart, TheDeviceIsWhatTheTestSays) {
  fake::Device small;
  small.multiprocessors = 20;
  small.major = 8;
  small.minor = 6;
  fake::set_device(small);
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(properties.multiProcessorCount, 20);
  EXPECT_EQ(properties.major * 10 + properties.minor, 86);
  EXPECT_STREQ(properties.name, "stand-in");
}

TEST_F(FakeCudart, CallsAfterTheDriversShutdownSaySo) {
  void* p = nullptr;
  fake::unload_driver();
  EXPECT_EQ(cudaMalloc(&p, 8), cudaErrorCudartUnloading);
  EXPECT_EQ(cudaFree(nullptr), cudaErrorCudartUnloading);
}

TEST(FakeCudartMisuse, IsNoted) {
  fake::reset();
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(fake::misuse(), "");
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
  EXPECT_NE(fake::misuse().find("stream that was destroyed"), std::string::npos);
  float outside = 0;
  EXPECT_EQ(cudaFree(&outside), cudaErrorInvalidValue);
  EXPECT_NE(fake::misuse().find("was not allocated"), std::string::npos);
  DeviceArray<float> x(4);
  EXPECT_EQ(cudaMemcpyAsync(x.data(), &outside, 17, cudaMemcpyHostToDevice, nullptr), cudaErrorInvalidValue);
  EXPECT_NE(fake::misuse().find("copy of 17 bytes"), std::string::npos);
  fake::reset();
  EXPECT_EQ(fake::misuse(), "");
}

TEST(FakeCudartMisuse, LeaksAreReported) {
  fake::reset();
  void* p = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaMalloc(&p, 24), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(fake::live_objects(), 2u);
  EXPECT_NE(fake::live_report().find("24 bytes of device memory, 1 allocations, 0 streams, 1 events"),
            std::string::npos)
      << fake::live_report();
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_EQ(fake::live_objects(), 0u);
}

TEST_F(FakeCudart, CapturedPointersAreThoseThatReplayingUses) {
  DeviceArray<float> x(32), amount(1), y(32);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  launch(add_packed, dim3(1), dim3(32), 0, stream, Arguments{x.data() + 4, 64, 128}, amount.data());
  float host = 0;
  ASSERT_EQ(cudaMemcpyAsync(y.data(), &host, 4, cudaMemcpyHostToDevice, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  const auto of_graph = fake::captured_pointers(graph), of_execs = fake::captured_pointers();
  std::vector<const void*> addresses;
  for (auto& p : of_graph) addresses.push_back(p.address);
  EXPECT_EQ(addresses, (std::vector<const void*>{x.data() + 4, amount.data(), &host, y.data()}));
  EXPECT_EQ(of_graph[0].where, "node 0 (kernel), argument 0");
  EXPECT_EQ(of_graph[3].where, "node 1 (copy), destination");
  ASSERT_EQ(of_execs.size(), of_graph.size());
  EXPECT_EQ(of_execs[1].address, amount.data());
  EXPECT_EQ(of_execs[1].where, of_graph[1].where);

  EXPECT_EQ(fake::allocation_of(x.data() + 4).base, x.data());
  EXPECT_EQ(fake::allocation_of(x.data() + 4).bytes, 128u);
  EXPECT_TRUE(fake::allocation_of(x.data()).on_device);
  EXPECT_EQ(fake::allocation_of(&host).base, nullptr);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(FakeCudart, FreeingMemoryThatAGraphStillUsesIsNoted) {
  void* p = nullptr;
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaMalloc(&p, 64), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(static_cast<char*>(p) + 32, 0, 8, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(fake::misuse(), "");
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_NE(fake::misuse().find("that a graph exec still uses: node 0"), std::string::npos) << fake::misuse();
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  fake::reset();
}

TEST_F(FakeCudart, ThreadsUseItAtOnce) {
  constexpr int kThreads = 4;
  std::vector<float> results(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&results, t] {
      for (int i = 0; i < 5; ++i) EXPECT_EQ(capture_and_replay(&results[size_t(t)]), cudaSuccess);
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(results, std::vector<float>(kThreads, 3.0f));
}

}  // namespace
