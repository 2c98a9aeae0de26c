// `rondo bench` and `rondo trace` on the CUDA backend: the same text on the stand-in and on a real GPU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "buffers/cuda_device.h"
#include "runner/bench/measure.h"
#include "runner/bench/trace.h"
#include "tests/cuda_test.h"
#include "tests/json.h"
#include "tests/support.h"
#ifdef RONDO_SIMT
#include "tests/simt/fake_cudart.h"
#endif

namespace rondo::bench {
namespace {

class CudaBench : public test::CudaTest {
 protected:
  void SetUp() override {
    test::CudaTest::SetUp();
    if (IsSkipped()) return;
#ifdef RONDO_SIMT
    fake::set_memory(size_t{8} << 30);
#endif
    options_.path = config_.path();
    options_.engine.random_weights = true;
    options_.engine.device = DeviceKind::Cuda;
    options_.engine.page_size = 8;
    options_.contexts = {12};
    options_.steps = 3;
    options_.repeat = 1;
    options_.warmup = 1;
    options_.ceiling_bytes = 1 << 14;
  }
  void TearDown() override {
#ifdef RONDO_SIMT
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    EXPECT_EQ(fake::misuse(), "");
    fake::reset();
#endif
  }

  test::TinyConfig config_;
  Options options_;
};

TEST_F(CudaBench, EagerReplayAndAheadStandBesideEachOtherWithEqualBits) {
  options_.rows = {3};
  options_.prompts = {5};
  options_.max_rows = 4;
  const Report report = run(options_, [] { return false; });
  ASSERT_EQ(report.cells.size(), 5u) << "three modes decoding, two for the prompt";
  for (const Cell& cell : report.cells) {
    EXPECT_EQ(cell.bit_equal.has_value(), cell.mode != Mode::Eager);
    EXPECT_TRUE(cell.bit_equal.value_or(true)) << mode_name(cell.mode);
    EXPECT_GT(cell.ms.median, 0) << mode_name(cell.mode);
    EXPECT_GT(cell.device_ms.median, 0) << mode_name(cell.mode);
    EXPECT_GT(cell.host_us.median, 0) << mode_name(cell.mode);
  }
  EXPECT_EQ(report.cells[3].steps, 2);
  EXPECT_EQ(report.buckets.size(), 3u) << "3 rows; 4 and 1 of the prompt";
  for (const BucketCost& bucket : report.buckets) EXPECT_GT(bucket.cost.nodes, 10) << bucket.rows;
  EXPECT_GT(report.ceilings.at(0).gb_s, 0);
}

TEST_F(CudaBench, EveryVerbIsTimedAloneFromARecording) {
  options_.verbs = true;
  options_.rows = {2};
  const Report report = run(options_, [] { return false; });
  ASSERT_EQ(report.verbs.size(), std::size(kVerbs));
  for (const VerbCell& cell : report.verbs) {
    EXPECT_GT(cell.us.median, 0) << verb_name(cell.verb);
    EXPECT_GT(cell.bytes, 0u) << verb_name(cell.verb);
  }
}

TEST_F(CudaBench, ATraceNamesEveryVerbAndTheDotFileHoldsTheGraph) {
  const std::string dot = testing::TempDir() + "rondo-trace-" + std::to_string(getpid()) + ".dot";
  TraceOptions options;
  options.path = config_.path();
  options.engine = options_.engine;
  options.context = 12;
  options.dot = dot;
  const auto trace = test::parse_json(trace_step(options));
  int slices = 0;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    ++slices;
    if (event.at("cat") == "gate_up") {
      EXPECT_EQ(event.at("args").at("kernels"), "rmsnorm + cublasLt + silu_mul");
    }
  }
  EXPECT_EQ(slices, 3 + 5 * 2);
  EXPECT_TRUE(trace.at("otherData").contains("replayed_step_ms"));
  std::ifstream in(dot);
  std::stringstream text;
  text << in.rdbuf();
  std::remove(dot.c_str());
  EXPECT_EQ(text.str().rfind("digraph", 0), 0u) << text.str().substr(0, 200);
  EXPECT_NE(text.str().find("->"), std::string::npos);
}

TEST_F(CudaBench, EventsTellTheTimeBetweenThem) {
  const auto device = make_cuda_device(0);
  const auto start = device->make_timed_event(), end = device->make_timed_event();
  const auto block = device->allocate(1 << 16, "memory to fill");
  start->record();
  device->fill(block->data(), 1, block->bytes());
  end->record();
  end->wait();
  EXPECT_GE(end->elapsed_ms(*start), 0);
  EXPECT_NE(device->platform().find("CUDA"), std::string::npos) << device->platform();
}

}  // namespace
}  // namespace rondo::bench
