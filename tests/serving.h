// What tests of many sequences share: requests at random, and what each of them must give.
#pragma once

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <vector>

#include "tests/support.h"

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
