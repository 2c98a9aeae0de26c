// Which rows a step has: sequences wait, get a slot and pages, run, lose both again when pages run out, and
// end. Host bookkeeping only; no device. Given the same calls before the same steps it decides the same.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "buffers/step_buffers.h"
#include "runner/engine.h"
#include "runner/sequence.h"
#include "runner/sequence_pages.h"

namespace rondo {

// One step, planned. Holds pointers to sequences: valid until the scheduler is told of anything else.
struct StepPlan {
  struct Share {
    Sequence* sequence;  // null: it left its slot after the step was planned ahead, and its row is wasted
    int64_t rows;        // of its tokens that are not cached
    int logit_row;       // where its next token is drawn, and those behind the drafts follow; -1: not yet
    std::vector<int32_t> drafts;  // one row each, behind the others
    int64_t pages;                // that the device knows once the step is enqueued
  };
  std::vector<Row> rows;
  std::vector<int32_t> logit_rows;
  std::vector<Share> shares;
  bool again = false;  // of a run: the step in front's sequences, and nobody was admitted between
  bool ahead = false;  // planned before the step in front was committed: rows lack their tokens
};

struct SchedulerOptions {
  StepDims dims;
  std::vector<int32_t> eos_token_ids;
  int prompt_chunk = 0;  // 0: all rows
  bool share_prefixes = true;
  int64_t rope_original_length = INT64_MAX;
  std::function<void(const LogEvent&)> on_event;
};

struct SchedulerCounts {
  uint64_t preemptions = 0, prefix_lookups = 0, prefix_hits = 0, prefix_tokens = 0;
  uint64_t forks = 0, drafted_tokens = 0, accepted_drafts = 0, wasted_rows = 0, tokens = 0;
  std::array<uint64_t, 6> finished{};
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  // As the functions of Engine by the same names. new_id() and check() may be called from any thread.
  SequenceId new_id() { return next_id_++; }
  void check(const Request& request) const;
  SequenceId add(const Request& request);
  void add(SequenceId id, const Request& request);  // checked before
  void cancel(SequenceId id);
  void resume(SequenceId id, int64_t length, int max_new_tokens);
  SequenceId fork(SequenceId id, const Sampling& sampling);
  void remove(SequenceId id);
  const Sequence& sequence(SequenceId id) const;
  bool knows(SequenceId id) const { return sequences_.count(id) > 0; }
  bool busy() const { return !waiting_.empty() || !running_.empty() || !outputs_.empty(); }

  // A sequence that was saved, `cached` of whose tokens have K/V to be restored: those pages, unless there
  // are none free.
  Sequence& restore(Sequence sequence, std::shared_ptr<const std::vector<std::byte>> saved);

  // Admits what fits and picks the next step's rows: one for every decoding sequence and its drafts, then
  // chunks of prompts while rows are left. Sequences advance only in commit(), so that a failed step can be
  // planned again.
  StepPlan plan();
  // A step of this one decoding sequence, with these drafts.
  StepPlan plan_verify(SequenceId id, const std::vector<int32_t>& drafts);

  // Plans the successor of `plan`, a step that is not committed yet: the same rows, each one position on.
  // False where the next step will have others, or would take pages from somebody. The scheduler keeps it, to
  // take the shares of sequences that leave their slots out of it.
  bool plan_ahead(const StepPlan& plan);
  const StepPlan& ahead() const { return ahead_; }
  bool ahead_is_wanted() const;  // a share is left
  StepPlan take_ahead() { return std::exchange(ahead_, {}); }
  void drop_ahead() { ahead_ = {}; }
  // The planned step failed, and with it its successor, where it `led` to one.
  void fail(const StepPlan& plan, bool led);

  // Somebody waits who may be admitted by the next plan().
  bool somebody_may_come() const;

  // A run: `plan` and steps behind it, with no decision of the scheduler's between them. reserve_run() gives
  // its sequences the pages for as many steps as they can make alone, at most `most`, and returns how many; 0
  // where there is no such run. again() is the step behind a committed one, of the sequences that go on,
  // whose draws lie in the same logit rows. plan_again() is the same as a step of its own. end_run() gives
  // back the pages that were not needed.
  int reserve_run(StepPlan& plan, int most);
  int64_t tokens_left(const Sequence& sequence) const;  // until it ends by its length or the context's
  StepPlan again(const StepPlan& plan) const;
  StepPlan plan_again();
  void end_run();

  // What the planned step made; sampled[i] and top[i * kMaxTopTokens] .. belong to logit row i; `top` may be
  // empty where no sequence asks for it. Returns how many drafts were right.
  int commit(const StepPlan& plan, std::span<const Sampled> sampled, std::span<const TopToken> top);
  std::vector<Output> take_outputs();
  // Outputs are about to be taken by a step without rows: the log has it, where there are any.
  void log_told();
  void return_outputs(std::span<const Output> outputs);  // the last that were taken, in front of all others

  // A slot and pages for `positions`, of a scheduler that is not busy; nothing but these four calls sees
  // them.
  Sequence lend(int64_t positions);
  void take_back(Sequence& lent);

  const PagePool& pages() const { return pages_.pool(); }
  const SchedulerCounts& counts() const { return counts_; }
  uint64_t steps() const { return steps_; }  // committed
  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }

 private:
  // Who goes first; and who keeps its pages, since they are taken from the last.
  struct Before {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival;
    }
  };
  Sequence& find(SequenceId id);
  void queue(Sequence& sequence, int64_t max_new_tokens);
  void wait(Sequence& sequence);
  void leave(Sequence& sequence);
  void end(Sequence& sequence, FinishReason reason);
  void log(LogEvent event);

  void adopt_followers(const Sequence& source);
  void admit();
  bool reserve(Sequence& sequence);
  void preempt(Sequence& sequence);
  bool drop_waiting_pages(const Sequence& but);
  bool make_room(Sequence& sequence, int64_t positions, bool spare);
  std::vector<int32_t> guess(Sequence& sequence, int64_t most);
  void give(StepPlan& plan, Sequence& sequence, int64_t rows, std::vector<int32_t> drafts);
  bool goes_on(const StepPlan::Share& share) const;
  bool decodes_alone(const StepPlan::Share& share) const;

  bool take_token(Sequence& sequence, const Sampled& sampled, std::span<const TopToken> top);
  bool stops(const Sequence& sequence) const;

  SchedulerOptions options_;
  const StepDims& dims_;
  SequencePages pages_;
  std::vector<int> free_slots_;
  std::map<SequenceId, Sequence> sequences_;  // nodes do not move
  std::set<Sequence*, Before> waiting_;
  std::vector<Sequence*> running_;  // ordered by Before
  std::vector<Output> outputs_;
  size_t followers_ = 0;  // waiting sequences with `after`
  bool blocked_ = false;  // the first that waits found no pages, and none was freed since
  StepPlan ahead_;        // without shares: none
  uint64_t steps_ = 0;
  uint64_t arrivals_ = 0;
  SchedulerCounts counts_;
  std::atomic<SequenceId> next_id_{1};
};

}  // namespace rondo
