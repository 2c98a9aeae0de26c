// What the engine relies on of the CUDA runtime, case by case: memory, streams, events, graphs, errors. (What
// capture forbids is in cuda_capture_conformance_test.cc.) Written against the runtime's API alone, so that
// the same file runs on the stand-in and, built with nvcc, on a real GPU: where the two differ, the stand-in
// is wrong.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;

// ---- memory

TEST_F(Cuda, MallocOfNothingSucceeds) {
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 0), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

TEST_F(Cuda, MallocBeyondTheDeviceFailsAndLeavesItUsable) {
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, size_t(1) << 50), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&p, 64), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

TEST_F(Cuda, AllocationsAreAlignedTo256Bytes) {
  Floats a(1), b(1);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % 256, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 256, 0u);
}

TEST_F(Cuda, MemGetInfoSeesALargeAllocation) {
  size_t before = 0, after = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  void* p = nullptr;
  ASSERT_EQ(cudaMalloc(&p, 64 << 20), cudaSuccess);
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
  EXPECT_GE(before - after, size_t(64 << 20));
  EXPECT_LE(before, total);
}

TEST_F(Cuda, FreeOfWhatWasNotAllocatedIsRefused) {
  Floats device(64);
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 64), cudaSuccess);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(device.data + 8), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(device.data), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(Cuda, CopiesAreCheckedAgainstTheirKind) {
  Floats device(16);
  float host[16] = {};
  void* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, 64, cudaHostAllocDefault), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(nullptr, pinned, 64, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, pinned, 64, cudaMemcpyHostToDevice),
            cudaErrorInvalidValue);  // host is not device memory
  EXPECT_EQ(cudaMemcpy(device.data, pinned, size_t(1) << 41, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(device.data, pinned, 64, cudaMemcpyKind(9)), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(device.data, pinned, 64, cudaMemcpyDefault), cudaSuccess);
  cudaGetLastError();
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

// ---- the order of work

TEST_F(Cuda, AStreamRunsItsWorkInOrder) {
  Floats x(32);
  ASSERT_EQ(cudaMemsetAsync(x.data, 0, 32 * sizeof(float), stream), cudaSuccess);
  for (int i = 0; i < 3; ++i) launch(add_one, dim3(1), dim3(32), 0, stream, x.data);
  float out[32] = {};
  ASSERT_EQ(cudaMemcpyAsync(out, x.data, sizeof out, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(out[0], 3.0f);
  EXPECT_EQ(out[31], 3.0f);
}

TEST_F(Cuda, AStreamWaitsForAnotherStreamsEvent) {
  Floats x(32);
  Stream second(cudaStreamNonBlocking);
  Event event;
  x.zero();
  launch(slowly_add, dim3(1), dim3(1), 0, stream, x.data, kSlow);
  ASSERT_EQ(cudaEventRecord(event.get, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get, event.get, 0), cudaSuccess);
  float out = -1;
  ASSERT_EQ(cudaMemcpyAsync(&out, x.data, sizeof out, cudaMemcpyDeviceToHost, second.get), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second.get), cudaSuccess);  // and nobody waits for the first stream
  EXPECT_EQ(out, float(kSlow));
}

TEST_F(Cuda, TheLegacyStreamWaitsForBlockingStreams) {
  Floats x(32);
  x.zero();
  Stream blocking(cudaStreamDefault);
  launch(slowly_add, dim3(1), dim3(1), 0, blocking.get, x.data, kSlow);
  EXPECT_EQ(x.first(), float(kSlow));  // a synchronous copy
  launch(slowly_add, dim3(1), dim3(1), 0, nullptr, x.data, kSlow);
  float out = -1;
  ASSERT_EQ(cudaMemcpyAsync(&out, x.data, sizeof out, cudaMemcpyDeviceToHost, blocking.get), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(blocking.get), cudaSuccess);
  EXPECT_EQ(out, 2.0f * kSlow);
}

TEST_F(Cuda, PollingEnds) {
  Floats x(32);
  x.zero();
  Event event;
  launch(slowly_add, dim3(1), dim3(1), 0, stream, x.data, kSlow);
  ASSERT_EQ(cudaEventRecord(event.get, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // "not ready" is no failure
  while (cudaEventQuery(event.get) == cudaErrorNotReady) {
  }
  EXPECT_EQ(cudaEventQuery(event.get), cudaSuccess);
  EXPECT_EQ(x.first(), float(kSlow));
}

TEST_F(Cuda, DeviceSynchronizeWaitsForEveryStream) {
  Floats x(32), y(32);
  x.zero();
  y.zero();
  Stream second(cudaStreamNonBlocking);
  launch(slowly_add, dim3(1), dim3(1), 0, stream, x.data, kSlow);
  launch(slowly_add, dim3(1), dim3(1), 0, second.get, y.data, kSlow);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(second.get), cudaSuccess);
}

TEST_F(Cuda, AStreamDestroyedInFlightFinishesItsWork) {
  Floats x(32);
  x.zero();
  {
    Stream second(cudaStreamNonBlocking);
    launch(slowly_add, dim3(1), dim3(1), 0, second.get, x.data, kSlow);
  }
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(x.first(), float(kSlow));
}

// ---- events

TEST_F(Cuda, AnEventNeverRecordedIsComplete) {
  Event a, b;
  float ms = 0;
  EXPECT_EQ(cudaEventQuery(a.get), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(a.get), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(stream, a.get, 0), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, a.get, b.get), cudaErrorInvalidResourceHandle);
}

TEST_F(Cuda, ElapsedTimeNeedsTimedAndFinishedEvents) {
  Floats x(32);
  x.zero();
  Event begin, end, untimed(cudaEventDisableTiming);
  float ms = -1;
  ASSERT_EQ(cudaEventRecord(begin.get, stream), cudaSuccess);
  launch(slowly_add, dim3(1), dim3(1), 0, stream, x.data, kSlow);
  ASSERT_EQ(cudaEventRecord(end.get, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(untimed.get, stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get, end.get), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(end.get), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get, end.get), cudaSuccess);
  EXPECT_GT(ms, 0.0f);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get, untimed.get), cudaErrorInvalidResourceHandle);
}

// ---- graphs

TEST_F(Cuda, AReplayReadsWhatMemoryHoldsThen) {
  Floats x(32);
  Graph graph(stream, cudaStreamCaptureModeThreadLocal, [&] {
    launch(add_one, dim3(1), dim3(32), 0, stream, x.data);
    launch(add_one, dim3(1), dim3(32), 0, stream, x.data);
  });
  x.zero();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(graph.exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 6.0f);
}

TEST_F(Cuda, CapturingRunsNothing) {
  Floats x(32);
  x.zero();
  Graph graph(stream, cudaStreamCaptureModeThreadLocal,
              [&] { launch(add_one, dim3(1), dim3(32), 0, stream, x.data); });
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 0.0f);
}

TEST_F(Cuda, ACapturedCopyFreezesItsHostAddress) {
  Floats x(1);
  float pageable = 1;
  void* pinned_memory = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned_memory, sizeof(float)), cudaSuccess);
  auto* pinned = static_cast<float*>(pinned_memory);
  for (float* host : {&pageable, pinned}) {
    *host = 1;
    Graph graph(stream, cudaStreamCaptureModeThreadLocal, [&] {
      EXPECT_EQ(cudaMemcpyAsync(x.data, host, sizeof *host, cudaMemcpyHostToDevice, stream), cudaSuccess);
      launch(add_one, dim3(1), dim3(1), 0, stream, x.data);
      EXPECT_EQ(cudaMemcpyAsync(host, x.data, sizeof *host, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    });
    *host = 41;  // after the capture
    ASSERT_EQ(cudaGraphLaunch(graph.exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(*host, 42.0f);
  }
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(Cuda, NodesTellWhatWasCaptured) {
  Floats x(32);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(x.data, 0, 32 * sizeof(float), stream), cudaSuccess);
  launch(slowly_add, dim3(2), dim3(1), 0, stream, x.data, 3);
  ASSERT_EQ(cudaMemcpyAsync(x.data + 16, x.data, 4, cudaMemcpyDeviceToDevice, stream), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);

  size_t count = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  ASSERT_EQ(count, 3u);
  std::vector<cudaGraphNode_t> nodes(5);
  count = nodes.size();
  ASSERT_EQ(cudaGraphGetNodes(graph, nodes.data(), &count), cudaSuccess);
  ASSERT_EQ(count, 3u);
  EXPECT_EQ(nodes[3], nullptr);
  int memsets = 0, copies = 0, kernels = 0;
  for (size_t i = 0; i < count; ++i) {
    cudaGraphNodeType type{};
    ASSERT_EQ(cudaGraphNodeGetType(nodes[i], &type), cudaSuccess);
    memsets += type == cudaGraphNodeTypeMemset;
    copies += type == cudaGraphNodeTypeMemcpy;
    cudaKernelNodeParams params{};
    if (type != cudaGraphNodeTypeKernel) {
      EXPECT_EQ(cudaGraphKernelNodeGetParams(nodes[i], &params), cudaErrorInvalidValue);
      continue;
    }
    ++kernels;
    ASSERT_EQ(cudaGraphKernelNodeGetParams(nodes[i], &params), cudaSuccess);
    EXPECT_EQ(params.func, reinterpret_cast<void*>(&slowly_add));
    EXPECT_EQ(params.gridDim.x, 2u);
    float* argument = nullptr;
    int steps = 0;
    std::memcpy(&argument, params.kernelParams[0], sizeof argument);
    std::memcpy(&steps, params.kernelParams[1], sizeof steps);
    EXPECT_EQ(argument, x.data);
    EXPECT_EQ(steps, 3);
  }
  EXPECT_EQ(memsets, 1);
  EXPECT_EQ(copies, 1);
  EXPECT_EQ(kernels, 1);
  cudaGetLastError();
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(Cuda, AnExecOutlivesItsGraph) {
  Floats x(32);
  x.zero();
  Graph graph(stream, cudaStreamCaptureModeThreadLocal,
              [&] { launch(add_one, dim3(1), dim3(32), 0, stream, x.data); });
  ASSERT_EQ(cudaGraphDestroy(graph.graph), cudaSuccess);
  graph.graph = nullptr;
  ASSERT_EQ(cudaGraphUpload(graph.exec, stream), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(graph.exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 1.0f);
}

TEST_F(Cuda, AnExecDestroyedInFlightFinishesItsWork) {
  Floats x(32);
  x.zero();
  Graph graph(stream, cudaStreamCaptureModeThreadLocal,
              [&] { launch(slowly_add, dim3(1), dim3(1), 0, stream, x.data, kSlow); });
  ASSERT_EQ(cudaGraphLaunch(graph.exec, stream), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(graph.exec), cudaSuccess);
  graph.exec = nullptr;
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), float(kSlow));
}

// ---- kernels and the device

TEST_F(Cuda, LaunchesBeyondTheLimitsAreRefused) {
  Floats x(32);
  const auto refused = [&](dim3 grid, dim3 block, size_t shared) {
    EXPECT_THROW(launch(add_shared, grid, block, shared, stream, x.data), rondo::Error);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // check() has cleared it
  };
  refused(dim3(1), dim3(2048), 0);
  refused(dim3(1), dim3(1, 1, 65), 0);
  refused(dim3(0), dim3(32), 0);
  refused(dim3(1, 65536), dim3(32), 0);
  refused(dim3(1), dim3(32), 100 * 1024);  // not allowed by an attribute yet
  refused(dim3(1), dim3(32), 300 * 1024);
  ASSERT_EQ(cudaFuncSetAttribute(reinterpret_cast<const void*>(&add_shared),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, 100 * 1024),
            cudaSuccess);
  x.zero();
  launch(add_shared, dim3(1), dim3(32), 100 * 1024, stream, x.data);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 1.0f);
}

TEST_F(Cuda, FunctionAttributesAreChecked) {
  const auto* kernel = reinterpret_cast<const void*>(&add_one);
  const auto shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
  EXPECT_EQ(cudaFuncSetAttribute(kernel, shared, 228 * 1024), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(kernel, shared, -1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 101),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(static_cast<const void*>(nullptr), shared, 1),
            cudaErrorInvalidDeviceFunction);
  cudaFuncAttributes attributes{};
  EXPECT_EQ(cudaFuncGetAttributes(&attributes, kernel), cudaSuccess);
  EXPECT_EQ(attributes.maxThreadsPerBlock, 1024);
  EXPECT_EQ(attributes.maxDynamicSharedSizeBytes, 48 * 1024);
}

TEST_F(Cuda, OccupancyOfASmallKernel) {
  const auto blocks = [](int block_size, size_t shared) {
    int n = -1;
    EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, reinterpret_cast<const void*>(&add_one),
                                                            block_size, shared),
              cudaSuccess);
    return n;
  };
  EXPECT_EQ(blocks(256, 0), 8);
  EXPECT_EQ(blocks(1024, 0), 2);
  EXPECT_EQ(blocks(32, 0), 32);
  EXPECT_EQ(blocks(128, 40 * 1024), 5);
  EXPECT_EQ(blocks(2048, 0), 0);
  EXPECT_EQ(blocks(128, 100 * 1024), 0);
  int n = 0;
  EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, reinterpret_cast<const void*>(&add_one), 0, 0),
            cudaErrorInvalidValue);
}

TEST_F(Cuda, AttributesAgreeWithProperties) {
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  const auto attribute = [](cudaDeviceAttr a) {
    int value = -1;
    EXPECT_EQ(cudaDeviceGetAttribute(&value, a, 0), cudaSuccess);
    return value;
  };
  EXPECT_EQ(attribute(cudaDevAttrMultiProcessorCount), properties.multiProcessorCount);
  EXPECT_EQ(attribute(cudaDevAttrComputeCapabilityMajor), properties.major);
  EXPECT_EQ(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), int(properties.sharedMemPerBlockOptin));
  EXPECT_EQ(attribute(cudaDevAttrL2CacheSize), properties.l2CacheSize);
  EXPECT_EQ(attribute(cudaDevAttrMaxThreadsPerBlock), properties.maxThreadsPerBlock);
  EXPECT_EQ(cudaSetDevice(99), cudaErrorInvalidDevice);
  int count = 0, device = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_GE(count, 1);
  EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
  EXPECT_EQ(device, 0);
}

// ---- errors

TEST_F(Cuda, TheLastErrorIsTheThreadsOwnAndIsClearedByReading) {
  EXPECT_EQ(cudaSetDevice(99), cudaErrorInvalidDevice);
  std::thread([] { EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess); }).join();
  EXPECT_EQ(cudaMemGetInfo(std::vector<size_t>(1).data(), std::vector<size_t>(1).data()), cudaSuccess);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidDevice);  // a success in between does not clear it
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(Cuda, ErrorsHaveTheirNames) {
  EXPECT_STREQ(cudaGetErrorName(cudaSuccess), "cudaSuccess");
  EXPECT_STREQ(cudaGetErrorString(cudaSuccess), "no error");
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorStreamCaptureUnsupported),
               "operation not permitted when stream is capturing");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorStreamCaptureImplicit),
               "operation would make the legacy stream depend on a capturing blocking stream");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorStreamCaptureUnmatched),
               "capture was not ended in the same stream as it began");
  EXPECT_STREQ(cudaGetErrorName(cudaError_t(54321)), "unrecognized error code");
}

TEST_F(Cuda, NullHandlesAreRefused) {
  cudaGraphExec_t exec = nullptr;
  EXPECT_EQ(cudaStreamDestroy(nullptr), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventDestroy(nullptr), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGraphDestroy(nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphExecDestroy(nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphInstantiate(&exec, nullptr, 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphLaunch(nullptr, stream), cudaErrorInvalidValue);
}

TEST_F(Cuda, UnknownFlagsAreRefused) {
  cudaStream_t s = nullptr;
  cudaEvent_t e = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&s, 64), cudaErrorInvalidValue);
  EXPECT_EQ(cudaEventCreateWithFlags(&e, 64), cudaErrorInvalidValue);
}

TEST_F(Cuda, AForkedChildHasNoCudaAndItsParentKeepsIts) {
  Floats x(32);
  const pid_t child = fork();
  if (child == 0) {
    void* p = nullptr;
    int device = 0;
    const bool refused = cudaMalloc(&p, 64) == cudaErrorInitializationError &&
                         cudaGetDevice(&device) == cudaErrorInitializationError &&
                         cudaFree(x.data) == cudaErrorInitializationError &&
                         cudaStreamSynchronize(stream) == cudaErrorInitializationError;
    _exit(refused ? 7 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  x.zero();
  launch(add_one, dim3(1), dim3(32), 0, stream, x.data);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 1.0f);
}

// Breaks its device for good, so it runs in a process of its own. Exits with the number of surprises.
[[noreturn]] void live_with_a_broken_device() {
  int surprises = 0;
  const auto expect = [&](const char* what, cudaError_t found, cudaError_t expected) {
    if (found == expected) return;
    ++surprises;
    std::fprintf(stderr, "%s: %s, expected %s\n", what, cudaGetErrorName(found), cudaGetErrorName(expected));
  };
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  void *p = nullptr, *q = nullptr, *pinned = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  expect("stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  expect("event", cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  expect("memory", cudaMalloc(&p, 64), cudaSuccess);
  expect("pinned memory", cudaMallocHost(&pinned, 64), cudaSuccess);
  expect("capture", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  launch(trap, dim3(1), dim3(1), 0, stream, 1);
  expect("end of capture", cudaStreamEndCapture(stream, &graph), cudaSuccess);
  expect("instantiate", cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);

  expect("the launch that breaks it", cudaGraphLaunch(exec, stream), cudaSuccess);
  const cudaError_t broken = cudaErrorLaunchFailure;
  expect("synchronize", cudaStreamSynchronize(stream), broken);
  expect("synchronize again", cudaStreamSynchronize(stream), broken);
  expect("last error", cudaGetLastError(), broken);
  expect("last error, read again", cudaGetLastError(), cudaSuccess);  // cleared, and yet:
  expect("cudaMalloc", cudaMalloc(&q, 64), broken);
  expect("cudaMemsetAsync", cudaMemsetAsync(p, 0, 64, stream), broken);
  expect("cudaGraphLaunch", cudaGraphLaunch(exec, stream), broken);
  expect("cudaEventRecord", cudaEventRecord(event, stream), broken);
  expect("cudaEventQuery", cudaEventQuery(event), broken);
  std::thread([&] {
    expect("last error of another thread", cudaGetLastError(), cudaSuccess);
    expect("cudaStreamSynchronize in another thread", cudaStreamSynchronize(stream), broken);
  }).join();
  expect("cudaFree", cudaFree(p), broken);
  expect("cudaFreeHost", cudaFreeHost(pinned), broken);
  expect("cudaGraphExecDestroy", cudaGraphExecDestroy(exec), cudaSuccess);
  expect("cudaGraphDestroy", cudaGraphDestroy(graph), cudaSuccess);
  expect("cudaEventDestroy", cudaEventDestroy(event), broken);
  expect("cudaStreamDestroy", cudaStreamDestroy(stream), broken);
  int value = 0;
  expect("cudaGetDevice", cudaGetDevice(&value), cudaSuccess);
  expect("cudaDeviceReset", cudaDeviceReset(), cudaSuccess);  // a claim only
  expect("cudaMalloc after the reset", cudaMalloc(&q, 64), cudaErrorDevicesUnavailable);
  std::exit(surprises);
}

TEST(CudaDeathTest, ABrokenDeviceStaysBroken) {
  if (!device_exists()) GTEST_SKIP() << "no CUDA device";
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fresh process, not a forked child
  EXPECT_EXIT(live_with_a_broken_device(), testing::ExitedWithCode(0), "");
}

}  // namespace
