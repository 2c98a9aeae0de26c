// Loading on the CUDA backend again and again, and while files or memory end, on the stand-in. The case
// numbers are those of tests/README.md.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/cuda_tiny.h"
#include "tests/reads.h"
#include "tests/serving.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using test::generate;
using test::greedy;

class CudaLoadingFaults : public test::CudaTinyFaults {
 protected:
  CudaLoadingFaults() : CudaTinyFaults({1}, 1, 16, true) {}

  // One whose weights are read from files.
  Engine open_checkpoint(const fs::path& directory) {
    EngineOptions options = options_;
    options.random_weights = false;
    return Engine::open(directory.string(), options);
  }
  void expect_unreadable(const fs::path& directory, const std::string& reason) {
    const uint64_t memory = fake::live_bytes();
    try {
      open_checkpoint(directory);
      ADD_FAILURE() << "expected InvalidModel: " << reason;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidModel) << error.what();
      EXPECT_NE(std::string(error.what()).find("model.safetensors"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
    EXPECT_EQ(fake::live_bytes(), memory);
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  }

  const fs::path golden_ = test::kSource / "tests/goldens/llama-default";
  const std::vector<Request> work_ = {greedy({1, 2, 3}, 4)};
};

TEST_F(CudaLoadingFaults, B3_WeightsThatCannotBeReadOrEndLeaveNothingOnTheDevice) {
  std::vector<std::vector<int32_t>> expected;
  uint64_t calls = 0;
  {
    const test::ReadsAs counted({});
    Engine engine = open_checkpoint(golden_);
    calls = test::reads().calls;
    expected = generate(engine, work_);
  }
  for (const uint64_t nth : {calls, calls - 1, calls / 2}) {  // the last reads are of weights
    const test::ReadsAs failing({.failing = nth, .error = EIO});
    expect_unreadable(golden_, "Input/output error");
  }
  const fs::path directory = fs::temp_directory_path() / ("rondo-cuda-shrinks-" + std::to_string(getpid()));
  fs::copy(golden_, directory);
  options_.progress = [&](uint64_t done, uint64_t total) {
    const fs::path weights = directory / "model.safetensors";
    if (done < total / 2) fs::resize_file(weights, fs::file_size(golden_ / "model.safetensors") / 2);
  };
  expect_unreadable(directory, "when it was opened");
  fs::remove_all(directory);
  options_.progress = nullptr;
  {
    Engine engine = open_checkpoint(golden_);
    EXPECT_EQ(generate(engine, work_), expected);
  }
  expect_clean();
}

// What is left would hold the smaller engine, and not the larger one.
TEST_F(CudaLoadingFaults, B4_DeviceMemoryEndsAtTheNthAllocationThenASmallerConfigLoads) {
  const test::TinySizes sizes{.hidden = 16,
                              .intermediate = 16,
                              .layers = 1,
                              .heads = 2,
                              .kv_heads = 1,
                              .head_dim = 8,
                              .vocab = kVocab};
  test::TinySizes larger = sizes;
  larger.layers = 4;
  larger.intermediate = 256;
  const test::TinyConfig small(sizes), large(larger);
  const auto bytes_of = [&](const test::TinyConfig& config) {
    return plan_memory(config.path(), options_).total_bytes;
  };
  ASSERT_GT(bytes_of(large), bytes_of(small));
  const auto open_small = [&] {
    Engine engine = Engine::open(small.path(), options_);
    return generate(engine, work_);
  };
  const auto expected = open_small();
  const auto expect_no_memory = [&](const std::string& naming) {
    try {
      Engine::open(large.path(), options_);
      ADD_FAILURE() << "expected OutOfMemory: " << naming;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory) << error.what();
      EXPECT_NE(std::string(error.what()).find(naming), std::string::npos) << error.what();
    }
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  };
  fake::reset();
  { Engine counted = Engine::open(large.path(), options_); }
  const auto count = static_cast<int>(fake::calls("cudaMalloc"));
  ASSERT_EQ(count, 3) << "weights, pages and step";
  const auto pinned = static_cast<int>(fake::calls("cudaMallocHost"));
  for (const auto& [api, calls] : {std::pair{"cudaMalloc", count}, {"cudaMallocHost", pinned}})
    for (int nth = 1; nth <= calls; ++nth) {
      fake::reset();
      fake::fail(api, nth, cudaErrorMemoryAllocation);
      expect_no_memory(api);
      // Somebody else has taken the rest.
      fake::set_memory(bytes_of(large) - 1);
      expect_no_memory("the plan needs");
      EXPECT_EQ(open_small(), expected) << api << " call " << nth;
      expect_clean();
    }
}

TEST_F(CudaLoadingFaults, B7_AHundredLoadsGiveTheSameTokensInTheSameMemory) {
  std::vector<std::vector<int32_t>> first;
  uint64_t bytes = 0, objects = 0;
  for (int i = 0; i < std::max(10, 100 / test::kRepeats); ++i) {
    {
      Engine engine = open();
      const auto tokens = generate(engine, work_);
      if (i == 0) {
        first = tokens;
        bytes = fake::live_bytes();
        objects = fake::live_objects();
      }
      ASSERT_EQ(tokens, first) << "load " << i;
      ASSERT_EQ(fake::live_bytes(), bytes) << "load " << i;
      ASSERT_EQ(fake::live_objects(), objects) << "load " << i << ": " << fake::live_report();
    }
    ASSERT_EQ(fake::live_objects(), 0u) << "load " << i << ": " << fake::live_report();
  }
  expect_clean();
}

}  // namespace
}  // namespace rondo
