#include "runner/bench/trace.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "runner/bench/build_info.h"
#include "runner/bench/cells.h"
#include "runner/bench/measure.h"
#include "runner/step.h"

namespace rondo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReplays = 20;
constexpr int kPassesAhead = 16;  // of reading the weights: longer than a host takes to enqueue a step

struct Slice {
  Verb verb;
  int64_t layer;  // -1: none
  std::string name;
  std::unique_ptr<Event> end;
};

// The verbs of another Ops, with an event behind each.
class TimedOps : public Ops {
 public:
  TimedOps(Ops& ops, Device& device, const Model& model, const StepBuffers& buffers)
      : ops_(ops), device_(device), model_(model), buffers_(buffers) {}

  void embed(Bucket k) override {
    timed(Verb::Embed, -1, [&] { ops_.embed(k); });
  }
  void qkv(Bucket k, const Layer& l) override {
    layer_ = &l - model_.layers.data();
    timed(Verb::Qkv, layer_, [&] { ops_.qkv(k, l); });
  }
  void attend(Bucket k, const Layer& l) override {
    timed(Verb::Attend, layer_, [&] { ops_.attend(k, l); });
  }
  void add_project(Bucket k, const View& in, const Linear& linear, const View& next_norm) override {
    timed(in.data == buffers_.o.data ? Verb::OProj : Verb::DownProj, layer_,
          [&] { ops_.add_project(k, in, linear, next_norm); });
  }
  void gate_up(Bucket k, const Layer& l) override {
    timed(Verb::GateUp, layer_, [&] { ops_.gate_up(k, l); });
  }
  void logits(Bucket k) override {
    timed(Verb::Logits, -1, [&] { ops_.logits(k); });
  }
  void sample(Bucket k) override {
    timed(Verb::Sample, -1, [&] { ops_.sample(k); });
  }

  std::string kernels(Verb verb, Bucket bucket) const override { return ops_.kernels(verb, bucket); }

  const std::vector<Slice>& slices() const { return slices_; }

 private:
  template <class F>
  void timed(Verb verb, int64_t layer, F&& call) {
    call();
    std::string name = verb_name(verb);
    if (layer >= 0) name += fmt::format(", layer {}", layer);
    slices_.push_back({verb, layer, std::move(name), device_.make_timed_event()});
    slices_.back().end->record();
  }

  Ops& ops_;
  Device& device_;
  const Model& model_;
  const StepBuffers& buffers_;
  int64_t layer_ = 0;
  std::vector<Slice> slices_;
};

}  // namespace

std::string trace_step(const TraceOptions& options) {
  const bool cuda = options.engine.device == DeviceKind::Cuda ||
                    (options.engine.device == DeviceKind::Auto && choose_backend().cuda);
  if (!options.dot.empty() && !cuda)
    throw Error(ErrorKind::InvalidArgument,
                "--dot: the cpu backend has no graphs; expected the cuda backend");
  Options bench;
  bench.path = options.path;
  bench.engine = options.engine;
  bench.rows = {options.rows};
  if (options.context) bench.contexts = {options.context};
  Plan plan = make_plan(bench, cuda, UINT64_MAX, 0);
  const int64_t context = plan.points.front().context;

  Rig rig(options.path, plan.engine);
  rig.seat(std::vector<int64_t>(static_cast<size_t>(options.rows), context));
  const StepRows step = decode_rows(options.rows, context, rig.dims().vocab_size);
  const Bucket bucket = bucket_of(rig.dims(), static_cast<int>(options.rows));
  const Mode mode = rig.has_graphs() ? Mode::Replay : Mode::Eager;
  const Summary replayed = summarize({time_steps(rig, mode, {step}, kReplays, [] { return false; }).ms});

  TimedOps ops(rig.ops(), rig.device(), rig.model(), rig.buffers());
  const auto start = rig.device().make_timed_event();
  if (rig.has_graphs()) {
    const Arena& weights = *rig.core().arenas()[0];
    for (int i = 0; i < kPassesAhead; ++i)
      rig.reader().read(weights.data(), weights.bytes() / 256 * 256, rig.sink());
  }
  start->record();
  run_step(ops, rig.model(), rig.buffers(), bucket);
  rig.settle();

  Json events = Json::array();
  const std::string device = rig.device().description();
  events.push_back({{"ph", "M"}, {"pid", 1}, {"name", "process_name"}, {"args", {{"name", device}}}});
  events.push_back({{"ph", "M"},
                    {"pid", 1},
                    {"tid", 1},
                    {"name", "thread_name"},
                    {"args", {{"name", "verbs of one step, eager twin"}}}});
  double before = 0;
  for (const Slice& slice : ops.slices()) {
    const double us = 1000 * slice.end->elapsed_ms(*start);
    const Layer& layer = rig.model().layers[static_cast<size_t>(std::max<int64_t>(0, slice.layer))];
    const uint64_t bytes = verb_bytes(slice.verb, rig.model(), rig.dims(), layer, step.rows, options.rows);
    Json args = {{"kernels", ops.kernels(slice.verb, bucket)},
                 {"bytes", bytes},
                 {"gb_per_second", us > before ? static_cast<double>(bytes) / (1000 * (us - before)) : 0}};
    if (slice.layer >= 0) args["layer"] = slice.layer;
    events.push_back({{"ph", "X"},
                      {"pid", 1},
                      {"tid", 1},
                      {"cat", verb_name(slice.verb)},
                      {"name", slice.name},
                      {"ts", before},
                      {"dur", us - before},
                      {"args", std::move(args)}});
    before = us;
  }
  if (!options.dot.empty()) {
    rig.core().backend().make_recorder()->draw(
        [&] { run_step(rig.ops(), rig.model(), rig.buffers(), bucket); }, options.dot);
  }
  const Json trace = {
      {"traceEvents", std::move(events)},
      {"displayTimeUnit", "ns"},
      {"otherData",
       {{"source",
         "events behind each verb of the eager twin of the recorded step: the same launches, one by one"},
        {"version", version()},
        {"commit", build_commit()},
        {"device", device},
        {"model", options.path},
        {"rows", std::to_string(options.rows)},
        {"context", std::to_string(context)},
        {"eager_twin_ms", fmt::format("{:.4f}", before / 1000)},
        {mode == Mode::Replay ? "replayed_step_ms" : "step_ms", fmt::format("{:.4f}", replayed.median)}}}};
  return trace.dump(1) + "\n";
}

}  // namespace rondo::bench
