#include "runner/cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>

#include "runner/cli/terminal.h"

namespace rondo::cli {
Session open_session(const Target& target) {
  const auto start = std::chrono::steady_clock::now();
  Text text = Text::open(target.path);
  Progress progress;
  EngineOptions options = target.engine;
  options.progress = [&progress](uint64_t done, uint64_t total) { progress.update(done, total); };
  Engine engine = Engine::open(target.path, options);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  text.set_vocab_size(engine.vocab_size());
  return {std::move(engine), std::move(text), took.count()};
}

Json number(float value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);
}

Json milliseconds(double value) { return std::round(value * 1000) / 1000; }

namespace {

Json finished_json(const Stats& stats) {
  Json finished = Json::object();
  for (size_t i = 1; i < stats.finished.size(); ++i)  // 0: none
    finished[finish_reason_name(static_cast<FinishReason>(i))] = stats.finished[i];
  return finished;
}

// counts has one more than bounds: of the steps that took longer than the last.
Json step_times_json(const StepTimes& times) {
  return {
      {"bounds_seconds", StepTimes::bounds}, {"counts", times.counts}, {"sum_seconds", times.sum_seconds}};
}

}  // namespace

Json stats_json(const Stats& stats) {
  Json buckets = Json::array();
  for (const BucketStats& bucket : stats.buckets) {
    buckets.push_back({{"rows", bucket.rows},
                       {"capture_ms", milliseconds(bucket.capture_ms)},
                       {"instantiate_ms", milliseconds(bucket.instantiate_ms)},
                       {"upload_ms", milliseconds(bucket.upload_ms)},
                       {"nodes", bucket.nodes},
                       {"device_bytes", bucket.device_bytes}});
  }
  Json forms = Json::array();
  for (const FormStats& form : stats.forms)
    forms.push_back({{"rows", form.rows}, {"verb", form.verb}, {"kernels", form.kernels}});
  return {{"device", stats.device},
          {"backend", stats.backend},
          {"graph", stats.graph},
          {"steps", stats.steps},
          {"replays", stats.replays},
          {"eager_off", stats.eager_off},
          {"eager_warm_up", stats.eager_warm_up},
          {"one_launch", stats.one_launch},
          {"loops", stats.loops},
          {"loop_steps", stats.loop_steps},
          {"steps_ahead", stats.steps_ahead},
          {"eager_samples", stats.eager_samples},
          {"host_logit_rows", stats.host_logit_rows},
          {"rows", stats.rows},
          {"padded_rows", stats.padded_rows},
          {"wasted_rows", stats.wasted_rows},
          {"tokens", stats.tokens},
          {"host_seconds", stats.host_seconds},
          {"wait_seconds", stats.wait_seconds},
          {"waiting", stats.waiting},
          {"running", stats.running},
          {"pages_used", stats.pages_used},
          {"pages_shared", stats.pages_shared},
          {"pages_cached", stats.pages_cached},
          {"pages", stats.pages},
          {"preemptions", stats.preemptions},
          {"prefix_lookups", stats.prefix_lookups},
          {"prefix_hits", stats.prefix_hits},
          {"prefix_tokens", stats.prefix_tokens},
          {"page_copies", stats.page_copies},
          {"forks", stats.forks},
          {"drafted_tokens", stats.drafted_tokens},
          {"accepted_drafts", stats.accepted_drafts},
          {"finished", finished_json(stats)},
          {"step_times", step_times_json(stats.step_times)},
          {"weight_bytes", stats.weight_bytes},
          {"device_bytes", stats.device_bytes},
          {"buckets", buckets},
          {"forms", forms}};
}

std::string document(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string json_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace rondo::cli
