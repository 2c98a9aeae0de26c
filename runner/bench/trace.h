// One step as a timeline.
#pragma once

#include <cstdint>
#include <string>

#include "runner/engine.h"

namespace rondo::bench {

struct TraceOptions {
  std::string path;      // as Options::path
  EngineOptions engine;  // device and weights
  int64_t rows = 1;
  int64_t context = 0;  // 0: 512, or the model's maximum
  std::string dot;      // where the recorded graph goes as text for Graphviz; empty: nowhere
};

// A document in the Trace Event Format ("JSON Object Format"), which Perfetto and chrome://tracing read: one
// slice for each verb, named with its layer. A replayed graph cannot be timed from inside, so the times are
// those of its eager twin, the same launches one by one, enqueued behind other work so that the device never
// waits for the host. `otherData` says so, and what the replayed step took.
std::string trace_step(const TraceOptions& options);

}  // namespace rondo::bench
