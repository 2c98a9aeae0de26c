// rondo's engine: a checkpoint goes in, tokens come out, every token one replay of one captured step.
//
//   rondo::Engine engine = rondo::Engine::open("models/demo", {});
//   auto id = engine.add({.prompt = {72, 105}, .max_new_tokens = 32});
//   while (engine.busy())
//     for (const rondo::Output& out : engine.step()) std::printf("%d ", out.token);
//
// Threads: one thread at a time steps an engine, and it need not always be the same one. add(), cancel() and
// wait() may be called from any thread at any time, callbacks included: what they ask for is taken up by the
// next call of the stepping thread, and by generate() between two steps. Every other call made while one is
// under way throws Misuse. Several engines in one process do not know of each other. After fork() the child
// must not use the parent's engines: every call throws Misuse, destruction is fine. Errors: everything throws
// rondo::Error (buffers/error.h). A call that throws has changed nothing, unless the kind is DeviceLost: then
// every later call throws with the first cause, and only destruction is left. A device tells of a failure
// where it is asked next: the message names the steps that were under way then, by their numbers in the log
// (LogEvent::step), whichever call has met it. What a callback throws passes through step() unchanged; the
// step has not happened then and may be made again.
//
// Tokens: where tokens are said to be the same, with neighbours and without, drafted for, preempted, taken
// over or put away between, every row's logits are the same bits on the CPU, and on a GPU within one row
// bucket: another bucket may take another GEMM, whose sums round differently, so that a draw between two
// tokens that are all but equally likely may fall the other way.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "buffers/error.h"

#pragma GCC visibility push(default)  // the shared library exports what the public headers declare

namespace rondo {

enum class DeviceKind { Auto, Cpu, Cuda };

// Auto: graphs captured at the start where the backend has them, eager elsewhere. Require: an error where it
// has none. Lazy: a bucket is captured when it is first used twice. Off: the same launches, one by one.
enum class GraphMode { Auto, Require, Lazy, Off };

using SequenceId = uint64_t;
struct LogEvent;

struct EngineOptions {
  DeviceKind device = DeviceKind::Auto;
  int device_index = 0;  // of the CUDA device
  GraphMode graph = GraphMode::Auto;
  int max_rows = 64;        // rows (tokens) per step, the largest bucket
  int max_sequences = 16;   // sequences decoding at once; more wait in the queue
  int max_logit_rows = 0;   // logit rows per step; 0: max_sequences. What exceeds max_sequences is for drafts
  int prompt_chunk = 0;     // rows per step that prompts may take; 0: max_rows. Decoding sequences go first
  int64_t max_context = 0;  // positions per sequence; 0: the model's maximum, at most 4096
  int64_t kv_positions = 0;    // K/V positions in all; 0: max_sequences * max_context
  int page_size = 32;          // positions per K/V page: a power of two, 8 to 256
  bool share_prefixes = true;  // sequences that begin with the same tokens share the pages that hold them
  // Row buckets, ascending; empty: 1..8 16 24 32 48 64 96 128 192 256 512 up to max_rows.
  std::vector<int> buckets;
  // While the device makes one step, the next is enqueued, where it has the same rows one position on. Where
  // steps are replayed graphs; elsewhere it changes nothing. Stats::steps_ahead and wasted_rows count it.
  bool launch_ahead = true;
  // Engine::generate() makes the steps of sequences that only decode by one launch: a loop on the device,
  // which sends its draws as it goes, to pinned memory that holds max_context steps of them, or as many as
  // fit into 64 MiB (5957 of 64 rows), 256 at the least. It does not wait for the callback: what it has made
  // behind a stop sequence or a cancel is wasted, and counted. Where graphs are captured; Stats::one_launch
  // says whether it is so.
  bool one_launch = false;
  // The forms of each verb (kernels of its own, cuBLASLt's algorithms) are timed on the device while the
  // engine opens, and the fastest is taken for each bucket; Stats::forms names them. Where there are several.
  // Two runs may then choose, and round, differently: without it the same options give the same bits.
  bool tune = false;
  int threads = 0;              // of the CPU backend; 0: one per core
  bool random_weights = false;  // Engine::open takes a config.json's path, and no checkpoint is read
  uint64_t weights_seed = 0;
  // Called while weights are loaded, with bytes done and bytes in all. What it throws ends the load and is
  // thrown on.
  std::function<void(uint64_t done, uint64_t total)> progress;
  // The scheduler's log: called by the stepping thread with everything that was asked for and everything that
  // was decided, in order. It must not throw and must not call the engine.
  std::function<void(const LogEvent&)> on_event;
};

struct TokenBias {
  int32_t token = 0;
  float bias = 0;  // added to its logit; -infinity: never drawn
};
constexpr int kMaxTopLogprobs = 20;
constexpr int kMaxBiases = 64;  // logit_bias, and the stop ids that min_new_tokens holds back, together

// How a sequence's tokens are drawn, in this order: bias, repetition, frequency and presence penalty,
// temperature, top_k, top_p, min_p, then one draw that depends on the seed and the token's position and on
// nothing else in the step.
struct Sampling {
  float temperature = 0;         // 0: greedy
  int top_k = 0;                 // 0: off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  float repetition_penalty = 1;  // > 0, of every token of the sequence, the prompt's too
  float presence_penalty = 0;    // subtracted once from the logit of every token that was generated
  float frequency_penalty = 0;   // subtracted as often as the token was generated
  uint64_t seed = 0;
  std::vector<TokenBias> logit_bias = {};  // each token at most once
  int top_logprobs = 0;  // 0 to kMaxTopLogprobs: as many of the likeliest tokens come with every Output
};

// A look at the logits before a token is drawn from them: `logits` [vocab_size] fp32, to be read and changed,
// of the token that follows `tokens` (the prompt's first). The penalties and the sampling come after it. It
// runs in the stepping thread. Cost, per step with any such sequence: the step's own draw is thrown away, and
// each such row's logits are copied to the host and back (8 * vocab_size bytes), between which the device
// waits; then `sample` is launched once more, outside the graph. Stats::host_logit_rows and eager_samples
// count it. Such a sequence is not drafted for.
using LogitsCallback = std::function<void(std::span<const int32_t> tokens, std::span<float> logits)>;

struct Request {
  std::vector<int32_t> prompt = {};  // at least one token id
  int max_new_tokens = 128;          // 0: the sequence finishes at once
  Sampling sampling = {};
  std::vector<int32_t> stop_ids = {};  // beside the model's own eos_token_id
  bool ignore_eos = false;             // the model's eos_token_id do not stop it
  // It stops once its generated tokens end with one of them.
  std::vector<std::vector<int32_t>> stop_sequences = {};
  int min_new_tokens = 0;  // until then stop ids and eos are not drawn, and stop sequences do not stop
  int priority = 0;        // larger goes first; among equals, first come first served
  // Drafting by prompt lookup: where the last draft_ngram tokens (or fewer) occurred before, up to
  // draft_tokens tokens that followed there are checked as rows of the same step. Tokens are the same with it
  // and without, whatever the sampling, within what is said of tokens above: a step with drafts has more
  // rows.
  int draft_tokens = 0;  // 0: off
  int draft_ngram = 3;   // 1 to 16
  LogitsCallback on_logits = {};
};

enum class FinishReason { None, Length, Stop, Cancelled, ContextFull, NumericalError };
const char* finish_reason_name(FinishReason reason);  // "length", "stop", ...

struct TokenLogprob {
  int32_t token = 0;
  // In the full softmax of the raw logits (of those that on_logits left, where there is one).
  float logprob = 0;
};

// One thing that a step did to one sequence: a token, an end, or both. Of one sequence several come, in
// order, where drafts were right.
struct Output {
  SequenceId sequence = 0;
  int32_t token = -1;                        // -1: none, the sequence ended without one
  float logprob = 0;                         // of that token in the full softmax of the raw logits
  FinishReason finish = FinishReason::None;  // None: it goes on
  std::vector<TokenLogprob> top_logprobs;    // Sampling::top_logprobs of them, likeliest first
};

// One line of the scheduler's log. The first kinds are what was asked for, the others what was decided. Given
// what was asked for, before the same steps, an engine of the same options decides the same: see
// replay_events().
struct LogEvent {
  // Fail: a step was planned and failed. What was decided for it stands, and it is planned again.
  enum class Kind { Add, Fork, Resume, Verify, Restore, Cancel, Remove, Admit, Preempt, Finish, Step, Fail };
  Kind kind = Kind::Step;
  uint64_t step = 0;  // steps made before it
  SequenceId sequence = 0;
  SequenceId source = 0;  // Fork: of which sequence
  // Resume: tokens kept. Admit: positions shared with others. Step, Fail: rows; none where step() only told
  // of sequences that had ended meanwhile.
  int64_t length = 0;
  int max_new_tokens = 0;  // Resume
  int slot = 0;            // Admit, Preempt
  FinishReason finish = FinishReason::None;
  bool again = false;  // Step: behind another in one launch, so that nobody was admitted between
  bool ahead = false;  // Step, Fail: it was planned before the step in front of it had been made
  bool led = false;    // Fail: its successor had been planned too
  std::shared_ptr<const Request> request;               // Add
  std::shared_ptr<const Sampling> sampling;             // Fork
  std::vector<int32_t> drafts;                          // Verify
  std::shared_ptr<const std::vector<std::byte>> saved;  // Restore
};

struct BucketStats {
  int rows = 0;
  double capture_ms = 0;
  double instantiate_ms = 0;
  double upload_ms = 0;
  int64_t nodes = 0;
  int64_t device_bytes = 0;
};

// What a verb of the step is made of at a bucket.
struct FormStats {
  int rows = 0;
  std::string verb;
  std::string kernels;  // "rmsnorm + cublasLt + silu_mul"
};

// How long steps took. counts[i]: of those that took at most bounds[i] seconds and more than bounds[i - 1];
// the last: longer.
struct StepTimes {
  static constexpr std::array<double, 14> bounds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                    0.025,  0.05,    0.1,    0.25,  0.5,    1.0,   2.5};
  std::array<uint64_t, bounds.size() + 1> counts{};
  double sum_seconds = 0;
};

struct Stats {
  uint64_t steps = 0;
  uint64_t replays = 0;
  uint64_t eager_off = 0;        // eager steps: no graphs on this backend, or GraphMode::Off
  uint64_t eager_warm_up = 0;    // eager runs before capture
  uint64_t eager_samples = 0;    // draws made again, outside the graph, behind a LogitsCallback
  uint64_t host_logit_rows = 0;  // rows that a LogitsCallback was called for
  uint64_t loops = 0;            // launches of a loop of steps
  uint64_t loop_steps = 0;       // steps made by them
  uint64_t steps_ahead = 0;      // steps that were enqueued before the one in front had been made
  uint64_t rows = 0;             // rows that were tokens
  // Of those, in a step ahead, what was not wanted any more: the sequence had ended meanwhile.
  uint64_t wasted_rows = 0;
  uint64_t padded_rows = 0;   // rows that filled a bucket
  uint64_t tokens = 0;        // tokens made
  double host_seconds = 0;    // spent in step(), the wait for the device apart (on the CPU: the step itself)
  double wait_seconds = 0;    // spent waiting for the device
  uint64_t waiting = 0;       // sequences in the queue now
  uint64_t running = 0;       // sequences with a slot now
  uint64_t pages_used = 0;    // that sequences hold now
  uint64_t pages_shared = 0;  // of those, held by more than one
  // That none holds, kept for sequences that begin alike, and given up when pages are needed.
  uint64_t pages_cached = 0;
  uint64_t pages = 0;  // that can be used
  // Sequences that lost their pages to an older or more important one, and were queued again.
  uint64_t preemptions = 0;
  uint64_t prefix_lookups = 0;  // admissions that looked for pages to share
  uint64_t prefix_hits = 0;     // those that found any
  uint64_t prefix_tokens = 0;   // positions that were not computed, since their pages were shared
  uint64_t page_copies = 0;     // pages copied before one of several holders wrote to them
  uint64_t forks = 0;
  uint64_t drafted_tokens = 0;         // rows that checked a guess
  uint64_t accepted_drafts = 0;        // guesses that were right
  std::array<uint64_t, 6> finished{};  // sequences ended, by FinishReason
  StepTimes step_times;
  uint64_t weight_bytes = 0;
  uint64_t device_bytes = 0;  // all arenas
  std::string device;         // "cpu", "NVIDIA H200 (cuda:0)"
  std::string backend;        // "cpu" or "cuda"
  std::string graph;          // "start", "lazy" or "off"
  std::string one_launch;     // "off", "on", or why generate() makes single steps though it was asked for
  std::vector<BucketStats> buckets;
  std::vector<FormStats> forms;  // of every bucket, in the step's order
};

// Stats in the Prometheus text exposition format, version 0.0.4, names beginning with "rondo_".
std::string prometheus_text(const Stats& stats);

class Engine {
 public:
  // Opens a Hugging Face checkpoint directory, or, with options.random_weights, builds the shape of a
  // config.json. InvalidModel for files that are missing, malformed or not understood; InvalidArgument for a
  // path that is neither, options out of range or that do not go with the model, a device that this machine
  // or this build does not have by that number; OutOfMemory, before anything is allocated where it can be
  // told, with the largest K/V that would fit; DeviceLost for DeviceKind::Cuda where no GPU can be used, with
  // the reason. Where it throws nothing is left.
  static Engine open(const std::string& path, const EngineOptions& options);

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  // Waits for the device: of CUDA, for all that it does for this process, so a stream that the program
  // captures meanwhile loses its capture.
  ~Engine();

  // Queues a sequence. InvalidArgument for token ids outside the vocabulary, an empty prompt or bad
  // parameters; ContextFull for a prompt that no empty engine could hold. From any thread.
  SequenceId add(const Request& request);

  // From here on: a number that no sequence has, or none any more, is InvalidArgument.

  // Ends a sequence between two steps. Ending one that has ended already does nothing. From any thread.
  void cancel(SequenceId sequence);

  // Waits until there is something for step() to do, or for `seconds`; whether there is. From any thread.
  bool wait(double seconds);

  // Runs one step over as many rows as are ready and fit; returns what it did. Nothing to do: an empty
  // vector. Every decoding sequence has its row; prompts follow, in chunks. When the K/V pages run out, the
  // newest sequence of the lowest priority gives up its own and is queued again, to be recomputed: its tokens
  // are the same, within what is said of tokens above, and nobody is told but stats() and the log.
  std::vector<Output> step();

  // Steps until no sequence waits or runs; each Output goes to `each` as soon as it is there. Tokens are
  // those of step(); in one launch, within what is said of tokens above: rows that have ended stay in the
  // bucket. `each` may add() and cancel(); what it throws is thrown on, and the Outputs that it has not seen
  // come with the next call. With EngineOptions::one_launch, a run of steps is one launch.
  void generate(const std::function<void(const Output&)>& each);

  // Whether a sequence waits or runs, or an Output is still to be fetched by step().
  bool busy() const;

  // All tokens so far, the prompt's first. Readable until remove().
  std::vector<int32_t> tokens(SequenceId sequence) const;
  // None while it waits or runs. Readable until remove().
  FinishReason finish_reason(SequenceId sequence) const;

  // Cuts an ended sequence back to its first `length` tokens and queues it again for `max_new_tokens` more.
  // What it keeps counts as its prompt from then on. Misuse for a sequence that has not ended;
  // InvalidArgument for a length that is not 1 to its tokens' number, or beyond max_context, and for
  // max_new_tokens below 0.
  void resume(SequenceId sequence, int64_t length, int max_new_tokens);

  // A new sequence with the tokens that `source`, which has not ended, has now, and everything of its Request
  // but the sampling. It shares the source's pages; the page that both would write to is copied before one
  // does. Of a source whose prompt is not computed yet the fork waits for it: several samples of one prompt
  // cost one prompt. Misuse for a source that has ended; InvalidArgument for bad sampling.
  SequenceId fork(SequenceId source, const Sampling& sampling);

  // Checks guesses: runs one step over this one decoding sequence with `drafts` as rows behind its last
  // token. Returns how many of them, in order, are what the model draws itself; those and one more, the
  // model's, are appended, and the next step() reports them. The tokens are those of step(), whatever the
  // sampling, within what is said of tokens above. Misuse for a sequence that is not decoding (its prompt is
  // not computed, it waits or has ended) or has on_logits; InvalidArgument for ids outside the vocabulary, or
  // more drafts than min(max_rows, max_logit_rows) - 1; ContextFull where the engine has no pages for so
  // many, whoever would lose its own: give fewer, or step().
  int verify(SequenceId sequence, const std::vector<int32_t>& drafts);

  // A sequence as bytes: tokens, request, and its K/V pages as far as it holds any. on_logits is not among
  // them. It stays as it is, and a save that throws (a device's failure) has no effect on it either.
  std::vector<std::byte> save(SequenceId sequence);

  // A new sequence from such bytes, made by an engine of the same model and page_size, in this process or
  // another; it goes on with the same tokens, within what is said of tokens above. Where no pages are free
  // its K/V are computed again. InvalidArgument for bytes that are not whole, were changed, or are of another
  // model; ContextFull for more tokens than this engine's max_context. An ended sequence comes back as ended.
  SequenceId restore(std::span<const std::byte> bytes);

  // Forgets an ended sequence; a running one is cancelled first. Outputs of it that were not fetched are
  // dropped.
  void remove(SequenceId sequence);

  // Logits of every position of `prompt`, in order: `each(position, logits)`, vocab_size fp32 values that are
  // gone when the callback returns. Misuse while sequences wait or run; as add() for the prompt. What `each`
  // throws ends it and is thrown on.
  void score(const std::vector<int32_t>& prompt,
             const std::function<void(int64_t position, std::span<const float> logits)>& each);

  Stats stats() const;
  int64_t vocab_size() const;
  int64_t max_context() const;
  const std::vector<int32_t>& eos_token_ids() const;

 private:
  friend std::vector<Output> replay_events(Engine& engine, const std::vector<LogEvent>& events);
  struct Impl;
  std::vector<Output> step(bool ahead, bool again);  // as the log says that it was, whatever the options
  void fail(bool led);                               // the same
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Asks a fresh engine for what a log (EngineOptions::on_event) says was asked for, before the same steps,
// until nothing is left to do. Callbacks of requests must still be valid. Returns all outputs.
std::vector<Output> replay_events(Engine& engine, const std::vector<LogEvent>& events);

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

#pragma GCC visibility pop
