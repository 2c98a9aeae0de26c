// The life of an engine on a device: lost, left behind, shared by threads and processes. One text for the
// stand-in and for a real GPU, but for what only a real one does; the case numbers are those of
// tests/README.md.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <future>
#include <memory>
#include <thread>

#include "runner/engine_core.h"
#include "tests/cuda_tiny.h"

namespace rondo {
namespace {

using test::generate;
using test::greedy;
using test::some_tokens;

class CudaLife : public test::CudaTiny {
 protected:
  CudaLife() : CudaTiny({1, 2, 4}, 4, 32, true) {}

  std::vector<Request> requests() {
    return {greedy(some_tokens(5, kVocab, 1), 8), greedy(some_tokens(2, kVocab, 2), 8),
            greedy(some_tokens(9, kVocab, 3), 8)};
  }
};

// What is left of a process after it happens is of no use to other tests: it happens in a process of its own.
class CudaLifeDeathTest : public CudaLife {
 protected:
  void SetUp() override {
    CudaLife::SetUp();
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // which starts the program anew
  }
};

#ifndef RONDO_SIMT  // where kernels would read this process's own memory
TEST_F(CudaLifeDeathTest, B32_AfterAnIllegalAccessLaterCallsNameTheFirstCauseAndTheProcessEnds) {
  const auto lose_the_device = [&] {
    {
      EngineCore core(config_.path(), options_);
      core.scheduler().add(requests()[0]);
      core.step();
      const View tables = core.buffers().page_tables;
      core.device().fill(tables.data, 0x7f, tables.bytes());  // pages far beyond all memory
      std::string first;
      for (int call = 0; call < 3; ++call) {
        try {
          core.step();
          core.device().synchronize();
          std::exit(2);
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::DeviceLost) std::exit(3);
          if (first.empty()) first = error.what();
          if (std::string(error.what()).find("illegal") == std::string::npos) std::exit(4);
        }
      }
    }  // the destructor returns
    std::exit(0);
  };
  EXPECT_EXIT(lose_the_device(), testing::ExitedWithCode(0), "");
}

#endif

// With a step in flight. The driver may be gone by then: on the stand-in it is.
TEST_F(CudaLifeDeathTest, B37_AnEngineThatOutlivesMainIsSilent) {
  const auto leave_it = [&] {
    static std::unique_ptr<Engine> engine;
    engine = std::make_unique<Engine>(open());
    engine->add(requests()[0]);
    for (int i = 0; i < 2; ++i) engine->step();
#ifdef RONDO_SIMT
    std::atexit(fake::unload_driver);  // before the engine's destructor
#endif
    std::exit(0);
  };
  EXPECT_EXIT(leave_it(), testing::ExitedWithCode(0), testing::Eq(""));
}

#ifdef RONDO_SIMT
TEST_F(CudaLifeDeathTest, B37_OnceTheDriverIsGoneCallsSaySoAndDestructionIsSilent) {
  const auto outlive_the_driver = [&] {
    {
      Engine engine = open();
      engine.add(requests()[0]);
      for (int i = 0; i < 2; ++i) engine.step();
      fake::unload_driver();
      for (int call = 0; call < 2; ++call) {
        try {
          engine.step();
          std::exit(2);
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::DeviceLost) std::exit(3);
          if (std::string(error.what()).find("cudaErrorCudartUnloading") == std::string::npos) std::exit(4);
        }
      }
    }
    std::exit(fake::misuse().empty() ? 0 : 5);
  };
  EXPECT_EXIT(outlive_the_driver(), testing::ExitedWithCode(0), testing::Eq(""));
}
#endif

// A capture of the caller's on a stream of its own, of one operation that begin() enqueues and one that end()
// does.
class CallersCapture {
 public:
  CallersCapture() {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaMalloc(&memory_, 64), cudaSuccess);
  }
  ~CallersCapture() {
    EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
  }
  CallersCapture(const CallersCapture&) = delete;
  CallersCapture& operator=(const CallersCapture&) = delete;

  void begin(cudaStreamCaptureMode mode) {
    EXPECT_EQ(cudaStreamBeginCapture(stream_, mode), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(memory_, 0, 64, stream_), cudaSuccess);
  }
  void expect_active() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  }
  void end() {
    EXPECT_EQ(cudaMemsetAsync(memory_, 1, 64, stream_), cudaSuccess);
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    size_t nodes = 0;
    EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
    EXPECT_EQ(nodes, 2u);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }

 private:
  cudaStream_t stream_ = nullptr;
  void* memory_ = nullptr;
};

// How the calling thread minds captures, set to Global, CUDA's default.
cudaStreamCaptureMode exchange_thread_mode() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&mode), cudaSuccess);
  return mode;
}

// Opened, captured lazily, and generated by one launch, all within; gone only behind it, as engine.h says.
TEST_F(CudaLife, B22_TheCallersOwnCaptureIsLeftAloneInEveryMode) {
  options_.buckets = {1, 2};
  options_.max_rows = options_.max_logit_rows = options_.max_sequences = 2;
  const std::vector<Request> work = {greedy(some_tokens(5, kVocab, 1), 4),
                                     greedy(some_tokens(2, kVocab, 2), 4)};
  Engine before = open();
  const auto expected = generate(before, work);
  CallersCapture capture;
  for (const auto mode :
       {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed}) {
    SCOPED_TRACE(mode);
    std::vector<Engine> opened;
    capture.begin(mode);
    EXPECT_EQ(generate(before, work), expected);
    capture.expect_active();
    for (const GraphMode graph : {GraphMode::Require, GraphMode::Lazy}) {
      options_.graph = graph;
      options_.one_launch = graph == GraphMode::Require;
      opened.push_back(open());
      Engine& within = opened.back();
      capture.expect_active();
      EXPECT_EQ(generate(within, work), expected);
      std::vector<SequenceId> ids;
      for (const Request& request : work) ids.push_back(within.add(request));
      within.generate([](const Output&) {});
      for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(within.tokens(ids[i]), expected[i]);
      EXPECT_THROW(within.tokens(99), Error);
      EXPECT_EQ(within.stats().buckets.size(), 2u);
      EXPECT_EQ(within.stats().eager_off, 0u);
      if (options_.one_launch) {
        EXPECT_EQ(within.stats().one_launch, "on");
      }
    }
    capture.expect_active();
    capture.end();
    EXPECT_EQ(exchange_thread_mode(), cudaStreamCaptureModeGlobal);
  }
}

// In Global mode it minds what every thread does.
TEST_F(CudaLife, B22_ACaptureInAnotherThreadIsLeftAlone) {
  Engine before = open();
  const auto expected = generate(before, {requests()[0]});
  CallersCapture capture;
  std::promise<void> begun, used;
  std::thread other([&] {
    capture.begin(cudaStreamCaptureModeGlobal);
    begun.set_value();
    used.get_future().wait();
    capture.expect_active();
    capture.end();
  });
  begun.get_future().wait();
  Engine within = open();
  EXPECT_EQ(generate(within, {requests()[0]}), expected);
  EXPECT_EQ(generate(before, {requests()[0]}), expected);
  used.set_value();
  other.join();
  cudaStreamCaptureMode relaxed = cudaStreamCaptureModeRelaxed;
  EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&relaxed), cudaSuccess);
  EXPECT_EQ(relaxed, cudaStreamCaptureModeGlobal) << "what the thread had is put back";
  before.busy();
  EXPECT_EQ(exchange_thread_mode(), cudaStreamCaptureModeRelaxed) << "what the thread had is put back";
}

TEST_F(CudaLife, B9_TheLastPositionWorksThenContextFullThenCutBackAndContinued) {
  Engine engine = open();
  const SequenceId id = engine.add(greedy(some_tokens(26, kVocab, 2), 1000));
  const SequenceId beside = engine.add(requests()[0]);
  FinishReason finish = FinishReason::None;
  while (engine.busy())
    for (const Output& output : engine.step())
      if (output.sequence == id) finish = output.finish;
  EXPECT_EQ(finish, FinishReason::ContextFull);
  EXPECT_EQ(engine.finish_reason(id), FinishReason::ContextFull);
  const auto full = engine.tokens(id);
  EXPECT_EQ(full.size(), 33u);  // 32 positions fed, and the token that the last of them made
  engine.resume(id, 29, 3);
  while (engine.busy()) engine.step();
  EXPECT_EQ(engine.tokens(id), std::vector<int32_t>(full.begin(), full.begin() + 32));
  EXPECT_EQ(engine.finish_reason(id), FinishReason::Length);
  engine.resume(id, 31, 1000);
  while (engine.busy()) engine.step();
  EXPECT_EQ(engine.tokens(id), full);
  EXPECT_EQ(engine.finish_reason(id), FinishReason::ContextFull);
  EXPECT_EQ(engine.finish_reason(beside), FinishReason::Length);
}

TEST_F(CudaLife, B36_AnEngineMayGoWithAReplayInFlight) {
  const auto expected = [&] {
    Engine engine = open();
    return generate(engine, requests());
  }();
  for (int i = 0; i < 3; ++i) {
    Engine engine = open();
    engine.add(requests()[0]);
    engine.step();
  }
  Engine engine = open();
  EXPECT_EQ(generate(engine, requests()), expected);
}

TEST_F(CudaLife, B38_TwoEnginesInterleaved) {
  Engine a = open(), b = open();
  const auto expected = generate(a, requests());
  std::vector<SequenceId> ids_a, ids_b;
  for (const Request& r : requests()) {
    ids_a.push_back(a.add(r));
    ids_b.push_back(b.add(r));
  }
  while (a.busy() || b.busy()) {
    a.step();
    b.step();
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(a.tokens(ids_a[i]), expected[i]);
    EXPECT_EQ(b.tokens(ids_b[i]), expected[i]);
  }
}

TEST_F(CudaLife, B39_TwoThreadsOnOneEngineEitherTakeTurnsOrAreToldOfMisuse) {
  Engine engine = open();
  const auto expected = generate(engine, {requests()[0]}).front();
  const SequenceId id = engine.add(requests()[0]);
  test::step_in_two_threads(engine);
  EXPECT_EQ(engine.tokens(id), expected);
}

TEST_F(CudaLife, B40_BuiltUsedAndDestroyedInThreeThreads) {
  Engine reference = open();
  const auto expected = generate(reference, requests());
  std::unique_ptr<Engine> engine;
  std::thread([&] { engine = std::make_unique<Engine>(open()); }).join();
  std::thread([&] { EXPECT_EQ(generate(*engine, requests()), expected); }).join();
  std::thread([&] { engine.reset(); }).join();
}

TEST_F(CudaLife, B41_AForkedChildIsToldAndTheParentUntouched) {
  Engine engine = open();
  const auto expected = generate(engine, requests());
  EXPECT_TRUE(test::a_forked_child_is_refused(engine));
  EXPECT_EQ(generate(engine, requests()), expected);
}

}  // namespace
}  // namespace rondo
