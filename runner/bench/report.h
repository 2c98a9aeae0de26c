// What a benchmark found, and the four forms that it is written in.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graphs/replay.h"
#include "runner/bench/bytes.h"
#include "runner/bench/options.h"
#include "runner/bench/samples.h"

namespace rondo::bench {

// All that a figure depends on beside the model and the cell.
struct Environment {
  std::string version;  // of rondo
  std::string commit;
  std::string build;  // "Release, GNU 12.2.0, nvcc 13.0.88 for 90a"
  std::string device;
  std::string backend;
  std::string platform;
  std::string time;  // UTC, when the run began
  int clock_mhz = 0;
  int max_clock_mhz = 0;
  int memory_clock_mhz = 0;
};

// One measurement of whole steps.
struct Cell {
  bool prompt = false;
  int64_t rows = 0;     // sequences that decode; of a prompt, its tokens
  int64_t context = 0;  // positions of each
  Mode mode = Mode::Eager;
  int threads = 0;    // of the CPU backend; 0: one per core, or none are used
  int64_t steps = 1;  // of one sample: a long prompt takes several
  int64_t bucket = 0;
  int64_t padded_rows = 0;
  std::string left_out;  // why this cell was not measured; empty: it was
  Summary ms;            // of one sample, from its input to its tokens
  Summary
      host_us;  // of that, what the host was not waiting; nothing on the CPU, where the host is the device
  Summary device_ms;  // of one step among others back to back, on the device
  StepBytes bytes;
  double ceiling_gb_s = 0;
  std::optional<bool> bit_equal;  // replay and eager leave the same logits and tokens
  std::string slowed;             // why the device's clocks were held down meanwhile

  double tokens_per_second() const {
    return ms.median > 0 ? 1000 * static_cast<double>(rows) / ms.median : 0;
  }
  double gb_per_second() const {
    return ms.median > 0 ? static_cast<double>(bytes.total()) / (ms.median * 1e6) : 0;
  }
  double ceiling_percent() const { return ceiling_gb_s > 0 ? 100 * gb_per_second() / ceiling_gb_s : 0; }
};

// One verb alone.
struct VerbCell {
  Verb verb = Verb::Embed;
  std::string kernels;       // that the verb was made of
  bool alternative = false;  // measured beside what a step takes
  int64_t rows = 0;
  int64_t context = 0;
  int threads = 0;
  int64_t bucket = 0;
  Summary us;
  uint64_t bytes = 0;
  double ceiling_gb_s = 0;
  int64_t runs_per_step = 1;
  std::string slowed;

  double gb_per_second() const { return us.median > 0 ? static_cast<double>(bytes) / (us.median * 1e3) : 0; }
  double ceiling_percent() const { return ceiling_gb_s > 0 ? 100 * gb_per_second() / ceiling_gb_s : 0; }
};

struct Ceiling {
  int threads = 0;
  double gb_s = 0;
  double gb_s_at_end = 0;  // lower than before: something slowed the device, or shared it
};

struct BucketCost {
  int64_t rows = 0;
  RecordingCost cost;
};

struct Report {
  Environment environment;
  std::string model;
  std::string dtype;
  bool random_weights = false;
  int64_t max_context = 0;
  int64_t max_rows = 0;
  int64_t page_size = 0;
  uint64_t weight_bytes = 0;  // that one decode step reads
  std::vector<Ceiling> ceilings;
  std::vector<Cell> cells;
  std::vector<VerbCell> verbs;
  std::vector<BucketCost> buckets;
  std::vector<std::string> notes;  // what has no line of its own to stand in
  bool interrupted = false;
};

enum class Format { Md, Csv, Json, Jsonl };
std::string render(const Report& report, Format format);

// The environment in one line, as every format holds it.
std::string environment_line(const Environment& environment);

}  // namespace rondo::bench
