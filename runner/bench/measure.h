// The measurements: whole steps, and verbs alone.
#pragma once

#include <functional>
#include <vector>

#include "runner/bench/report.h"
#include "runner/bench/rig.h"

namespace rondo::bench {

// Asked between two samples: whether to end.
using Stop = std::function<bool()>;

// Times of `samples` runs of `steps`, one behind the other; fewer where `stop` says so.
struct Times {
  std::vector<double> ms;
  std::vector<double> host_us;
};
Times time_steps(Rig& rig, Mode mode, const std::vector<StepRows>& steps, int64_t samples, const Stop& stop);

// Milliseconds of the device for one step among others back to back: `samples` times the average of some.
std::vector<double> time_back_to_back(Rig& rig, Mode mode, const StepRows& step, int64_t samples);

// Microseconds of one run of a verb: a chain of it over all layers, so that no weight is still in a cache,
// recorded where the backend records. The input block holds `step`.
std::vector<double> time_verb(Rig& rig, Verb verb, const StepRows& step, int64_t samples);

// Everything that `options` asks for. What it throws it throws before anything is measured, but for what
// `progress` throws and a device that fails; Stopped by `stop()` is no error: the report says so.
Report run(const Options& options, const Stop& stop);

}  // namespace rondo::bench
