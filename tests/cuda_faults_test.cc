// What goes wrong under the CUDA backend, on the stand-in, where every call can be told to fail. The case
// numbers are those of tests/README.md.
#include <gtest/gtest.h>

#include "runner/engine_core.h"
#include "tests/cuda_tiny.h"

namespace rondo {
namespace {

using test::generate;
using test::greedy;

class CudaFaults : public test::CudaTinyFaults {
 protected:
  // Two buckets: a sweep opens it once per call.
  CudaFaults() : CudaTinyFaults({1, 2}, 2, 16, true) {
    Engine engine = open();
    expected_ = generate(engine, work_);
  }

  void expect_healthy() {
    Engine engine = open();
    EXPECT_EQ(generate(engine, work_), expected_);
  }

  static bool lost(cudaError_t error) { return error == cudaErrorIllegalAddress; }
  static bool lost(cublasStatus_t) { return false; }

  const std::vector<Request> work_ = {greedy({1, 2, 3}, 4), greedy({5}, 4)};
  std::vector<std::vector<int32_t>> expected_;
};

TEST_F(CudaFaults, B19_EveryCallOfConstructionAndFirstStepFailsOnce) {
  const auto forget = [] {
    fake::reset();
    fake::set_device({.multiprocessors = 1});  // grids of one block: there are hundreds of calls
  };
  const std::vector<Request> first_steps = {greedy({1, 2, 3}, 2)};
  forget();
  generate(*std::make_unique<Engine>(open()), first_steps);
  const auto calls = fake::calls();
  int failed = 0;
  const auto fail = [&](const std::string& api, int nth, auto error) {
    forget();
    fake::fail(api, nth, error);
    try {
      Engine engine = open();
      generate(engine, first_steps);
    } catch (const Error& thrown) {
      ++failed;
      EXPECT_GT(std::string(thrown.what()).size(), 10u);
      // Whether there is a device at all is another question.
      if (api.rfind("cudaGetDevice", 0) != 0) {
        EXPECT_EQ(thrown.kind() == ErrorKind::DeviceLost, lost(error))
            << api << " call " << nth << ": " << thrown.what();
      }
    }
    EXPECT_EQ(fake::live_objects(), 0u) << api << " call " << nth << ": " << fake::live_report();
    EXPECT_EQ(fake::misuse(), "") << api << " call " << nth;
  };
  for (const auto& [api, count] : calls) {
    for (int nth = 1; nth <= static_cast<int>(count); ++nth) {
      if (api.rfind("cuda", 0) == 0) {
        fail(api, nth, cudaErrorIllegalAddress);
        fail(api, nth, nth % 2 ? cudaErrorMemoryAllocation : cudaErrorInvalidValue);
      } else {
        fail(api, nth, nth % 2 ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_EXECUTION_FAILED);
      }
    }
  }
  EXPECT_GT(failed, 400);
  fake::reset();
  expect_healthy();
}

TEST_F(CudaFaults, B5_APlanThatExceedsTheDeviceIsRefusedBeforeAnyAllocation) {
  fake::reset();
  fake::set_memory(size_t{40} << 20);
  options_.kv_positions = int64_t{1} << 24;
  const auto before = fake::calls("cudaMalloc");
  try {
    open();
    FAIL() << "expected OutOfMemory";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
    EXPECT_NE(std::string(error.what()).find("would fit"), std::string::npos) << error.what();
  }
  EXPECT_EQ(fake::calls("cudaMalloc"), before);
}

TEST_F(CudaFaults, B6_NoDeviceOrAnOldDriverIsSaidAndTheCpuStillWorks) {
  for (const fake::Device& device :
       {fake::Device{.count = 0}, fake::Device{.driver_version = 12020}, fake::Device{.major = 7}}) {
    fake::reset();
    fake::set_device(device);
    EXPECT_THROW(open(), Error);
    options_.device = DeviceKind::Auto;
    Engine engine = open();
    EXPECT_EQ(engine.stats().backend, "cpu");
    generate(engine, work_);
    EXPECT_NE(doctor_report().find("auto takes: cpu"), std::string::npos) << doctor_report();
    EXPECT_NE(doctor_report().find(", runtime 13.0\n"), std::string::npos) << doctor_report();
    const std::string driver =
        device.driver_version == 12020 ? "for CUDA up to 12.2\n" : "for CUDA up to 13.0\n";
    EXPECT_NE(doctor_report().find(driver), std::string::npos) << doctor_report();
    options_.device = DeviceKind::Cuda;
  }
}

// Graphs, streams and pinned memory included, an engine takes no byte of the device beside its arenas.
TEST_F(CudaFaults, TotalsOfThePlanAreWhatTheEngineTakesOfTheDeviceToTheByte) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    const test::TinyConfig config({.dtype = dtype});
    for (const bool one_launch : {false, true}) {
      options_.one_launch = one_launch;
      const size_t before = fake::live_bytes();
      const EngineCore core(config.path(), options_);
      const MemoryPlan plan = plan_memory(config.path(), options_);
      EXPECT_EQ(fake::live_bytes() - before, plan.total_bytes) << dtype << (one_launch ? " with loops" : "");
      ASSERT_EQ(plan.arenas.size(), core.arenas().size());
      for (size_t i = 0; i < plan.arenas.size(); ++i) {
        const auto held = fake::allocation_of(core.arenas()[i]->data());
        EXPECT_TRUE(held.on_device);
        EXPECT_EQ(held.bytes, plan.arenas[i].bytes) << plan.arenas[i].name;
      }
    }
  }
}

// The stand-in notes memory that is freed while a graph exec uses it, also when the engine goes.
TEST_F(CudaFaults, B27_NoBufferIsFreedMovedOrGrownWhileAGraphHoldsIt) {
  static_assert(!std::is_move_constructible_v<Arena> && !std::is_move_assignable_v<Arena>);
  options_.graph = GraphMode::Lazy;
  {
    EngineCore core(config_.path(), options_);
    const auto run = [&] {
      std::vector<SequenceId> ids;
      for (const Request& request : work_) ids.push_back(core.scheduler().add(request));
      while (core.scheduler().busy()) core.step();
      for (SequenceId id : ids) core.scheduler().remove(id);
      core.score(work_[0].prompt, [](int64_t, std::span<const float>) {});
    };
    run();  // records both buckets
    run();
    const auto held = fake::captured_pointers();
    EXPECT_GT(held.size(), 50u);
    fake::reset();
    run();
    for (const char* api :
         {"cudaMalloc", "cudaMallocHost", "cudaFree", "cudaFreeHost", "cudaGraphInstantiate"})
      EXPECT_EQ(fake::calls(api), 0u) << api;
    const auto now = fake::captured_pointers();
    ASSERT_EQ(now.size(), held.size());
    for (size_t i = 0; i < held.size(); ++i) EXPECT_EQ(now[i].address, held[i].address) << held[i].where;
  }
  EXPECT_GT(fake::calls("cudaFree"), 0u);
  expect_clean();
}

TEST_F(CudaFaults, B28_EveryPointerInEveryCapturedNodeLiesInAnArenaOrIsWhereDrawsAreTold) {
  EngineCore core(config_.path(), options_);
  const auto pointers = fake::captured_pointers();
  EXPECT_GT(pointers.size(), 50u);
  for (const auto& pointer : pointers) {
    bool inside = false;
    for (const Arena* arena : core.arenas()) inside = inside || arena->contains(pointer.address);
    inside = inside || pointer.address == core.buffers().told;
    EXPECT_TRUE(inside) << pointer.where;
  }
}

// A node for every kernel of the step, and for nothing else. Composed, a layer is RMSNorm, product, RoPE +
// append, attention, product, RMSNorm, product, SiLU-mul, product, and a merge where attention is split,
// which it is for one row of a long context; streamed it is five kernels. Around them are the embedding, the
// logits (RMSNorm, product; streamed, one) and the two of sampling.
TEST_F(CudaFaults, B30_AGraphHasANodeForEveryKernelOfTheStep) {
  const test::TinySizes composed{
      .hidden = 16, .intermediate = 16, .heads = 2, .kv_heads = 1, .head_dim = 8, .vocab = kVocab};
  const test::TinySizes streamed{
      .hidden = 128, .intermediate = 128, .heads = 8, .vocab = kVocab, .dtype = "bfloat16"};
  const struct {
    const char* what;
    const test::TinySizes& sizes;
    int layers, max_context;
    int64_t one_row, two_rows;
  } cases[] = {{"one layer", composed, 1, 16, 14, 14},
               {"three layers", composed, 3, 16, 32, 32},
               {"split attention", composed, 3, 256, 35, 32},
               {"streamed", streamed, 2, 16, 14, 14}};
  for (const auto& c : cases) {
    test::TinySizes sizes = c.sizes;
    sizes.layers = c.layers;
    options_.max_context = c.max_context;
    const test::TinyConfig config(sizes);
    Engine engine = Engine::open(config.path(), options_);
    const Stats stats = engine.stats();
    ASSERT_EQ(stats.buckets.size(), 2u);
    EXPECT_EQ(stats.buckets[0].nodes, c.one_row) << c.what;
    EXPECT_EQ(stats.buckets[1].nodes, c.two_rows) << c.what;
  }
}

TEST_F(CudaFaults, B30_GraphsAreMadeWhenTheEngineOpensOrByTheLazyPolicyAndNeverAgain) {
  const auto graphs = [] {
    EXPECT_EQ(fake::calls("cudaGraphInstantiate"),
              fake::calls("cudaStreamBeginCapture") + fake::calls("cudaStreamBeginCaptureToGraph"));
    return fake::calls("cudaGraphInstantiate");
  };
  const auto run = [&](Engine& engine) {
    EXPECT_EQ(generate(engine, work_), expected_);
    for (const Request& request : work_) engine.add(request);
    engine.generate([](const Output&) {});
    engine.add(work_[0]);
    engine.generate([](const Output&) {});
  };
  for (const bool loops : {false, true}) {
    options_.one_launch = loops;
    const uint64_t all = loops ? 4 : 2;  // of each bucket one, and one with a loop around it
    for (const GraphMode mode : {GraphMode::Require, GraphMode::Lazy}) {
      options_.graph = mode;
      fake::reset();
      Engine engine = open();
      EXPECT_EQ(graphs(), mode == GraphMode::Lazy ? 0 : all);
      for (int i = 0; i < 3; ++i) run(engine);
      EXPECT_EQ(graphs(), all) << "one launch: " << loops << ", lazy: " << (mode == GraphMode::Lazy);
    }
  }
}

TEST_F(CudaFaults, B31_ATransientFailureLeavesTheSequenceAndTheRetryGivesTheRightToken) {
  for (const char* api : {"cudaGraphLaunch", "cudaMemcpyAsync", "cudaEventRecord"}) {
    fake::reset();
    Engine engine = open();
    const auto id = engine.add(work_[0]);
    engine.step();
    const auto before = engine.tokens(id);
    fake::fail(api, 1, cudaErrorMemoryAllocation);
    EXPECT_THROW(engine.step(), Error) << api;
    EXPECT_EQ(engine.tokens(id), before) << api;
    while (engine.busy()) engine.step();
    EXPECT_EQ(engine.tokens(id), expected_[0]) << api;
  }
}

// Eagerly, where it is a launch of the step's own kernels that fails, in whatever place.
TEST_F(CudaFaults, B31_WithoutGraphsAFailedLaunchIsMadeAgainToo) {
  options_.graph = GraphMode::Off;
  for (const char* api : {"cudaLaunchKernelExC", "cudaMemcpyAsync", "cudaEventRecord"})
    for (const int nth : {1, 2, 5, 9}) {
      fake::reset();
      Engine engine = open();
      const auto id = engine.add(work_[0]);
      engine.step();
      fake::fail(api, nth, cudaErrorMemoryAllocation);
      int failed = 0;
      while (engine.busy()) {
        const auto before = engine.tokens(id);
        try {
          engine.step();
        } catch (const Error& error) {
          ++failed;
          EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory) << error.what();
          EXPECT_EQ(engine.tokens(id), before) << api << " call " << nth;
        }
      }
      EXPECT_LE(failed, 1) << api;
      if (std::string(api) == "cudaLaunchKernelExC") {
        EXPECT_EQ(failed, 1) << "launch " << nth;
      }
      EXPECT_EQ(engine.tokens(id), expected_[0]) << api << " call " << nth;
      EXPECT_EQ(engine.stats().replays, 0u);
    }
}

TEST_F(CudaFaults, B18_CancelBetweenStepsTwiceLeavesTheOthersTokens) {
  for (const GraphMode graph : {GraphMode::Require, GraphMode::Off}) {
    options_.graph = graph;
    Engine engine = open();
    const auto cancelled = engine.add(greedy({9, 8}, 10)), kept = engine.add(work_[1]);
    engine.step();
    engine.step();  // another step is in flight
    engine.cancel(cancelled);
    engine.cancel(cancelled);
    while (engine.busy()) engine.step();
    EXPECT_EQ(engine.finish_reason(cancelled), FinishReason::Cancelled);
    EXPECT_EQ(engine.tokens(kept), expected_[1]);
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
}

TEST_F(CudaFaults, B32_AStickyErrorLosesTheDeviceAndLaterCallsNameTheFirstCause) {
  {
    Engine engine = open();
    engine.add(work_[0]);
    engine.step();
    fake::device_fault(cudaErrorIllegalAddress);
    std::string first;
    try {
      engine.step();
      FAIL() << "expected DeviceLost";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::DeviceLost);
      first = error.what();
    }
    try {
      engine.busy();
      FAIL() << "expected DeviceLost again";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::DeviceLost);
      EXPECT_NE(std::string(error.what()).find(first), std::string::npos) << error.what();
    }
  }  // the destructor returns
  fake::reset();
  expect_clean();
}

// A kernel's trap, a launch that runs too long, and whatever else takes a context away for good.
TEST_F(CudaFaults, B33_TrapsAndTimeoutsLoseTheDeviceAsIllegalAccessesDo) {
  for (const cudaError_t fault :
       {cudaErrorLaunchFailure, cudaErrorLaunchTimeout, cudaErrorAssert, cudaErrorIllegalInstruction,
        cudaErrorMisalignedAddress, cudaErrorHardwareStackError, cudaErrorECCUncorrectable}) {
    const char* name = cudaGetErrorName(fault);
    SCOPED_TRACE(name);
    for (const GraphMode graph : {GraphMode::Auto, GraphMode::Off}) {
      options_.graph = graph;
      {
        Engine engine = open();
        const SequenceId id = engine.add(work_[0]);
        engine.step();
        fake::device_fault_at(4, fault);
        const auto expect_lost = [&](auto call) {
          try {
            call();
            ADD_FAILURE() << "expected DeviceLost";
          } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::DeviceLost) << error.what();
            EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
          }
        };
        expect_lost([&] { engine.step(); });
        expect_lost([&] { engine.step(); });
        expect_lost([&] { engine.add(work_[1]); });
        expect_lost([&] { engine.cancel(id); });
        expect_lost([&] { engine.stats(); });
        expect_lost([&] { open(); });
      }  // the destructor returns
      fake::reset();
      expect_clean();
    }
  }
  options_.graph = GraphMode::Auto;
  expect_healthy();
}

TEST_F(CudaFaults, B34_AnErrorLeftByForeignCodeIsNotOurs) {
  Engine engine = open();
  void* p = nullptr;
  fake::fail("cudaMalloc", 1, cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);  // its last error stays set
  EXPECT_EQ(generate(engine, work_), expected_);
}

}  // namespace
}  // namespace rondo
