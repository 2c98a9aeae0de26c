#include <algorithm>
#include <chrono>

#include "runner/bench/measure.h"
#include "runner/tune.h"

namespace rondo::bench {
namespace {

using Clock = std::chrono::steady_clock;

double us_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::micro>(to - from).count();
}

constexpr int64_t kStepsBetweenEvents = 8;  // an event costs the device a microsecond or so

// Milliseconds of one `run`, enqueued without a pause: events behind every `each` of them, `samples` times.
template <class F>
std::vector<double> between_events(Rig& rig, const F& run, int64_t each, int64_t samples) {
  std::vector<std::unique_ptr<Event>> events;
  for (int64_t i = 0; i <= samples; ++i) events.push_back(rig.device().make_timed_event());
  run();  // the device is busy when the first event is recorded
  for (int64_t i = 0; i <= samples; ++i) {
    for (int64_t k = 0; i > 0 && k < each; ++k) run();
    events[static_cast<size_t>(i)]->record();
  }
  rig.settle();
  std::vector<double> ms;
  for (size_t i = 1; i < events.size(); ++i)
    ms.push_back(events[i]->elapsed_ms(*events[i - 1]) / static_cast<double>(each));
  return ms;
}

Times time_waiting(Rig& rig, Mode mode, const std::vector<StepRows>& steps, int64_t samples,
                   const Stop& stop) {
  Times times;
  const auto done = rig.device().make_event();
  for (int64_t i = 0; i < samples && !stop(); ++i) {
    const auto start = Clock::now();
    for (const StepRows& step : steps) {
      rig.upload(step);
      rig.enqueue(mode, static_cast<int>(step.rows.size()));
    }
    done->record();
    const auto enqueued = Clock::now();
    done->wait();
    times.ms.push_back(us_between(start, Clock::now()) / 1000);
    times.host_us.push_back(us_between(start, enqueued) / static_cast<double>(steps.size()));
  }
  return times;
}

// A sample is the time from one step's tokens to the next one's; the first step has none before it.
Times time_ahead(Rig& rig, const StepRows& step, int64_t samples, const Stop& stop) {
  Times times;
  const std::unique_ptr<Event> done[] = {rig.device().make_event(), rig.device().make_event()};
  const auto enqueue = [&](int64_t i) {
    rig.enqueue(Mode::Ahead, static_cast<int>(step.rows.size()));
    done[i % 2]->record();
  };
  rig.upload(step);
  enqueue(0);
  Clock::time_point before;
  for (int64_t i = 1; i <= samples + 1 && !stop(); ++i) {
    const auto start = Clock::now();
    enqueue(i);
    const auto enqueued = Clock::now();
    done[(i - 1) % 2]->wait();
    const auto now = Clock::now();
    if (i > 1) {
      times.ms.push_back(us_between(before, now) / 1000);
      times.host_us.push_back(us_between(start, enqueued));
    }
    before = now;
  }
  rig.settle();
  return times;
}

}  // namespace

const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::Eager: return "eager";
    case Mode::Replay: return "replay";
    case Mode::Ahead: return "ahead";
  }
  return "unknown";
}

Times time_steps(Rig& rig, Mode mode, const std::vector<StepRows>& steps, int64_t samples, const Stop& stop) {
  return mode == Mode::Ahead ? time_ahead(rig, steps.back(), samples, stop)
                             : time_waiting(rig, mode, steps, samples, stop);
}

std::vector<double> time_back_to_back(Rig& rig, Mode mode, const StepRows& step, int64_t samples) {
  rig.upload(step);
  return between_events(
      rig, [&] { rig.enqueue(mode, static_cast<int>(step.rows.size())); }, kStepsBetweenEvents, samples);
}

std::vector<double> time_verb(Rig& rig, Verb verb, const StepRows& step, int64_t samples) {
  const Bucket bucket = bucket_of(rig.dims(), static_cast<int>(step.rows.size()));
  const auto chain = [&] { return run_chain(rig.ops(), rig.model(), rig.buffers(), verb, bucket); };
  rig.upload(step);
  rig.ops().embed(bucket);
  const int runs = chain();  // whatever is made on the first run is made
  rig.settle();
  std::unique_ptr<Recording> recording;
  if (rig.has_graphs()) {
    RecordingCost cost;
    recording = rig.core().backend().make_recorder()->record([&] { chain(); }, cost);
  }
  const auto run = [&] { recording ? recording->launch() : static_cast<void>(chain()); };
  std::vector<double> us;
  for (const double ms : between_events(rig, run, 1, samples)) us.push_back(1000 * ms / runs);
  return us;
}

}  // namespace rondo::bench
