// An engine of the CUDA backend under random requests for thousands of steps: what it must give, and what it
// must not leave.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "tests/cuda_tiny.h"
#include "tests/serving_random.h"

namespace rondo::test {

// One bucket, so that a row's bits cannot depend on how many rows its step has; and few pages.
class CudaSoak : public CudaTiny {
 protected:
  CudaSoak() : CudaTiny({2}, 2, 32) {
    options_.kv_positions = 32;
#ifdef RONDO_SIMT
    fake::reset();
    fake::set_device({.multiprocessors = 1});  // grids of one block, which take a third of the time
#endif
  }
#ifdef RONDO_SIMT
  static constexpr DeviceKind kReference = DeviceKind::Cpu;
  static constexpr int64_t kHeapSlack = 32 << 10;
  ~CudaSoak() override { fake::reset(); }
#else
  static constexpr DeviceKind kReference = DeviceKind::Cuda;  // whose draws are the same to the bit
  static constexpr int64_t kHeapSlack = 256 << 10;            // the driver has its own books there
#endif

  // What must be the same whenever nobody is left.
  struct Held {
    uint64_t device_bytes;
    std::string objects;  // CUDA's, counted by the stand-in
    size_t buckets, files, threads;
    int64_t pages;
    bool operator==(const Held&) const = default;
  };
  static size_t entries(const char* folder) {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
  }
  static Held held(EngineCore& core) {
    Held now{core.device().free_bytes(),  "",
             core.stats().buckets.size(), entries("/proc/self/fd"),
             entries("/proc/self/task"),  core.scheduler().pages().used()};
#ifdef RONDO_SIMT
    now.objects = fake::live_report();
#endif
    return now;
  }

  // Steps, or loops of them where options_ say so, while one call in a hundred fails, by `seed`, or none
  // does.
  void soak(uint64_t steps, bool calls_fail, uint64_t seed = 45) {
    EngineOptions other = options_;
    other.device = kReference;
    other.one_launch = false;
    Engine reference = Engine::open(config_.path(), other);
    RandomServing serving(reference, kVocab, 44);
    Replayed replayed(config_.path(), other);
    EngineOptions logged = options_;
    logged.on_event = [&](const LogEvent& event) { replayed.logged(event); };
    EngineCore core(config_.path(), logged);
    serving.let_calls_fail(calls_fail);
    const uint64_t piece = std::max<uint64_t>(steps / 100, 50);
    std::optional<Held> before;
    int64_t heap = 0, beside = 0;
    for (uint64_t made = 0; made < steps; made = core.stats().steps) {
#ifdef RONDO_SIMT
      if (calls_fail) fake::fail_at_random(0.01, seed + made, cudaErrorMemoryAllocation);
#endif
      if (options_.one_launch)
        serving.generate(core, replayed, made + piece, 5);
      else
        serving.step(core, replayed, made + piece, 5);
#ifdef RONDO_SIMT
      fake::fail_at_random(0, 0, cudaSuccess);
#endif
      ASSERT_FALSE(HasFatalFailure());
      ASSERT_EQ(replayed.difference(), "");
      if (!before && core.stats().steps >= steps / 10) {
        before = held(core);
        heap = heap_bytes();
        beside = pages_beside_heap();
      }
    }
    const Stats stats = core.stats();
    EXPECT_EQ(held(core), *before);
    EXPECT_LE(heap_bytes(), heap + kHeapSlack) << "more than containers may have grown by";
    if (kRepeats == 1) {
      EXPECT_GT(stats.accepted_drafts, 0u);  // too rare for few steps
      EXPECT_LE(pages_beside_heap(), beside + 64);
    }
    EXPECT_EQ(stats.eager_off, 0u);
    if (!calls_fail) {
      EXPECT_EQ(stats.replays + stats.loop_steps, stats.steps);
    }
    EXPECT_EQ(stats.waiting + stats.running + stats.pages_shared, 0u);
    const ServingCounts& counts = serving.counts();
    EXPECT_GT(replayed.events(), steps);
    EXPECT_GT(counts.forked, steps / 1000);
    EXPECT_GT(counts.cancelled, steps / 200);
    EXPECT_GT(counts.stopped, steps / 200);
    EXPECT_EQ(counts.failed > steps / 100, calls_fail);
    EXPECT_GT(stats.preemptions, 0u);
    EXPECT_GT(stats.page_copies, 0u);
    EXPECT_GT(stats.prefix_hits, 0u);
    EXPECT_GT(options_.one_launch ? stats.loops : stats.steps_ahead, 0u);
  }
};

}  // namespace rondo::test
