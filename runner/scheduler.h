// Which rows a step has. Host bookkeeping only: sequences, slots and pages; no device.
#pragma once

#include <deque>
#include <map>
#include <span>
#include <vector>

#include "buffers/page_pool.h"
#include "buffers/step_buffers.h"
#include "runner/engine.h"

namespace rondo {

struct Sequence {
  enum class State { Waiting, Running, Ended };
  SequenceId id = 0;
  State state = State::Waiting;
  FinishReason finish = FinishReason::None;
  std::vector<int32_t> tokens;  // the prompt's first
  int64_t prompt_length = 0;
  int64_t max_length = 0;  // of tokens; reaching it is FinishReason::Length
  int64_t cached = 0;      // tokens whose K and V are in pages
  Sampling sampling;
  std::vector<int32_t> stop_ids;  // sorted; the model's own among them unless ignored
  int slot = 0;                   // 0: none
  bool slot_written = false;      // the device knows the slot's pages and parameters
  std::vector<int32_t> pages;
};

// One step, planned. Holds pointers to sequences: valid until the scheduler is told of anything else.
struct StepPlan {
  struct Share {
    Sequence* sequence;
    int64_t rows;   // of its next tokens
    int logit_row;  // where its next token is drawn, -1: the prompt goes on
  };
  std::vector<Row> rows;
  std::vector<int32_t> logit_rows;
  std::vector<Share> shares;
};

class Scheduler {
 public:
  Scheduler(const StepDims& dims, std::vector<int32_t> eos_token_ids);

  // As the functions of Engine by the same names.
  SequenceId add(const Request& request);
  void cancel(SequenceId id);
  void resume(SequenceId id, int64_t length, int max_new_tokens);
  void remove(SequenceId id);
  const Sequence& sequence(SequenceId id) const;
  bool busy() const { return !waiting_.empty() || !running_.empty() || !outputs_.empty(); }

  // Admits what fits, first come first served, and picks the next step's rows: one for every decoding
  // sequence, then chunks of prompts while rows are left. Sequences advance only in commit(), so that a
  // failed step can be planned again.
  StepPlan plan();

  // What the planned step made; sampled[i] belongs to logit row i. Returns its outputs behind those of
  // cancel() and add().
  std::vector<Output> commit(const StepPlan& plan, std::span<const Sampled> sampled);
  std::vector<Output> take_outputs();

  const PagePool& pages() const { return pages_; }
  PagePool& pages() { return pages_; }
  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }

 private:
  Sequence& find(SequenceId id);
  void check(const Request& request) const;
  void queue(Sequence& sequence, int max_new_tokens);
  void admit();
  void end(Sequence& sequence, FinishReason reason);
  void take_token(Sequence& sequence, const Sampled& sampled);

  StepDims dims_;
  std::vector<int32_t> eos_token_ids_;
  PagePool pages_;
  std::vector<int> free_slots_;
  std::map<SequenceId, Sequence> sequences_;  // nodes do not move
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // in order of admission
  std::vector<Output> outputs_;
  SequenceId next_id_ = 1;
};

// What a slot's rows share, for the device.
SlotParams slot_params(const Sequence& sequence);

}  // namespace rondo
