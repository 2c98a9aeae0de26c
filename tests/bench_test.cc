// What `rondo bench` counts and computes, apart from its clock.
#include <gtest/gtest.h>

#include "runner/bench/cells.h"
#include "runner/bench/measure.h"
#include "runner/bench/samples.h"
#include "runner/bench/trace.h"
#include "tests/json.h"
#include "tests/support.h"

namespace rondo::bench {
namespace {

using test::TinyConfig;
using test::TinySizes;

Options tiny(const TinyConfig& config) {
  Options options;
  options.path = config.path();
  options.engine.random_weights = true;
  options.engine.device = DeviceKind::Cpu;
  options.engine.page_size = 8;
  options.threads = {2};
  options.contexts = {20};
  options.steps = 3;
  options.repeat = 2;
  options.warmup = 1;
  options.ceiling_bytes = 1 << 16;
  return options;
}

bool never() { return false; }

TEST(Bench, PercentilesLieBetweenNeighboursAndDisturbedSamplesAreCounted) {
  EXPECT_EQ(percentile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_EQ(percentile({1, 2, 3, 4}, 0), 1);
  EXPECT_EQ(percentile({1, 2, 3, 4}, 1), 4);
  const Summary s = summarize({{10, 10, 10, 10}, {10, 10, 12.1, 50}});
  EXPECT_EQ(s.samples, 8);
  EXPECT_EQ(s.median, 10);
  EXPECT_EQ(s.disturbed, 2);
  EXPECT_NEAR(s.spread_percent, 100 * (11.05 - 10) / 10, 1e-9) << "the second repeat's median is 11.05";
  EXPECT_GT(s.noise_percent, 50);
  EXPECT_EQ(summarize({{}, {}}).samples, 0);
}

TEST(Bench, KvIsCountedOncePerSequenceAndNotBeyondAWindow) {
  StepDims dims;
  dims.kv_heads = 2;
  dims.head_dim = 8;
  dims.weight_dtype = DType::bf16;
  Layer layer;
  const uint64_t position = 2 * 2 * 8 * 2;  // K and V, two heads of eight, two bytes
  const std::vector<Row> rows = {{0, 99, 1, 1}, {0, 98, 1, 1}, {0, 9, 2, 1}};
  EXPECT_EQ(kv_bytes(layer, dims, rows), (100 + 10) * position);
  layer.sliding_window = 16;
  EXPECT_EQ(kv_bytes(layer, dims, rows), (17 + 10) * position)
      << "the two rows' windows reach over 17 positions";
}

// Every weight but the embedding's other lines, each once: what inspect shows, so that neither can drift
// alone.
TEST(Bench, BytesOfAStepAreTheWeightsOfThePlan) {
  for (const bool tied : {true, false}) {
    TinySizes sizes;
    sizes.tied = tied;
    const TinyConfig config(sizes);
    const Options options = tiny(config);
    const Plan plan = make_plan(options, false, UINT64_MAX, 0);
    uint64_t weights = 0, table = 0;
    const MemoryPlan memory = plan_memory(options.path, plan.engine);
    for (const PlannedBuffer& buffer : memory.arenas.at(0).buffers) {
      if (buffer.name.starts_with("rope.")) continue;
      weights += buffer.bytes;
      if (buffer.name == "model.embed_tokens.weight") table = buffer.bytes;
    }
    Rig rig(options.path, plan.engine);
    const StepRows step = decode_rows(3, 20, sizes.vocab);
    const uint64_t lines = 3 * static_cast<uint64_t>(sizes.hidden) * sizeof(float);
    const StepBytes bytes = step_bytes(rig.model(), rig.dims(), step.rows);
    EXPECT_EQ(bytes.weights, tied ? weights : weights - table + lines);
    EXPECT_EQ(bytes.kv, 3u * 20 * 2 * sizes.layers * sizes.kv_heads * sizes.head_dim * sizeof(float));
    uint64_t verbs = 0;
    for (const Verb verb : kVerbs) {
      if (verb == Verb::Sample || (verb == Verb::Embed && tied)) continue;
      for (const Layer& layer : rig.model().layers) {
        verbs += verb_bytes(verb, rig.model(), rig.dims(), layer, step.rows, 3);
        if (!runs_per_layer(verb)) break;
      }
    }
    EXPECT_EQ(verbs, bytes.total()) << "the verbs' bytes are the step's";
  }
}

TEST(Bench, ALongPromptIsCutIntoStepsAndDrawsOnce) {
  const auto steps = prompt_rows(11, 4, 320);
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_EQ(steps[2].rows.size(), 3u);
  EXPECT_EQ(steps[2].rows.back().position, 10);
  EXPECT_TRUE(steps[0].logit_rows.empty());
  EXPECT_EQ(steps[2].logit_rows, std::vector<int32_t>{2});
}

TEST(Bench, PointsThatDoNotFitAreLeftOutWithAReasonAndTheOthersStay) {
  const TinyConfig config;
  Options options = tiny(config);
  options.rows = {1, 2, 64};
  options.contexts = {16, 256};
  const uint64_t room =
      plan_memory(options.path, make_plan(options, false, UINT64_MAX, 0).engine).total_bytes;
  const Plan plan = make_plan(options, false, room - 1, 0);
  int left_out = 0;
  for (const Point& point : plan.points) {
    left_out += !point.left_out.empty();
    EXPECT_EQ(!point.left_out.empty(), point.rows == 64 && point.context == 256)
        << point.rows << " at " << point.context;
  }
  EXPECT_EQ(left_out, 1);
  EXPECT_LT(plan_memory(options.path, plan.engine).total_bytes, room);
  EXPECT_EQ(plan.engine.buckets, (std::vector<int>{1, 2, 64})) << "of the engine's own, those that are used";
}

// The figures of a cell are what a run of the same engine would see.
TEST(Bench, EveryCellIsMeasuredAtItsContextWithItsPadding) {
  const TinyConfig config;
  Options options = tiny(config);
  options.rows = {1, 9};
  options.prompts = {21};
  options.max_rows = 8;
  const Report report = run(options, never);
  ASSERT_EQ(report.cells.size(), 3u);
  EXPECT_EQ(report.cells[0].padded_rows, 0);
  EXPECT_EQ(report.cells[1].bucket, 16);
  EXPECT_EQ(report.cells[1].padded_rows, 7);
  EXPECT_TRUE(report.cells[2].prompt);
  EXPECT_EQ(report.cells[2].steps, 3) << "8 + 8 + 5";
  for (const Cell& cell : report.cells) {
    EXPECT_EQ(cell.ms.samples, cell.prompt ? 2 : 6);
    EXPECT_GT(cell.ms.median, 0);
    EXPECT_GE(cell.ms.p95, cell.ms.median);
    EXPECT_GT(cell.tokens_per_second(), 0);
    EXPECT_NEAR(cell.ceiling_percent(), 100 * cell.gb_per_second() / report.ceilings[0].gb_s, 1e-9);
  }
}

TEST(Bench, AStopLeavesAReportOfWhatWasMeasured) {
  const TinyConfig config;
  Options options = tiny(config);
  options.rows = {1, 2, 3};
  options.steps = 1'000'000;  // more than a test could wait for
  int asked = 0;
  const Report report = run(options, [&asked] { return ++asked > 30; });
  EXPECT_TRUE(report.interrupted);
  EXPECT_GE(report.cells.size(), 1u);
  EXPECT_LT(report.cells.size(), 3u);
  EXPECT_LT(report.cells[0].ms.samples, 100);
  EXPECT_NE(render(report, Format::Md).find("interrupted"), std::string::npos);
}

TEST(Bench, ATraceHasOneSlicePerVerbAndLayerInOrderWithoutOverlap) {
  const TinyConfig config;
  TraceOptions options;
  options.path = config.path();
  options.engine = tiny(config).engine;
  options.context = 20;
  const auto trace = test::parse_json(trace_step(options));
  std::vector<std::string> names;
  double end = 0;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    names.push_back(event.at("name"));
    EXPECT_FALSE(event.at("args").at("kernels").get<std::string>().empty()) << names.back();
    EXPECT_NEAR(event.at("ts").get<double>(), end, 1e-6);
    end = event.at("ts").get<double>() + event.at("dur").get<double>();
  }
  const std::vector<std::string> expected = {"embed",
                                             "qkv, layer 0",
                                             "attend, layer 0",
                                             "add_project o, layer 0",
                                             "gate_up, layer 0",
                                             "add_project down, layer 0",
                                             "qkv, layer 1",
                                             "attend, layer 1",
                                             "add_project o, layer 1",
                                             "gate_up, layer 1",
                                             "add_project down, layer 1",
                                             "logits",
                                             "sample"};
  EXPECT_EQ(names, expected);
  EXPECT_NE(trace.at("otherData").at("source").get<std::string>().find("eager twin"), std::string::npos);
}

}  // namespace
}  // namespace rondo::bench
