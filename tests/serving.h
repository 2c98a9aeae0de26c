// What tests of many sequences share: requests at random, and what each of them must give.
#pragma once

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/support.h"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // g++ comes without its header
#endif

namespace rondo::test {

// A sanitizer makes a step some twenty times as long; counts of what only repeats are smaller there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRepeats = 20;
#else
constexpr int kRepeats = 1;
#endif

inline int64_t resident_pages() {  // of this process
  int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident;
}

// What the heap holds now, to the byte: a leak shows where the pages of the process hide it.
inline int64_t heap_bytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return static_cast<int64_t>(__sanitizer_get_current_allocated_bytes());
#else
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
#endif
}

// What of resident_pages() the allocator does not account for: its own pages come and go with how full they
// are, and heap_bytes() watches what is in them. Not for a sanitizer, whose allocator keeps other books.
inline int64_t pages_beside_heap() {
  const struct mallinfo2 info = mallinfo2();
  return resident_pages() - static_cast<int64_t>((info.arena + info.hblkhd) / 4096);
}

// One line of a scheduler's log, for comparison: all but what a request holds.
inline std::string log_line(const LogEvent& e) {
  return fmt::format(
      "{} step {} sequence {} source {} length {} max {} slot {} again {} ahead {} led {} finish {}",
      static_cast<int>(e.kind), e.step, e.sequence, e.source, e.length, e.max_new_tokens, e.slot, e.again,
      e.ahead, e.led, finish_reason_name(e.finish));
}

// The first line in which two logs differ; "" where they are the same.
inline std::string log_difference(const std::vector<LogEvent>& expected, const std::vector<LogEvent>& found) {
  for (size_t i = 0; i < std::max(expected.size(), found.size()); ++i) {
    const auto line = [&](const auto& log) {
      return i < log.size() ? log_line(log[i]) : std::string("nothing");
    };
    if (line(expected) != line(found))
      return fmt::format("line {}: expected {}, found {}", i, line(expected), line(found));
  }
  return "";
}

// Steps this small are done before a second thread is awake, and other tests run beside these.
inline EngineOptions one_thread(EngineOptions options) {
  options.threads = 1;
  return options;
}

// Runs until nothing is left; outputs by sequence.
inline std::map<SequenceId, std::vector<Output>> run_all(Engine& engine) {
  std::map<SequenceId, std::vector<Output>> outputs;
  while (engine.busy())
    for (Output& output : engine.step()) outputs[output.sequence].push_back(std::move(output));
  return outputs;
}

// The generated tokens of one request that has the engine for itself.
inline std::vector<int32_t> alone(Engine& engine, const Request& request) {
  const SequenceId id = engine.add(request);
  while (engine.busy()) engine.step();
  std::vector<int32_t> tokens = engine.tokens(id);
  engine.remove(id);
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(request.prompt.size()));
  return tokens;
}

inline Sampling drawn(uint64_t seed, float temperature = 1) {
  Sampling sampling;
  sampling.temperature = temperature;
  sampling.seed = seed;
  return sampling;
}

}  // namespace rondo::test
