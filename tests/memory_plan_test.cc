#include <gtest/gtest.h>

#include "runner/engine_core.h"
#include "tests/support.h"

namespace rondo {
namespace {

using test::TinyConfig;

TEST(MemoryPlan, TotalsAreWhatTheEngineAllocatesToTheByte) {
  const TinyConfig config;
  const EngineOptions options = test::tiny_options(DeviceKind::Cpu);
  const MemoryPlan plan = plan_memory(config.path(), options);
  const EngineCore core(config.path(), options);
  ASSERT_EQ(plan.arenas.size(), core.arenas().size());
  uint64_t total = 0;
  for (size_t i = 0; i < plan.arenas.size(); ++i) {
    const Arena& arena = *core.arenas()[i];
    EXPECT_EQ(plan.arenas[i].name, arena.name());
    EXPECT_EQ(plan.arenas[i].bytes, arena.bytes());
    ASSERT_EQ(plan.arenas[i].buffers.size(), arena.placements().size());
    for (size_t j = 0; j < arena.placements().size(); ++j) {
      EXPECT_EQ(plan.arenas[i].buffers[j].name, arena.placements()[j].name);
      EXPECT_EQ(plan.arenas[i].buffers[j].offset, arena.placements()[j].offset);
      EXPECT_EQ(plan.arenas[i].buffers[j].bytes, arena.placements()[j].bytes);
    }
    total += arena.bytes();
  }
  EXPECT_EQ(plan.total_bytes, total);
}

TEST(MemoryPlan, B27_AnArenaIsSealed) {
  const auto device = make_host_device();
  const auto expect_misuse = [&](const char* part, const std::function<void(Layout&)>& lay_out) {
    try {
      Arena arena(*device, "sealed", lay_out);
      ADD_FAILURE() << "expected Misuse with " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Misuse);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  int64_t size = 256;
  expect_misuse("counted 256 bytes, placed 512", [&](Layout& layout) {
    layout.place("grows", DType::u8, {size});
    size += 256;
  });
  expect_misuse("placed twice", [](Layout& layout) {
    layout.place("x", DType::u8, {1});
    layout.place("x", DType::u8, {1});
  });
}

TEST(MemoryPlan, HasEveryBufferOfTheStep) {
  const TinyConfig config;
  const MemoryPlan plan = plan_memory(config.path(), test::tiny_options(DeviceKind::Cuda));
  std::set<std::string> names;
  for (const auto& buffer : plan.arenas.back().buffers) names.insert(buffer.name);
  for (const char* name : {"inputs.rows",
                           "inputs.logit_rows",
                           "inputs.page_tables",
                           "inputs.slots",
                           "inputs.biases",
                           "inputs.history",
                           "residual",
                           "norm",
                           "qkv",
                           "q",
                           "attention",
                           "gate_up",
                           "activation",
                           "split_k.o",
                           "split_k.ml",
                           "logits",
                           "sampled",
                           "top_tokens",
                           "token_words",
                           "workspace"})
    EXPECT_TRUE(names.count(name)) << name;
}

TEST(MemoryPlan, BuffersDoNotOverlapAndAreAligned) {
  const TinyConfig config;
  for (const auto& arena : plan_memory(config.path(), test::tiny_options(DeviceKind::Cuda)).arenas) {
    uint64_t end = 0;
    for (const auto& buffer : arena.buffers) {
      EXPECT_EQ(buffer.offset % 256, 0u) << buffer.name;
      EXPECT_GE(buffer.offset, end) << buffer.name;
      end = buffer.offset + buffer.bytes;
    }
    EXPECT_GE(arena.bytes, end);
  }
}

TEST(MemoryPlan, ShippedShapesHaveTheirPublishedSizes) {
  // Bytes read per step, in GB, from the models' own parameter counts (bf16): 1.236 billion parameters, and
  // so on. The embedding is counted once where it is tied.
  const std::pair<const char*, double> shapes[] = {{"qwen3-0.6b", 1.192}, {"llama-3.2-1b", 2.472},
                                                   {"qwen3-4b", 8.045},   {"llama-3.1-8b", 16.061},
                                                   {"qwen3-8b", 16.381},  {"qwen3-32b", 65.524}};
  for (const auto& [name, gigabytes] : shapes) {
    const MemoryPlan plan =
        plan_memory((test::kSource / "models" / (std::string(name) + ".json")).string(), {});
    EXPECT_NEAR(static_cast<double>(plan.arenas[0].bytes) / 1e9, gigabytes, gigabytes * 1e-3) << name;
  }
}

// 2^39 positions of 2^24 numbers: K of one layer is 2^65 bytes. The context that is named then has a plan.
TEST(MemoryPlan, B5_KvThatWrapsIn64BitsIsRefusedWithTheLargestContextThatDoesNot) {
  const TinyConfig config({.hidden = 8, .heads = 1 << 16, .kv_heads = 1 << 16, .head_dim = 256});
  for (DeviceKind device : {DeviceKind::Cpu, DeviceKind::Cuda}) {
    EngineOptions options = test::tiny_options(device);
    options.page_size = 256;
    options.kv_positions = (int64_t{1} << 39) - 512;
    try {
      plan_memory(config.path(), options);
      FAIL() << "expected OutOfMemory";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
      const std::string said = error.what(), before = "that of ";
      ASSERT_NE(said.find(before), std::string::npos) << said;
      EXPECT_NE(said.find("kv_positions"), std::string::npos) << said;
      options.kv_positions = std::stoll(said.substr(said.find(before) + before.size()));
    }
    EXPECT_GT(options.kv_positions, int64_t{1} << 30);
    const MemoryPlan plan = plan_memory(config.path(), options);
    EXPECT_GT(plan.total_bytes, uint64_t{1} << 62) << "the largest, or nearly so";
    EXPECT_THROW(EngineCore(config.path(), options), Error);
  }
}

TEST(MemoryPlan, AnAbsurdContextIsRefusedBeforeAnythingIsAllocated) {
  const TinyConfig config;
  EngineOptions options = test::tiny_options(DeviceKind::Cpu);
  options.kv_positions = int64_t{1} << 33;
  try {
    EngineCore core(config.path(), options);
    FAIL() << "expected OutOfMemory";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
    EXPECT_NE(std::string(error.what()).find("would fit"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("kv_positions"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace rondo
