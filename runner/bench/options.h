// What a benchmark is asked for. `rondo bench` and `rondo trace` (runner/cli) fill this in from a command
// line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runner/engine.h"

namespace rondo::bench {

// How a step gets to the device. Eager: its launches one by one. Replay: one launch of the recorded step.
// Both upload their input first and wait for their tokens. Ahead: the next replay is enqueued before this
// one's tokens are waited for, from an input block that stays.
enum class Mode { Eager, Replay, Ahead };
const char* mode_name(Mode mode);  // "eager", "replay", "ahead"

struct Options {
  std::string path;                 // a checkpoint directory, or a config.json with engine.random_weights
  EngineOptions engine;             // device, weights, max_context; the rest is made to fit the cells
  std::vector<int64_t> rows = {1};  // decode cells: this many sequences ...
  std::vector<int64_t> contexts;    // ... of this many positions each; empty: 512, or the model's maximum
  std::vector<int64_t> prompts;     // prompt cells: a prompt of this many tokens
  std::vector<int64_t> threads;     // of the CPU backend; empty: one per core
  std::vector<Mode> modes;          // empty: all that the backend has
  bool decode = true;               // whether there are decode cells
  int64_t max_rows = 512;           // a longer prompt is cut into steps of so many rows
  int64_t steps = 0;                // samples of each repeat; 0: 100 on a GPU, 10 on the CPU
  int64_t repeat = 3;
  int64_t warmup = 5;
  bool verbs = false;          // time each verb alone, in place of whole steps
  uint64_t ceiling_bytes = 0;  // read to find the ceiling; 0: 4 GiB on a GPU, the weights on the CPU
  std::function<void(const std::string& doing)> progress;  // may throw, which ends the run
};

}  // namespace rondo::bench
