// The whole engine on the CUDA backend: load, capture, replay. The same text runs on the stand-in in CI and
// on a real GPU, where there is one; the case numbers are those of tests/README.md.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "buffers/cuda_device.h"
#include "runner/engine_core.h"
#include "runner/step.h"
#include "tests/cuda_test.h"
#include "tests/support.h"
#ifdef RONDO_SIMT
#include "tests/simt/fake_cudart.h"
#endif

namespace rondo {
namespace {

using test::generate;
using test::greedy;
using test::some_tokens;
using test::tiny_options;
using test::TinyConfig;

#ifdef RONDO_SIMT  // runs every CUDA thread on the host, some hundred times slower than a GPU
constexpr int kEngineVocab = 64;
const test::TinySizes kSizes{
    .hidden = 32, .intermediate = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .vocab = kEngineVocab};
#else
constexpr int kEngineVocab = 320;
const test::TinySizes kSizes{.vocab = kEngineVocab};
#endif

class CudaEngine : public test::CudaTest {
 protected:
  EngineOptions options(GraphMode graph = GraphMode::Auto) {
    EngineOptions o = tiny_options(DeviceKind::Cuda);
    o.graph = graph;
    o.buckets = {1, 2, 4};
    o.max_rows = 4;
    return o;
  }
  std::vector<Request> requests() {
    return {greedy(some_tokens(5, kEngineVocab, 1), 12), greedy(some_tokens(2, kEngineVocab, 2), 12),
            greedy(some_tokens(9, kEngineVocab, 3), 12)};
  }
  TinyConfig config_{kSizes};
};

TEST_F(CudaEngine, ThirtyTwoTokensInABatchAreTheCpuBackends) {
  const std::vector<Request> work = {greedy(some_tokens(5, kEngineVocab, 1), 32),
                                     greedy(some_tokens(11, kEngineVocab, 2), 32)};
  EngineOptions cpu = options();
  cpu.device = DeviceKind::Cpu;
  Engine host = Engine::open(config_.path(), cpu),
         device = Engine::open(config_.path(), options(GraphMode::Require));
  EXPECT_EQ(generate(device, work), generate(host, work));
  const Stats stats = device.stats();
  EXPECT_EQ(stats.replays, stats.steps);
  EXPECT_EQ(stats.eager_off, 0u);
}

TEST_F(CudaEngine, TunedItReplaysWhatItRunsEagerlyAndSaysWhatItTook) {
  EngineOptions o = options(GraphMode::Require);
  o.tune = true;
  Engine tuned = Engine::open(config_.path(), o);
  EngineOptions cpu = options();
  cpu.device = DeviceKind::Cpu;
  Engine host = Engine::open(config_.path(), cpu);
  EXPECT_EQ(generate(tuned, requests()), generate(host, requests()));
  const Stats stats = tuned.stats();
  ASSERT_EQ(stats.forms.size(), std::size(kVerbs) * stats.buckets.size());
  EXPECT_EQ(stats.forms.front().verb, "embed");
  EXPECT_EQ(stats.forms.back().rows, 4);
  for (const FormStats& form : stats.forms)
    EXPECT_FALSE(form.kernels.empty()) << form.rows << " " << form.verb;
}

TEST_F(CudaEngine, B26_GraphEagerLazyAndAFreshEngineGiveTheSameTokens) {
  Engine first = Engine::open(config_.path(), options());
  const auto expected = generate(first, requests());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(generate(first, requests()), expected);
  for (GraphMode graph : {GraphMode::Off, GraphMode::Lazy, GraphMode::Require}) {
    Engine engine = Engine::open(config_.path(), options(graph));
    EXPECT_EQ(generate(engine, requests()), expected) << static_cast<int>(graph);
  }
}

TEST_F(CudaEngine, SampledTokensAreTheSameEagerAndReplayed) {
  Request request = greedy(some_tokens(4, kEngineVocab, 15), 20);
  request.sampling = {.temperature = 0.9f,
                      .top_k = 40,
                      .top_p = 0.95f,
                      .min_p = 0.01f,
                      .repetition_penalty = 1.1f,
                      .seed = 42};
  Engine replayed = Engine::open(config_.path(), options()),
         eager = Engine::open(config_.path(), options(GraphMode::Off));
  const auto alone = generate(replayed, {request}).front();
  EXPECT_EQ(generate(eager, {request}).front(), alone);
  EXPECT_EQ(generate(replayed, {greedy(some_tokens(9, kEngineVocab, 16), 20), request})[1], alone);
}

TEST_F(CudaEngine, B29_AddressesAndTokensAreTheSameAfterAThousandSteps) {
#ifdef RONDO_SIMT
  const TinyConfig small(
      {.hidden = 16, .intermediate = 16, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 8, .vocab = 32});
  const int vocab = 32;
#else
  const TinyConfig& small = config_;
  const int vocab = kEngineVocab;
#endif
  EngineOptions o = options();
  o.buckets = {1};
  o.max_rows = o.max_sequences = 1;
  EngineCore core(small.path(), o);
  const auto addresses = [&] {
    std::vector<const void*> all;
    for (const Arena* arena : core.arenas())
      for (const Placement& p : arena->placements())
        all.push_back(static_cast<const std::byte*>(arena->data()) + p.offset);
    all.push_back(core.buffers().rows.data);
    all.push_back(core.buffers().sampled.data);
    return all;
  };
  const auto before = addresses();
  const uint64_t free_before = core.device().free_bytes();
  const auto prompt = some_tokens(3, vocab, 5);
  std::vector<int32_t> first;
  while (core.stats().steps < 1000) {
    const auto id = core.scheduler().add(greedy(prompt, 50));
    while (core.scheduler().busy()) core.step();
    if (first.empty()) first = core.scheduler().sequence(id).tokens;
    ASSERT_EQ(core.scheduler().sequence(id).tokens, first);
    core.scheduler().remove(id);
  }
  EXPECT_EQ(addresses(), before);
  EXPECT_EQ(core.device().free_bytes(), free_before);
  EXPECT_EQ(core.stats().replays, core.stats().steps);
}

TEST_F(CudaEngine, B20_WhatCannotBeCapturedIsRefusedByNameAndTheStreamGoesOn) {
  EngineCore core(config_.path(), options());  // graphs at the start: every plan is made
  Device& device = core.device();
  const auto recorder = core.backend().make_recorder();
  const auto step = [&] { run_step(core.ops(), core.model(), core.buffers(), bucket_of(core.dims(), 1)); };
  const auto event = device.make_event();
  const std::pair<const char*, std::function<void()>> refused[] = {
      {"cudaMalloc", [&] { device.allocate(256, "memory"); }},
      {"cudaStreamSynchronize", [&] { device.synchronize(); }},
      {"cudaEventQuery",
       [&] {
         event->record();
         event->reached();
       }},
  };
  RecordingCost cost;
  for (const auto& [name, call] : refused) {
    try {
      recorder->record(
          [&, &call = call] {
            step();
            call();
          },
          cost);
      FAIL() << name << " within a capture: expected to be refused";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
    recorder->record(step, cost)->launch();
    device.synchronize();
  }
}

TEST_F(CudaEngine, B21_AnotherThreadMayAllocateWaitAndUseTheLegacyStreamWhileGraphsAreCaptured) {
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0};
  std::string failed;  // the other thread's, until it has ended
  std::thread other([&] {
    const auto made = [&](cudaError_t error, const char* call) {
      if (error != cudaSuccess) failed += std::string(call) + ": " + cudaGetErrorName(error) + "\n";
    };
#define MADE(call) made(call, #call)
    MADE(cudaSetDevice(0));
    cudaStream_t stream = nullptr;
    MADE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (; !stop; ++rounds) {
      void* p = nullptr;
      int word = 7;
      MADE(cudaMalloc(&p, 4096));
      MADE(cudaMemsetAsync(p, 0, 4096, stream));
      MADE(cudaStreamSynchronize(stream));
      MADE(cudaMemcpy(&word, p, sizeof word, cudaMemcpyDeviceToHost));  // on the legacy stream
      MADE(cudaMemsetAsync(p, 1, 4096, nullptr));
      MADE(cudaStreamSynchronize(nullptr));
      MADE(cudaFree(p));
      if (word != 0) failed += "the copy found something else\n";
    }
    MADE(cudaStreamDestroy(stream));
#undef MADE
  });
  while (rounds == 0) std::this_thread::yield();
  const int before = rounds;
  Engine engine = Engine::open(config_.path(), options(GraphMode::Require));
  const int meanwhile = rounds - before;
  stop = true;
  other.join();
  EXPECT_EQ(failed, "");
  EXPECT_GT(meanwhile, 0);
  EXPECT_EQ(engine.stats().buckets.size(), 3u);
}

// A wait for the whole device spoils every capture, whoever asks for it: then the engine says so, and opens
// when it is asked again.
TEST_F(CudaEngine, B21_AWaitForTheWholeDeviceByAnotherThreadIsSurvived) {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    cudaSetDevice(0);
    while (!stop) cudaDeviceSynchronize();
  });
  for (int i = 0; i < 3; ++i) {
    try {
      Engine::open(config_.path(), options(GraphMode::Require));
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("apture"), std::string::npos) << error.what();
    }
  }
  stop = true;
  other.join();
  Engine engine = Engine::open(config_.path(), options(GraphMode::Require));
  EXPECT_EQ(engine.stats().buckets.size(), 3u);
}

// Of a device's memory nothing is left when the k-th bucket is to be recorded. Whether a graph still finds
// room is the driver's to say; that it is told, that nobody's tokens change and that it goes on afterwards is
// ours.
TEST_F(CudaEngine, B23_MemoryEndsAtTheNthGraph) {
  std::vector<Request> work = requests();  // three rows, then two, then one: a bucket each
  for (size_t i = 0; i < work.size(); ++i) work[i].max_new_tokens = 4 + 6 * static_cast<int>(i);
  Engine reference = Engine::open(config_.path(), options());
  const auto expected = generate(reference, work);
  for (size_t nth = 1; nth <= 3; ++nth) {
    Engine engine = Engine::open(config_.path(), options(GraphMode::Lazy));
    std::vector<SequenceId> ids;
    for (const Request& request : work) ids.push_back(engine.add(request));
    while (engine.stats().buckets.size() < nth - 1) engine.step();
    std::vector<void*> taken;
    const auto give_back = [&] {
      for (void* p : std::exchange(taken, {})) cudaFree(p);
    };
#ifdef RONDO_SIMT
    fake::fail("cudaGraphInstantiate", 1, cudaErrorMemoryAllocation);
#else
    for (size_t bytes = size_t{1} << 36; bytes >= 4096; bytes /= 2)
      for (void* p = nullptr; cudaMalloc(&p, bytes) == cudaSuccess;) taken.push_back(p);
    cudaGetLastError();
#endif
    int refused = 0;
    while (engine.busy()) {
      try {
        engine.step();
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory) << error.what();
        EXPECT_EQ(engine.stats().buckets.size(), nth - 1);
        give_back();
        ASSERT_EQ(++refused, 1) << "there is memory again";
      }
    }
    give_back();
#ifdef RONDO_SIMT
    EXPECT_EQ(refused, 1);
#endif
    EXPECT_EQ(engine.stats().buckets.size(), 3u);
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(engine.tokens(ids[i]), expected[i]) << "graph " << nth;
  }
}

}  // namespace
}  // namespace rondo
