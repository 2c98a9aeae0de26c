// What capture forbids, and to whom: the rules of the CUDA runtime as a real GPU showed them. Like
// cuda_conformance_test.cc it runs on the stand-in and, built with nvcc, on a real GPU.
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;

constexpr auto kThreadLocal = cudaStreamCaptureModeThreadLocal;
constexpr auto kGlobal = cudaStreamCaptureModeGlobal;
constexpr auto kRelaxed = cudaStreamCaptureModeRelaxed;

// What a call did to a capture that was open on a stream, with one kernel in it.
struct Outcome {
  cudaError_t call = cudaSuccess;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaError_t next = cudaSuccess;  // an operation enqueued after it
  cudaError_t end = cudaSuccess;
  size_t nodes = 0;
};

class Capture : public Cuda {
 protected:
  void SetUp() override {
    Cuda::SetUp();
    if (IsSkipped()) return;
    EXPECT_EQ(cudaMalloc(&memory_, 1024), cudaSuccess);
    EXPECT_EQ(cudaMallocHost(&pinned_, 1024), cudaSuccess);
    EXPECT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDefault), cudaSuccess);
    EXPECT_EQ(cudaEventCreateWithFlags(&captured_, cudaEventDisableTiming), cudaSuccess);
    EXPECT_EQ(cudaStreamBeginCapture(stream, kRelaxed), cudaSuccess);
    launch(add_one, dim3(1), dim3(32), 0, stream, floats());
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph_), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec_, graph_, 0), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event_, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    EXPECT_EQ(cudaGraphExecDestroy(exec_), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(captured_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned_), cudaSuccess);
    EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    Cuda::TearDown();
  }
  float* floats() const { return static_cast<float*>(memory_); }

  // Opens a capture on a stream of its own, makes the call, in another thread if asked, and ends the capture.
  // Afterwards the stream must work as ever.
  template <class F>
  Outcome in_capture(cudaStreamCaptureMode mode, unsigned flags, bool other_thread, F call) {
    Outcome o;
    Stream s(flags);
    EXPECT_EQ(cudaStreamBeginCapture(s.get, mode), cudaSuccess);
    launch(add_one, dim3(1), dim3(32), 0, s.get, floats());
    if (other_thread)
      std::thread([&] {
        o.call = call(s.get);
        cudaGetLastError();
      }).join();
    else
      o.call = call(s.get);
    EXPECT_EQ(cudaStreamIsCapturing(s.get, &o.status), cudaSuccess);
    o.next = cudaMemsetAsync(memory_, 0, 4, s.get);
    cudaGraph_t graph = nullptr;
    o.end = cudaStreamEndCapture(s.get, &graph);
    if (graph) {
      EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &o.nodes), cudaSuccess);
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    }
    cudaGetLastError();
    EXPECT_EQ(cudaMemsetAsync(memory_, 0, 4, s.get), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(s.get), cudaSuccess);
    return o;
  }

  static void expect_spoilt(const Outcome& o, cudaError_t error) {
    EXPECT_STREQ(cudaGetErrorName(o.call), cudaGetErrorName(error));
    EXPECT_EQ(o.status, cudaStreamCaptureStatusInvalidated);
    EXPECT_STREQ(cudaGetErrorName(o.next), "cudaErrorStreamCaptureInvalidated");
    EXPECT_STREQ(cudaGetErrorName(o.end), "cudaErrorStreamCaptureInvalidated");
  }
  static void expect_unharmed(const Outcome& o, cudaError_t error = cudaSuccess, size_t nodes = 2) {
    EXPECT_STREQ(cudaGetErrorName(o.call), cudaGetErrorName(error));
    EXPECT_EQ(o.status, cudaStreamCaptureStatusActive);
    EXPECT_STREQ(cudaGetErrorName(o.next), "cudaSuccess");
    EXPECT_STREQ(cudaGetErrorName(o.end), "cudaSuccess");
    EXPECT_EQ(o.nodes, nodes);
  }

  void* memory_ = nullptr;
  void* pinned_ = nullptr;
  cudaEvent_t event_ = nullptr;     // recorded and complete
  cudaEvent_t captured_ = nullptr;  // for captures to record
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

// Runs f as a thread that minds no capture.
template <class F>
cudaError_t relaxed(F f) {
  cudaStreamCaptureMode mode = kRelaxed;
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  const cudaError_t e = f();
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  return e;
}

using Call = std::pair<const char*, std::function<cudaError_t(cudaStream_t)>>;

// ---- in each mode, by the capturing thread and by another

struct Situation {
  cudaStreamCaptureMode mode;
  bool other_thread;
};
std::string situation_name(const testing::TestParamInfo<Situation>& info) {
  const char* mode = info.param.mode == kGlobal    ? "Global"
                     : info.param.mode == kRelaxed ? "Relaxed"
                                                   : "ThreadLocal";
  return std::string(mode) + (info.param.other_thread ? "FromAnotherThread" : "");
}
class EachMode : public Capture, public testing::WithParamInterface<Situation> {};
INSTANTIATE_TEST_SUITE_P(Modes, EachMode,
                         testing::Values(Situation{kThreadLocal, false}, Situation{kThreadLocal, true},
                                         Situation{kGlobal, false}, Situation{kGlobal, true},
                                         Situation{kRelaxed, false}, Situation{kRelaxed, true}),
                         situation_name);

// Calls that could wait for, or be mixed up with, work that is not there yet: refused to the capturing
// thread, and in Global mode to every thread; never in Relaxed mode.
TEST_P(EachMode, UnsafeCallsAreRefusedToWhoeverMinds) {
  const auto [mode, other_thread] = GetParam();
  const std::vector<Call> calls = {
      {"cudaMalloc",
       [&](cudaStream_t) {
         void* p = nullptr;
         const cudaError_t e = cudaMalloc(&p, 64);
         if (!e) {
           EXPECT_EQ(cudaFree(p), cudaSuccess);
         }
         return e;
       }},
      {"cudaFree",
       [&](cudaStream_t) {
         void* p = nullptr;
         EXPECT_EQ(relaxed([&] { return cudaMalloc(&p, 64); }), cudaSuccess);
         const cudaError_t e = cudaFree(p);
         if (e) {
           EXPECT_EQ(relaxed([&] { return cudaFree(p); }), cudaSuccess);
         }
         return e;
       }},
      {"cudaFree of null", [&](cudaStream_t) { return cudaFree(nullptr); }},
      {"cudaMallocHost",
       [&](cudaStream_t) {
         void* p = nullptr;
         const cudaError_t e = cudaMallocHost(&p, 64);
         if (!e) {
           EXPECT_EQ(cudaFreeHost(p), cudaSuccess);
         }
         return e;
       }},
      {"cudaHostAlloc",
       [&](cudaStream_t) {
         void* p = nullptr;
         const cudaError_t e = cudaHostAlloc(&p, 64, cudaHostAllocDefault);
         if (!e) {
           EXPECT_EQ(cudaFreeHost(p), cudaSuccess);
         }
         return e;
       }},
      {"cudaFreeHost",
       [&](cudaStream_t) {
         void* p = nullptr;
         EXPECT_EQ(relaxed([&] { return cudaMallocHost(&p, 64); }), cudaSuccess);
         const cudaError_t e = cudaFreeHost(p);
         if (e) {
           EXPECT_EQ(relaxed([&] { return cudaFreeHost(p); }), cudaSuccess);
         }
         return e;
       }},
      {"cudaGraphInstantiate",
       [&](cudaStream_t) {
         cudaGraphExec_t exec = nullptr;
         const cudaError_t e = cudaGraphInstantiate(&exec, graph_, 0);
         if (!e) {
           EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
         }
         return e;
       }},
      {"cudaGraphExecDestroy",
       [&](cudaStream_t) {
         cudaGraphExec_t exec = nullptr;
         EXPECT_EQ(relaxed([&] { return cudaGraphInstantiate(&exec, graph_, 0); }), cudaSuccess);
         const cudaError_t e = cudaGraphExecDestroy(exec);
         if (e) {
           EXPECT_EQ(relaxed([&] { return cudaGraphExecDestroy(exec); }), cudaSuccess);
         }
         return e;
       }},
      {"cudaStreamSynchronize of another stream",
       [&](cudaStream_t) { return cudaStreamSynchronize(stream); }},
      {"cudaStreamSynchronize of the legacy stream",
       [&](cudaStream_t) { return cudaStreamSynchronize(nullptr); }},
      {"cudaStreamQuery of another stream", [&](cudaStream_t) { return cudaStreamQuery(stream); }},
      {"cudaEventSynchronize", [&](cudaStream_t) { return cudaEventSynchronize(event_); }},
      {"cudaEventQuery", [&](cudaStream_t) { return cudaEventQuery(event_); }},
  };
  const bool refused = mode == kGlobal || (mode == kThreadLocal && !other_thread);
  for (const auto& [name, call] : calls) {
    SCOPED_TRACE(name);
    const Outcome o = in_capture(mode, cudaStreamNonBlocking, other_thread, call);
    if (refused)
      expect_spoilt(o, cudaErrorStreamCaptureUnsupported);
    else
      expect_unharmed(o);
  }
}

// Waiting for the capturing stream itself, or for everything, cannot end: refused to all.
TEST_P(EachMode, WaitingForTheCaptureIsRefusedToAll) {
  const auto [mode, other_thread] = GetParam();
  const std::vector<Call> calls = {
      {"cudaStreamSynchronize", [](cudaStream_t s) { return cudaStreamSynchronize(s); }},
      {"cudaStreamQuery", [](cudaStream_t s) { return cudaStreamQuery(s); }},
      {"cudaDeviceSynchronize", [](cudaStream_t) { return cudaDeviceSynchronize(); }},
      {"cudaGraphLaunch", [&](cudaStream_t s) { return cudaGraphLaunch(exec_, s); }},
      {"cudaGraphUpload", [&](cudaStream_t s) { return cudaGraphUpload(exec_, s); }},
  };
  for (const auto& [name, call] : calls) {
    SCOPED_TRACE(name);
    expect_spoilt(in_capture(mode, cudaStreamNonBlocking, other_thread, call),
                  cudaErrorStreamCaptureUnsupported);
  }
}

TEST_P(EachMode, HarmlessCallsAreAllowed) {
  const auto [mode, other_thread] = GetParam();
  const std::vector<Call> calls = {
      {"cudaMalloc of nothing",
       [](cudaStream_t) {
         void* p = nullptr;
         return cudaMalloc(&p, 0);
       }},
      {"cudaMalloc by a thread that minds no capture",
       [](cudaStream_t) {
         return relaxed([] {
           void* p = nullptr;
           const cudaError_t e = cudaMalloc(&p, 64);
           return e ? e : cudaFree(p);
         });
       }},
      {"cudaMemcpy", [&](cudaStream_t) { return cudaMemcpy(pinned_, memory_, 64, cudaMemcpyDeviceToHost); }},
      {"cudaMemset", [&](cudaStream_t) { return cudaMemset(memory_, 0, 64); }},
      {"launch on the legacy stream",
       [&](cudaStream_t) {
         launch(add_one, dim3(1), dim3(32), 0, nullptr, floats());
         return cudaSuccess;
       }},
      {"launch on another stream",
       [&](cudaStream_t) {
         launch(add_one, dim3(1), dim3(32), 0, stream, floats());
         return cudaSuccess;
       }},
      {"cudaGraphLaunch on another stream", [&](cudaStream_t) { return cudaGraphLaunch(exec_, stream); }},
      {"cudaGraphUpload on another stream", [&](cudaStream_t) { return cudaGraphUpload(exec_, stream); }},
      {"cudaEventCreate",
       [](cudaStream_t) {
         cudaEvent_t e = nullptr;
         const cudaError_t error = cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
         return error ? error : cudaEventDestroy(e);
       }},
      {"cudaEventRecord on another stream", [&](cudaStream_t) { return cudaEventRecord(event_, stream); }},
      {"cudaStreamCreate",
       [](cudaStream_t) {
         cudaStream_t s = nullptr;
         const cudaError_t error = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
         return error ? error : cudaStreamDestroy(s);
       }},
      {"cudaStreamWaitEvent of an event never recorded",
       [](cudaStream_t s) {
         Event never;
         return cudaStreamWaitEvent(s, never.get, 0);
       }},
      {"cudaStreamWaitEvent of the capture's own event",
       [&](cudaStream_t s) {
         const cudaError_t e = cudaEventRecord(captured_, s);
         return e ? e : cudaStreamWaitEvent(s, captured_, 0);
       }},
      {"cudaMemGetInfo",
       [](cudaStream_t) {
         size_t free_bytes = 0, total = 0;
         return cudaMemGetInfo(&free_bytes, &total);
       }},
      {"cudaFuncSetAttribute",
       [](cudaStream_t) {
         return cudaFuncSetAttribute(reinterpret_cast<const void*>(&add_one),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, 48 * 1024);
       }},
      {"cudaDeviceGetAttribute",
       [](cudaStream_t) {
         int value = 0;
         return cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 0);
       }},
      {"a capture of another stream",
       [&](cudaStream_t) {
         Stream s(cudaStreamNonBlocking);
         cudaGraph_t graph = nullptr;
         EXPECT_EQ(cudaStreamBeginCapture(s.get, GetParam().mode), cudaSuccess);
         const cudaError_t e = cudaStreamEndCapture(s.get, &graph);
         return e ? e : cudaGraphDestroy(graph);
       }},
  };
  for (const auto& [name, call] : calls) {
    SCOPED_TRACE(name);
    expect_unharmed(in_capture(mode, cudaStreamNonBlocking, other_thread, call));
    cudaStreamSynchronize(stream);
    cudaStreamSynchronize(nullptr);
  }
}

// ---- how the thread minds captures

TEST_F(Capture, AThreadThatMindsItsOwnCapturesLetsOthersBe) {
  const auto allocate = [] {
    void* p = nullptr;
    const cudaError_t e = cudaMalloc(&p, 64);
    return e ? e : cudaFree(p);
  };
  const auto as_thread_local = [&](cudaStream_t) {
    cudaStreamCaptureMode mode = kThreadLocal;
    EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
    EXPECT_EQ(mode, kGlobal) << "a thread's mode at its start";
    const cudaError_t e = allocate();
    EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
    EXPECT_EQ(mode, kThreadLocal);
    return e;
  };
  const bool in_another_thread = true;
  expect_unharmed(in_capture(kGlobal, cudaStreamNonBlocking, in_another_thread, as_thread_local));
  expect_unharmed(in_capture(kRelaxed, cudaStreamNonBlocking, false, as_thread_local));
  for (const cudaStreamCaptureMode mode : {kGlobal, kThreadLocal})
    expect_spoilt(in_capture(mode, cudaStreamNonBlocking, false, as_thread_local),
                  cudaErrorStreamCaptureUnsupported);
}

// ---- in one mode

TEST_F(Capture, ACopyThatCannotBeIsRefusedAndSpoilsNothing) {
  expect_unharmed(in_capture(kThreadLocal, cudaStreamNonBlocking, false,
                             [&](cudaStream_t s) {
                               return cudaMemcpyAsync(nullptr, pinned_, 64, cudaMemcpyHostToDevice, s);
                             }),
                  cudaErrorInvalidValue);
  expect_unharmed(in_capture(kThreadLocal, cudaStreamNonBlocking, false,
                             [&](cudaStream_t s) {
                               return cudaMemcpyAsync(memory_, pinned_, size_t(1) << 41,
                                                      cudaMemcpyHostToDevice, s);
                             }),
                  cudaErrorInvalidValue);
}

TEST_F(Capture, ALaunchBeyondTheLimitsSpoils) {
  for (auto [threads, shared] : {std::pair{2048u, size_t(0)}, {32u, size_t(300) * 1024}}) {
    SCOPED_TRACE(threads);
    const Outcome o = in_capture(kThreadLocal, cudaStreamNonBlocking, false, [&](cudaStream_t s) {
      EXPECT_THROW(launch(add_shared, dim3(1), dim3(threads), shared, s, floats()), rondo::Error);
      return cudaErrorInvalidValue;
    });
    expect_spoilt(o, cudaErrorInvalidValue);
  }
}

TEST_F(Capture, TheLegacyStreamSpoilsABlockingStreamsCapture) {
  const std::vector<Call> calls = {
      {"cudaMemcpy", [&](cudaStream_t) { return cudaMemcpy(pinned_, memory_, 64, cudaMemcpyDeviceToHost); }},
      {"cudaMemset", [&](cudaStream_t) { return cudaMemset(memory_, 0, 64); }},
      {"cudaMemsetAsync", [&](cudaStream_t) { return cudaMemsetAsync(memory_, 0, 64, nullptr); }},
      {"cudaStreamSynchronize", [](cudaStream_t) { return cudaStreamSynchronize(nullptr); }},
      {"cudaStreamQuery", [](cudaStream_t) { return cudaStreamQuery(nullptr); }},
      {"cudaEventRecord", [&](cudaStream_t) { return cudaEventRecord(event_, nullptr); }},
  };
  for (cudaStreamCaptureMode mode : {kThreadLocal, kGlobal, kRelaxed})
    for (const auto& [name, call] : calls) {
      SCOPED_TRACE(name);
      expect_spoilt(in_capture(mode, cudaStreamDefault, false, call), cudaErrorStreamCaptureImplicit);
    }
  expect_unharmed(in_capture(kThreadLocal, cudaStreamDefault, false,
                             [](cudaStream_t) {
                               cudaStreamCaptureStatus status{};
                               return cudaStreamIsCapturing(nullptr, &status);
                             }),
                  cudaErrorStreamCaptureImplicit);
}

TEST_F(Capture, BeginningTwiceIsRefusedAndSpoilsNothing) {
  expect_unharmed(in_capture(kThreadLocal, cudaStreamNonBlocking, false,
                             [](cudaStream_t s) { return cudaStreamBeginCapture(s, kThreadLocal); }),
                  cudaErrorIllegalState);
}

TEST_F(Capture, TheLegacyStreamCannotBeCaptured) {
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, kThreadLocal), cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = graph_;
  EXPECT_EQ(cudaStreamEndCapture(nullptr, &graph), cudaErrorIllegalState);
}

TEST_F(Capture, EndingWithoutACaptureIsRefused) {
  cudaGraph_t graph = graph_;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorIllegalState);
  EXPECT_EQ(graph, nullptr);
}

TEST_F(Capture, EndingInAnotherThreadLosesTheCaptureUnlessRelaxed) {
  for (cudaStreamCaptureMode mode : {kThreadLocal, kGlobal, kRelaxed}) {
    ASSERT_EQ(cudaStreamBeginCapture(stream, mode), cudaSuccess);
    cudaGraph_t graph = nullptr;
    cudaError_t e = cudaSuccess;
    std::thread([&] { e = cudaStreamEndCapture(stream, &graph); }).join();
    EXPECT_EQ(e, mode == kRelaxed ? cudaSuccess : cudaErrorStreamCaptureWrongThread);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
    EXPECT_EQ(cudaStreamIsCapturing(stream, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusNone);
    if (graph) {
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    }
  }
}

TEST_F(Capture, ASpoiltCaptureSaysSoToWhoeverEndsIt) {
  for (cudaStreamCaptureMode mode : {kThreadLocal, kGlobal, kRelaxed}) {
    ASSERT_EQ(cudaStreamBeginCapture(stream, mode), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    std::thread([&] {
      EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    }).join();
    EXPECT_EQ(graph, nullptr);
  }
}

TEST_F(Capture, AnEmptyCaptureIsAGraph) {
  Graph graph(stream, kThreadLocal, [] {});
  size_t nodes = 99;
  EXPECT_EQ(cudaGraphGetNodes(graph.graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 0u);
  EXPECT_EQ(cudaGraphLaunch(graph.exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
}

TEST_F(Capture, ACapturedEventIsNoMoment) {
  for (bool query : {true, false}) {
    SCOPED_TRACE(query);
    expect_spoilt(in_capture(kRelaxed, cudaStreamNonBlocking, false,
                             [&](cudaStream_t s) {
                               EXPECT_EQ(cudaEventRecord(captured_, s), cudaSuccess);
                               return query ? cudaEventQuery(captured_) : cudaEventSynchronize(captured_);
                             }),
                  cudaErrorCapturedEvent);
  }
}

TEST_F(Capture, ACapturedEventIsInvalidAfterwardsUntilRecordedAgain) {
  ASSERT_EQ(cudaStreamBeginCapture(stream, kThreadLocal), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(captured_, stream), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(captured_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaEventSynchronize(captured_), cudaErrorInvalidValue);
  EXPECT_EQ(cudaStreamWaitEvent(stream, captured_, 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaEventRecord(captured_, stream), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(captured_), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(Capture, WaitingForWorkOutsideTheCaptureSpoils) {
  expect_spoilt(in_capture(kRelaxed, cudaStreamNonBlocking, false,
                           [&](cudaStream_t s) { return cudaStreamWaitEvent(s, event_, 0); }),
                cudaErrorStreamCaptureIsolation);
}

TEST_F(Capture, AStreamDestroyedWhileCapturingTakesTheCaptureWithIt) {
  cudaStream_t s = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(s, kGlobal), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 64), cudaSuccess);
  EXPECT_EQ(cudaFree(p), cudaSuccess);
}

}  // namespace
