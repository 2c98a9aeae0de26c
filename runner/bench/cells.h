// Which cells a run has, and the engine that all of them fit in.
#pragma once

#include <string>
#include <vector>

#include "runner/bench/options.h"

namespace rondo::bench {

// A point of the grid, before threads and modes.
struct Point {
  bool prompt = false;
  int64_t rows = 0;
  int64_t context = 0;
  std::string left_out;  // why it cannot be measured; empty: it can
};

struct Plan {
  std::vector<Point> points;
  EngineOptions engine;  // its buckets are those that the points need, of the engine's own list
  std::vector<Mode> modes;
  std::vector<int64_t> threads;
  int64_t steps = 0;
  int64_t prompt_rows = 0;  // of one step of a prompt, at most
};

// Throws InvalidArgument for what no device could do; points whose K/V does not fit in `free_bytes` beside
// the weights and `spare_bytes` are left out, with the reason.
Plan make_plan(const Options& options, bool cuda, uint64_t free_bytes, uint64_t spare_bytes);

}  // namespace rondo::bench
