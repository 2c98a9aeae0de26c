// What is asked of the scheduler between two steps. Its decisions are in scheduler_plan.cc.
#include "runner/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace rondo {

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)),
      dims_(options_.dims),
      pages_(dims_, options_.share_prefixes, options_.rope_original_length) {
  for (int slot = dims_.max_sequences; slot >= 1; --slot) free_slots_.push_back(slot);
}

void Scheduler::log(LogEvent event) {
  if (!options_.on_event) return;
  event.step = steps_;
  options_.on_event(event);
}

void Scheduler::check(const Request& request) const { check_request(request, dims_, options_.eos_token_ids); }

SequenceId Scheduler::add(const Request& request) {
  check(request);
  const SequenceId id = new_id();
  add(id, request);
  return id;
}

void Scheduler::add(SequenceId id, const Request& request) {
  if (options_.on_event) {
    LogEvent event;
    event.kind = LogEvent::Kind::Add;
    event.sequence = id;
    event.request = std::make_shared<const Request>(request);
    log(std::move(event));
  }
  Sequence sequence = make_sequence(request, options_.eos_token_ids);
  sequence.id = id;
  queue(sequences_.emplace(id, std::move(sequence)).first->second, request.max_new_tokens);
}

void Scheduler::queue(Sequence& sequence, int64_t max_new_tokens) {
  sequence.prompt_length = static_cast<int64_t>(sequence.tokens.size());
  sequence.max_length = sequence.prompt_length + max_new_tokens;
  sequence.arrival = arrivals_++;
  sequence.finish = FinishReason::None;
  sequence.state = Sequence::State::Waiting;
  if (max_new_tokens == 0)
    end(sequence, FinishReason::Length);
  else
    wait(sequence);
}

void Scheduler::wait(Sequence& sequence) {
  waiting_.insert(&sequence);
  blocked_ = false;
}

Sequence& Scheduler::find(SequenceId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end())
    throw Error(ErrorKind::InvalidArgument, fmt::format("sequence {}: there is none of this number", id));
  return it->second;
}

const Sequence& Scheduler::sequence(SequenceId id) const { return const_cast<Scheduler*>(this)->find(id); }

void Scheduler::cancel(SequenceId id) {
  Sequence& sequence = find(id);
  if (sequence.state == Sequence::State::Ended) return;
  LogEvent event;
  event.kind = LogEvent::Kind::Cancel;
  event.sequence = id;
  log(std::move(event));
  end(sequence, FinishReason::Cancelled);
}

void Scheduler::resume(SequenceId id, int64_t length, int max_new_tokens) {
  Sequence& sequence = find(id);
  if (sequence.state != Sequence::State::Ended)
    throw Error(ErrorKind::Misuse, fmt::format("resume: sequence {} has not ended; cancel it first", id));
  const auto most = std::min(static_cast<int64_t>(sequence.tokens.size()), dims_.max_context);
  if (length < 1 || length > most)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("resume: length: expected 1 to {}, found {}", most, length));
  if (max_new_tokens < 0)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("max_new_tokens: expected 0 or more, found {}", max_new_tokens));
  LogEvent event;
  event.kind = LogEvent::Kind::Resume;
  event.sequence = id;
  event.length = length;
  event.max_new_tokens = max_new_tokens;
  log(std::move(event));
  sequence.tokens.resize(static_cast<size_t>(length));
  sequence.min_new_tokens = 0;
  queue(sequence, max_new_tokens);
}

SequenceId Scheduler::fork(SequenceId id, const Sampling& sampling) {
  Sequence& source = find(id);
  check_sampling(sampling, dims_.vocab_size);
  check_biases(sampling, source.min_new_tokens > 0 ? source.stop_ids.size() : 0);
  if (source.state == Sequence::State::Ended)
    throw Error(ErrorKind::Misuse,
                fmt::format("fork: sequence {} has ended; add its tokens as a prompt", id));
  Sequence made = source;
  made.id = new_id();
  made.state = Sequence::State::Waiting;
  made.arrival = arrivals_++;
  made.sampling = sampling;
  made.cached = made.tabled = 0;
  made.slot = 0;
  made.slot_written = false;
  made.pages.clear();
  made.copies.clear();
  made.chain.clear();
  made.after = id;
  if (options_.on_event) {
    LogEvent event;
    event.kind = LogEvent::Kind::Fork;
    event.sequence = made.id;
    event.source = id;
    event.sampling = std::make_shared<const Sampling>(sampling);
    log(std::move(event));
  }
  ++counts_.forks;
  Sequence& kept = sequences_.emplace(made.id, std::move(made)).first->second;
  wait(kept);
  ++followers_;
  adopt_followers(source);
  return kept.id;
}

// Forks of `source` get its pages as soon as it has computed what they need; without it they go on alone.
void Scheduler::adopt_followers(const Sequence& source) {
  if (followers_ == 0) return;
  for (Sequence* sequence : waiting_) {
    if (sequence->after != source.id) continue;
    const auto wanted = static_cast<int64_t>(sequence->tokens.size()) - 1;
    // Copies that are still to be made are not there to be copied from.
    if (source.state != Sequence::State::Ended && (source.cached < wanted || !source.copies.empty()))
      continue;
    sequence->after = 0;
    --followers_;
    blocked_ = false;
    if (source.state != Sequence::State::Ended) pages_.adopt(*sequence, source, wanted);
  }
}

void Scheduler::remove(SequenceId id) {
  cancel(id);
  LogEvent event;
  event.kind = LogEvent::Kind::Remove;
  event.sequence = id;
  log(std::move(event));
  std::erase_if(outputs_, [id](const Output& output) { return output.sequence == id; });
  sequences_.erase(id);
}

Sequence& Scheduler::restore(Sequence sequence, std::shared_ptr<const std::vector<std::byte>> saved) {
  sequence.id = new_id();
  LogEvent event;
  event.kind = LogEvent::Kind::Restore;
  event.sequence = sequence.id;
  event.saved = std::move(saved);
  log(std::move(event));
  sequence.arrival = arrivals_++;
  Sequence& kept = sequences_.emplace(sequence.id, std::move(sequence)).first->second;
  if (kept.state == Sequence::State::Ended) return kept;
  kept.state = Sequence::State::Waiting;
  if (!pages_.grow(kept, kept.cached)) kept.cached = 0;
  wait(kept);
  return kept;
}

// Out of the queue or off its slot, without pages.
void Scheduler::leave(Sequence& sequence) {
  if (sequence.state == Sequence::State::Waiting) waiting_.erase(&sequence);
  std::erase(running_, &sequence);
  blocked_ = false;
  for (StepPlan::Share& share : ahead_.shares)
    if (share.sequence == &sequence) share.sequence = nullptr;
  if (sequence.after) --followers_;
  sequence.after = 0;
  if (sequence.slot) free_slots_.push_back(sequence.slot);
  sequence.slot = 0;
  sequence.slot_written = false;
  pages_.release(sequence);
}

void Scheduler::end(Sequence& sequence, FinishReason reason) {
  leave(sequence);
  sequence.state = Sequence::State::Ended;
  sequence.finish = reason;
  adopt_followers(sequence);
  outputs_.push_back({sequence.id, -1, 0, reason, {}});
  ++counts_.finished[static_cast<size_t>(reason)];
  LogEvent event;
  event.kind = LogEvent::Kind::Finish;
  event.sequence = sequence.id;
  event.finish = reason;
  log(std::move(event));
}

Sequence Scheduler::lend(int64_t positions) {
  Sequence lent;
  lent.slot = free_slots_.back();
  pages_.grow(lent, positions);
  return lent;
}

void Scheduler::take_back(Sequence& lent) { pages_.release(lent); }

void Scheduler::log_told() {
  if (outputs_.empty()) return;
  LogEvent event;
  event.kind = LogEvent::Kind::Step;
  log(std::move(event));
}

std::vector<Output> Scheduler::take_outputs() { return std::exchange(outputs_, {}); }

void Scheduler::return_outputs(std::span<const Output> outputs) {
  outputs_.insert(outputs_.begin(), outputs.begin(), outputs.end());
}

}  // namespace rondo
