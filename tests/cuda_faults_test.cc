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

  const std::vector<Request> work_ = {greedy({1, 2, 3}, 4), greedy({5}, 4)};
  std::vector<std::vector<int32_t>> expected_;
};

TEST_F(CudaFaults, NothingIsLeftBehindByAnEngine) {
  for (int i = 0; i < 10; ++i) expect_healthy();  // case 7
  expect_clean();
}

TEST_F(CudaFaults, B19_EveryCallOfConstructionAndFirstStepFailsOnce) {
  fake::reset();
  { expect_healthy(); }
  const auto calls = fake::calls();
  int failed = 0;
  for (const auto& [api, count] : calls) {
    if (api.rfind("cuda", 0) != 0) continue;
    // Every call where there are few; of hundreds of launches and copies a spread.
    const int stride = count > 24 ? static_cast<int>(count / 12) : 1;
    for (int nth = 1; nth <= static_cast<int>(count); nth += stride) {
      fake::reset();
      fake::fail(api, nth, cudaErrorMemoryAllocation);
      try {
        Engine engine = open();
        generate(engine, {work_[0]});
      } catch (const Error& error) {
        ++failed;
        EXPECT_GT(std::string(error.what()).size(), 10u);
      }
      EXPECT_EQ(fake::live_objects(), 0u) << api << " call " << nth << ": " << fake::live_report();
      EXPECT_EQ(fake::misuse(), "") << api << " call " << nth;
    }
  }
  EXPECT_GT(failed, 20);
  fake::reset();
  expect_healthy();
}

TEST_F(CudaFaults, B4_DeviceMemoryEndsAtTheNthAllocationThenASmallerConfigLoads) {
  for (int nth = 1; nth <= 3; ++nth) {
    fake::reset();
    fake::fail("cudaMalloc", nth, cudaErrorMemoryAllocation);
    try {
      open();
      FAIL() << "expected OutOfMemory at allocation " << nth;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory) << error.what();
    }
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    expect_healthy();
  }
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
    options_.device = DeviceKind::Cuda;
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

TEST_F(CudaFaults, B28_EveryPointerInEveryCapturedNodeLiesInAnArena) {
  EngineCore core(config_.path(), options_);
  const auto pointers = fake::captured_pointers();
  EXPECT_GT(pointers.size(), 50u);
  for (const auto& pointer : pointers) {
    bool inside = false;
    for (const Arena* arena : core.arenas()) inside = inside || arena->contains(pointer.address);
    EXPECT_TRUE(inside) << pointer.where;
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

TEST_F(CudaFaults, B34_AnErrorLeftByForeignCodeIsNotOurs) {
  Engine engine = open();
  void* p = nullptr;
  fake::fail("cudaMalloc", 1, cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);  // its last error stays set
  EXPECT_EQ(generate(engine, work_), expected_);
}

}  // namespace
}  // namespace rondo
