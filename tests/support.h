// What several tests need: tiny models without a checkpoint, goldens, greedy generation.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "runner/engine.h"

namespace rondo::test {

inline const std::filesystem::path kSource = RONDO_SOURCE_DIR;

constexpr int kVocab = 320;

struct TinySizes {
  int hidden = 64, intermediate = 96, layers = 2, heads = 4, kv_heads = 2, head_dim = 16, vocab = kVocab;
  int max_positions = 256;
  const char* dtype = "float32";
  bool tied = true;
};

// A config.json of a small llama in a temporary file that goes with the object.
class TinyConfig {
 public:
  explicit TinyConfig(const TinySizes& sizes = {});
  ~TinyConfig() { std::filesystem::remove(path_); }
  TinyConfig(const TinyConfig&) = delete;  // one file, one owner
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// Small enough for any test; random weights.
inline EngineOptions tiny_options(DeviceKind device) {
  EngineOptions options;
  options.device = device;
  options.random_weights = true;
  options.max_rows = 8;
  options.max_sequences = 4;
  options.max_context = 64;
  options.page_size = 8;
  options.threads = 2;
  return options;
}

inline Request greedy(std::vector<int32_t> prompt, int max_new_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.ignore_eos = true;
  return request;
}

// All tokens of each request, the prompts' first, run together.
inline std::vector<std::vector<int32_t>> generate(Engine& engine, const std::vector<Request>& requests) {
  std::vector<SequenceId> ids;
  for (const Request& request : requests) ids.push_back(engine.add(request));
  while (engine.busy()) engine.step();
  std::vector<std::vector<int32_t>> tokens;
  for (SequenceId id : ids) tokens.push_back(engine.tokens(id));
  for (SequenceId id : ids) engine.remove(id);
  return tokens;
}

// `n` token ids that depend on `seed` alone.
inline std::vector<int32_t> some_tokens(int n, int vocab, uint32_t seed) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tokens.push_back(static_cast<int32_t>((seed >> 8) % static_cast<uint32_t>(vocab)));
  }
  return tokens;
}

// Steps until nothing is left, in two threads at once: each call takes its turn or is told of Misuse.
inline void step_in_two_threads(Engine& engine) {
  const auto work = [&] {
    for (;;) {
      try {
        if (!engine.busy()) return;
        engine.step();
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::Misuse) throw;
      }
    }
  };
  std::thread other(work);
  work();
  other.join();
}

// Forks, and lets the child take a step: whether it was refused with Misuse. The child leaves without any
// destructor.
inline bool a_forked_child_is_refused(Engine& engine) {
  constexpr int kRefused = 7;
  const pid_t child = fork();
  if (child == 0) {
    try {
      engine.step();
    } catch (const Error& error) {
      _exit(error.kind() == ErrorKind::Misuse ? kRefused : 1);
    }
    _exit(2);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == kRefused;
}

}  // namespace rondo::test
