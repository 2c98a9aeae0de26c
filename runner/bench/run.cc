#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "runner/bench/build_info.h"
#include "runner/bench/cells.h"
#include "runner/bench/measure.h"

namespace rondo::bench {
namespace {

constexpr uint64_t kSpareOnGpu = uint64_t{6}
                                 << 30;  // the read ceiling's memory, and what graphs and modules take
constexpr int64_t kMostBackToBack = 16;  // times the average of some steps
constexpr int64_t kMostChains = 64;

class Run {
 public:
  Run(const Options& options, const Plan& plan, const Stop& stop)
      : options_(options), plan_(plan), stop_(stop) {
    doing("opening the engine");
    rig_ = std::make_unique<Rig>(options.path, plan.engine);
    describe();
  }

  Report measure() {
    for (int64_t threads : plan_.threads) {
      if (threads) rig_->use_threads(static_cast<int>(threads));
      threads_ = static_cast<int>(threads);
      doing("reading memory for the ceiling");
      ceiling_ = rig_->read_ceiling(options_.ceiling_bytes);
      report_.ceilings.push_back({threads_, ceiling_, 0});
      note_clocks();
      for (const Point& point : plan_.points) {
        if (report_.interrupted) break;
        options_.verbs ? measure_verbs(point) : measure_steps(point);
      }
      report_.ceilings.back().gb_s_at_end = rig_->read_ceiling(options_.ceiling_bytes);
    }
    for (const auto& [rows, cost] : rig_->core().replayer().stats().recordings)
      report_.buckets.push_back({rows, cost});
    return std::move(report_);
  }

 private:
  void doing(const std::string& what) {
    if (options_.progress) options_.progress(what);
  }

  // Right after the device was busy: idle clocks say nothing.
  void note_clocks() {
    const DeviceState state = rig_->device().state();
    Environment& e = report_.environment;
    e.clock_mhz = state.clock_mhz;
    e.max_clock_mhz = state.max_clock_mhz;
    e.memory_clock_mhz = state.memory_clock_mhz;
  }

  void describe() {
    const StepDims& dims = rig_->dims();
    Environment& e = report_.environment;
    e.version = version();
    e.commit = build_commit();
    e.build = build_description();
    e.device = rig_->device().description();
    e.backend = rig_->core().backend().name;
    e.platform = rig_->device().platform();
    e.time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
    report_.model = options_.path;
    report_.dtype = dtype_name(dims.weight_dtype);
    report_.random_weights = options_.engine.random_weights;
    report_.max_context = dims.max_context;
    report_.max_rows = dims.max_rows();
    report_.page_size = dims.page_size;
    report_.weight_bytes = step_bytes(rig_->model(), dims, decode_rows(1, 1, dims.vocab_size).rows).weights;
  }

  // Seats the sequences of `point` and returns the steps of one sample.
  std::vector<StepRows> prepare(const Point& point) {
    const int64_t V = rig_->dims().vocab_size;
    std::vector<int64_t> lengths(static_cast<size_t>(point.prompt ? 1 : point.rows), point.context);
    rig_->seat(lengths);
    if (point.prompt) return prompt_rows(point.rows, plan_.prompt_rows, V);
    return {decode_rows(point.rows, point.context, V)};
  }

  void measure_steps(const Point& point) {
    const StepDims& dims = rig_->dims();
    Cell cell;
    cell.prompt = point.prompt;
    cell.rows = point.rows;
    cell.context = point.context;
    cell.threads = threads_;
    cell.left_out = point.left_out;
    cell.ceiling_gb_s = ceiling_;
    std::vector<StepRows> steps;
    if (cell.left_out.empty()) {
      steps = prepare(point);
      cell.steps = static_cast<int64_t>(steps.size());
      for (const StepRows& step : steps) {
        const auto rows = static_cast<int64_t>(step.rows.size());
        const StepBytes bytes = step_bytes(rig_->model(), dims, step.rows);
        cell.bytes.weights += bytes.weights;
        cell.bytes.kv += bytes.kv;
        cell.bucket = std::max<int64_t>(cell.bucket, bucket_of(dims, static_cast<int>(rows)).rows);
        cell.padded_rows += bucket_of(dims, static_cast<int>(rows)).rows - rows;
      }
    }
    std::optional<bool> equal;
    for (Mode mode : plan_.modes) {
      if (point.prompt && mode == Mode::Ahead)
        continue;  // its steps are enqueued one behind the other anyway
      cell.mode = mode;
      if (cell.left_out.empty()) {
        if (mode != Mode::Eager && !equal) equal = rig_->replay_is_eager(steps.back());
        cell.bit_equal = mode == Mode::Eager ? std::nullopt : equal;
        time(cell, steps);
      }
      report_.cells.push_back(cell);
      if (interrupted()) return;
    }
  }

  void time(Cell& cell, const std::vector<StepRows>& steps) {
    const int64_t samples = cell.prompt ? std::max<int64_t>(1, plan_.steps / 10) : plan_.steps;
    const int64_t warmup = cell.prompt ? std::min<int64_t>(1, options_.warmup) : options_.warmup;
    std::vector<std::vector<double>> ms, host_us;
    std::set<std::string> slowed;
    for (int64_t repeat = 0; repeat < options_.repeat; ++repeat) {
      doing(fmt::format("{} rows, context {}, {}, repeat {} of {}", cell.rows, cell.context,
                        mode_name(cell.mode), repeat + 1, options_.repeat));
      if (warmup) time_steps(*rig_, cell.mode, steps, warmup, stop_);
      Times times = time_steps(*rig_, cell.mode, steps, samples, stop_);
      ms.push_back(std::move(times.ms));
      host_us.push_back(std::move(times.host_us));
      if (const std::string why = rig_->device().state().slowed; !why.empty()) slowed.insert(why);
      if (stop_()) break;
    }
    cell.ms = summarize(ms);
    cell.slowed = fmt::format("{}", fmt::join(slowed, ", "));
    if (!rig_->has_graphs()) return;  // the host is the device: there is one time, and it was measured
    cell.host_us = summarize(host_us);
    cell.device_ms =
        summarize({time_back_to_back(*rig_, cell.mode, steps.back(), std::min(samples, kMostBackToBack))});
  }

  void measure_verbs(const Point& point) {
    if (!point.left_out.empty()) {
      report_.notes.push_back(
          fmt::format("{} rows, context {}: left out, {}", point.rows, point.context, point.left_out));
      return;
    }
    const std::vector<StepRows> steps = prepare(point);
    const StepRows& step = steps.back();
    rig_->upload(step);
    rig_->enqueue(Mode::Eager,
                  static_cast<int>(step.rows.size()));  // every buffer holds what a step leaves in it
    const Bucket bucket = bucket_of(rig_->dims(), static_cast<int>(step.rows.size()));
    for (Verb verb : kVerbs) {
      measure_verb(verb, point, step, bucket, false);
      if (interrupted()) return;
      const size_t taken = rig_->ops().form(verb, bucket);
      if (!choose_beside(verb, bucket)) continue;
      measure_verb(verb, point, step, bucket, true);
      rig_->ops().choose(verb, bucket, taken);
      if (interrupted()) return;
    }
  }

  // Where a step streams the verb: cuBLASLt's first choice for it; where cuBLASLt has it: the streaming form,
  // if it has one.
  bool choose_beside(Verb verb, Bucket bucket) {
    Ops& ops = rig_->ops();
    const size_t taken = ops.form(verb, bucket), forms = ops.forms(verb, bucket);
    const auto by_cublas = [&] { return ops.kernels(verb, bucket).find("cublasLt") != std::string::npos; };
    const bool cublas = by_cublas();
    for (size_t form = 0; form < forms; ++form) {
      ops.choose(verb, bucket, form);
      if (by_cublas() != cublas) return true;
    }
    if (forms > 1) ops.choose(verb, bucket, taken);
    return false;
  }

  void measure_verb(Verb verb, const Point& point, const StepRows& step, Bucket bucket, bool alternative) {
    VerbCell cell;
    cell.verb = verb;
    cell.kernels = rig_->ops().kernels(verb, bucket);
    cell.alternative = alternative;
    cell.rows = point.rows;
    cell.context = point.context;
    cell.threads = threads_;
    cell.ceiling_gb_s = ceiling_;
    cell.bucket = bucket.rows;
    cell.runs_per_step = runs_per_layer(verb) ? static_cast<int64_t>(rig_->model().layers.size()) : 1;
    cell.bytes = average_bytes(verb, step);
    std::vector<std::vector<double>> us;
    std::set<std::string> slowed;
    for (int64_t repeat = 0; repeat < options_.repeat; ++repeat) {
      doing(fmt::format("{}, {} rows, context {}, repeat {} of {}", verb_name(verb), cell.rows, cell.context,
                        repeat + 1, options_.repeat));
      us.push_back(time_verb(*rig_, verb, step, std::min(plan_.steps, kMostChains)));
      if (const std::string why = rig_->device().state().slowed; !why.empty()) slowed.insert(why);
      if (stop_()) break;
    }
    cell.us = summarize(us);
    cell.slowed = fmt::format("{}", fmt::join(slowed, ", "));
    report_.verbs.push_back(cell);
  }

  // Over the layers: a sliding window may be some layers' alone.
  uint64_t average_bytes(Verb verb, const StepRows& step) {
    const Model& model = rig_->model();
    uint64_t sum = 0;
    for (const Layer& layer : model.layers)
      sum += verb_bytes(verb, model, rig_->dims(), layer, step.rows,
                        static_cast<int64_t>(step.logit_rows.size()));
    return sum / model.layers.size();
  }

  bool interrupted() { return report_.interrupted |= stop_(); }

  const Options& options_;
  const Plan& plan_;
  const Stop& stop_;
  std::unique_ptr<Rig> rig_;
  Report report_;
  int threads_ = 0;
  double ceiling_ = 0;
};

}  // namespace

Report run(const Options& options, const Stop& stop) {
  const bool cuda = options.engine.device == DeviceKind::Cuda ||
                    (options.engine.device == DeviceKind::Auto && choose_backend().cuda);
  EngineOptions device = options.engine;
  device.device = cuda ? DeviceKind::Cuda : DeviceKind::Cpu;
  const uint64_t free = make_backend(device).device->free_bytes();
  const Plan plan = make_plan(options, cuda, free, cuda ? kSpareOnGpu : 0);
  return Run(options, plan, stop).measure();
}

}  // namespace rondo::bench
