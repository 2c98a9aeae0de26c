// An engine opened for measuring: its own memory, verbs and recordings, its input block written directly, so
// that a step can stand at any context without anything having been decoded up to there.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runner/bench/bytes.h"
#include "runner/bench/options.h"
#include "runner/engine_core.h"

namespace rondo::bench {

// The rows of one step.
struct StepRows {
  std::vector<Row> rows;
  std::vector<int32_t> logit_rows;
};

// One row for each of `sequences` sequences, each at its `context`-th position, as a step that decodes them
// has.
StepRows decode_rows(int64_t sequences, int64_t context, int64_t vocab_size);
// The steps of a prompt of `tokens` tokens, `max_rows` rows at most in each; the last token's logits are
// drawn from.
std::vector<StepRows> prompt_rows(int64_t tokens, int64_t max_rows, int64_t vocab_size);

class Rig {
 public:
  // K/V pages are filled with random numbers, so that attention reads what a long context would hold in size,
  // and no NaN.
  Rig(const std::string& path, const EngineOptions& options);

  // The CPU backend's verbs and reader anew, over the same memory, with so many threads.
  void use_threads(int threads);

  // Slots 1 .. lengths.size() get pages for so many positions each, taken in turns as sequences that grow
  // together would take them.
  void seat(std::span<const int64_t> lengths);

  void upload(const StepRows& step);  // to the input block
  void enqueue(Mode mode, int rows);  // the step, over what was uploaded; Ahead enqueues as Replay does

  // Whether eager and replay leave the same logits and tokens for `step`, bit for bit.
  bool replay_is_eager(const StepRows& step);

  // GB/s at which `data` can be read, the best of some passes. The memory is the rig's own, `bytes` of it, or
  // the weights.
  double read_ceiling(uint64_t bytes);

  // Waits for the device. For what takes a while and goes on between two calls of a library: nothing is in
  // flight then.
  void settle() { device().synchronize(); }

  EngineCore& core() { return core_; }
  Device& device() { return core_.device(); }
  Ops& ops() { return threaded_ops_ ? *threaded_ops_ : core_.ops(); }
  Reader& reader() { return *reader_; }
  const StepDims& dims() const { return core_.dims(); }
  const Model& model() const { return core_.model(); }
  const StepBuffers& buffers() const { return core_.buffers(); }
  bool has_graphs() const { return core_.backend().make_recorder != nullptr; }
  uint32_t* sink() const { return static_cast<uint32_t*>(sink_->data()); }

 private:
  void fill_with_numbers(void* to, uint64_t bytes);
  std::vector<std::byte> outcome(Mode mode, const StepRows& step);

  EngineCore core_;
  std::unique_ptr<Ops> threaded_ops_;
  std::unique_ptr<Reader> reader_;
  std::unique_ptr<Block> sink_;
  std::unique_ptr<Block> ceiling_memory_;
};

}  // namespace rondo::bench
