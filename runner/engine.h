// rondo's engine: a checkpoint goes in, tokens come out, every token one replay of one captured step.
//
//   rondo::Engine engine = rondo::Engine::open("models/demo", {});
//   auto id = engine.add({.prompt = {72, 105}, .max_new_tokens = 32});
//   while (engine.busy())
//     for (const rondo::Output& out : engine.step()) std::printf("%d ", out.token);
//
// Threads: an Engine may be used from any thread, by one at a time; a call made while another is under way
// throws Misuse. Several engines in one process do not know of each other. After fork() the child must not
// use the parent's engines: every call throws Misuse, destruction is fine.
//
// Errors: everything throws rondo::Error (buffers/error.h). A call that throws has changed nothing, unless
// the kind is DeviceLost: then every later call throws with the first cause, and only destruction is left.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "buffers/error.h"

namespace rondo {

enum class DeviceKind { Auto, Cpu, Cuda };

// Auto: graphs captured at the start where the backend has them, eager elsewhere. Require: an error where it
// has none. Lazy: a bucket is captured when it is first used twice. Off: the same launches, one by one.
enum class GraphMode { Auto, Require, Lazy, Off };

struct EngineOptions {
  DeviceKind device = DeviceKind::Auto;
  int device_index = 0;  // of the CUDA device
  GraphMode graph = GraphMode::Auto;
  int max_rows = 64;         // rows (tokens) per step, the largest bucket
  int max_sequences = 16;    // sequences decoding at once; more wait in the queue
  int max_logit_rows = 0;    // logit rows per step; 0: max_sequences
  int64_t max_context = 0;   // positions per sequence; 0: the model's maximum, at most 4096
  int64_t kv_positions = 0;  // K/V positions in all; 0: max_sequences * max_context
  int page_size = 32;        // positions per K/V page: a power of two, 8 to 256
  // Row buckets, ascending; empty: 1..8 16 24 32 48 64 96 128 192 256 512 up to max_rows.
  std::vector<int> buckets;
  int threads = 0;              // of the CPU backend; 0: one per core
  bool random_weights = false;  // Engine::open takes a config.json's path, and no checkpoint is read
  uint64_t weights_seed = 0;
  // Called while weights are loaded, with bytes done and bytes in all. What it throws ends the load and is
  // thrown on.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

struct Sampling {
  float temperature = 0;         // 0: greedy
  int top_k = 0;                 // 0: off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  float repetition_penalty = 1;  // > 0
  uint64_t seed = 0;
};

using SequenceId = uint64_t;

struct Request {
  std::vector<int32_t> prompt;  // at least one token id
  int max_new_tokens = 128;     // 0: the sequence finishes at once
  Sampling sampling;
  std::vector<int32_t> stop_ids;  // beside the model's own eos_token_id
  bool ignore_eos = false;        // the model's eos_token_id do not stop it
};

enum class FinishReason { None, Length, Stop, Cancelled, ContextFull, NumericalError };
const char* finish_reason_name(FinishReason reason);  // "length", "stop", ...

// One thing that a step did to one sequence: a token, an end, or both.
struct Output {
  SequenceId sequence = 0;
  int32_t token = -1;                        // -1: none, the sequence ended without one
  float logprob = 0;                         // of that token in the full softmax of the raw logits
  FinishReason finish = FinishReason::None;  // None: it goes on
};

struct BucketStats {
  int rows = 0;
  double capture_ms = 0;
  double instantiate_ms = 0;
  double upload_ms = 0;
  int64_t nodes = 0;
  int64_t device_bytes = 0;
};

struct Stats {
  uint64_t steps = 0;
  uint64_t replays = 0;
  uint64_t eager_off = 0;      // eager steps: no graphs on this backend, or GraphMode::Off
  uint64_t eager_warm_up = 0;  // eager runs before capture
  uint64_t rows = 0;           // rows that were tokens
  uint64_t padded_rows = 0;    // rows that filled a bucket
  uint64_t tokens = 0;         // tokens made
  double host_seconds = 0;     // spent in step(), the wait for the device apart (on the CPU: the step itself)
  double wait_seconds = 0;     // spent waiting for the device
  uint64_t waiting = 0;        // sequences in the queue now
  uint64_t running = 0;        // sequences with a slot now
  uint64_t pages_used = 0;     // now
  uint64_t pages = 0;          // that can be used
  uint64_t weight_bytes = 0;
  uint64_t device_bytes = 0;  // all arenas
  std::string device;         // "cpu", "NVIDIA H200 (cuda:0)"
  std::string backend;        // "cpu" or "cuda"
  std::string graph;          // "start", "lazy" or "off"
  std::vector<BucketStats> buckets;
};

class Engine {
 public:
  // Opens a Hugging Face checkpoint directory, or, with options.random_weights, builds the shape of a
  // config.json.
  static Engine open(const std::string& path, const EngineOptions& options);

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  // Queues a sequence. InvalidArgument for token ids outside the vocabulary, an empty prompt or bad sampling
  // parameters; ContextFull for a prompt that no empty engine could hold.
  SequenceId add(const Request& request);

  // Runs one step over as many rows as are ready and fit; returns what it did. Nothing to do: an empty
  // vector.
  std::vector<Output> step();

  // Whether a sequence waits or runs.
  bool busy() const;

  // Ends a sequence between two steps. Ending one that has ended already does nothing.
  void cancel(SequenceId sequence);

  // All tokens so far, the prompt's first. Readable until remove().
  std::vector<int32_t> tokens(SequenceId sequence) const;
  FinishReason finish_reason(SequenceId sequence) const;

  // Cuts an ended sequence back to its first `length` tokens and queues it again for `max_new_tokens` more.
  void resume(SequenceId sequence, int64_t length, int max_new_tokens);

  // Forgets an ended sequence; a running one is cancelled first.
  void remove(SequenceId sequence);

  // Logits of every position of `prompt`, in order: `each(position, logits)`, vocab_size fp32 values that are
  // gone when the callback returns. Misuse while sequences wait or run.
  void score(const std::vector<int32_t>& prompt,
             const std::function<void(int64_t position, std::span<const float> logits)>& each);

  Stats stats() const;
  int64_t vocab_size() const;
  int64_t max_context() const;
  const std::vector<int32_t>& eos_token_ids() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One buffer of the memory plan.
struct PlannedBuffer {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // in its arena
};
struct PlannedArena {
  std::string name;    // "weights", "pages", "step"
  uint64_t bytes = 0;  // what the engine allocates for it, to the byte
  std::vector<PlannedBuffer> buffers;
};
struct MemoryPlan {
  std::vector<PlannedArena> arenas;
  std::vector<int> buckets;
  int64_t pages = 0;  // of each layer, the scrap page included
  int page_size = 0;
  int64_t max_context = 0;
  int max_sequences = 0;
  int max_logit_rows = 0;
  uint64_t total_bytes = 0;
};

// The plan of the engine that open(path, options) would make; touches no device. DeviceKind::Auto plans for
// CUDA. `path` is a checkpoint directory or a config.json.
MemoryPlan plan_memory(const std::string& path, const EngineOptions& options);

// What this machine has, in lines for a person: GPUs, driver, toolkit, CPU features, and which backend Auto
// takes and why.
std::string doctor_report();

// The version of the library, "0.1.0".
const char* version();

}  // namespace rondo
