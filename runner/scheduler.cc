#include "runner/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace rondo {
namespace {

void check_tokens(const char* what, const std::vector<int32_t>& tokens, int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_size)
      throw Error(ErrorKind::InvalidArgument, fmt::format("{}[{}]: expected a token id of 0 to {}, found {}",
                                                          what, i, vocab_size - 1, tokens[i]));
}

// Written so that NaN fails.
void check_number(const char* what, float found, bool good, const char* expected) {
  if (!good || !std::isfinite(found))
    throw Error(ErrorKind::InvalidArgument, fmt::format("{}: expected {}, found {}", what, expected, found));
}

}  // namespace

SlotParams slot_params(const Sequence& sequence) {
  SlotParams params;
  params.temperature = sequence.sampling.temperature;
  params.top_p = sequence.sampling.top_p;
  params.min_p = sequence.sampling.min_p;
  params.repetition_penalty = sequence.sampling.repetition_penalty;
  params.top_k = sequence.sampling.top_k;
  params.seed_low = static_cast<uint32_t>(sequence.sampling.seed);
  params.seed_high = static_cast<uint32_t>(sequence.sampling.seed >> 32);
  params.prompt_length = static_cast<int32_t>(sequence.prompt_length);
  return params;
}

Scheduler::Scheduler(const StepDims& dims, std::vector<int32_t> eos_token_ids)
    : dims_(dims), eos_token_ids_(std::move(eos_token_ids)), pages_(dims.pages) {
  for (int slot = dims.max_sequences; slot >= 1; --slot) free_slots_.push_back(slot);
}

void Scheduler::check(const Request& request) const {
  if (request.prompt.empty())
    throw Error(ErrorKind::InvalidArgument, "prompt: expected at least one token id, found none");
  check_tokens("prompt", request.prompt, dims_.vocab_size);
  check_tokens("stop_ids", request.stop_ids, dims_.vocab_size);
  if (request.max_new_tokens < 0)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("max_new_tokens: expected 0 or more, found {}", request.max_new_tokens));
  const Sampling& s = request.sampling;
  check_number("temperature", s.temperature, s.temperature >= 0, "0 (greedy) or more");
  check_number("top_p", s.top_p, s.top_p > 0 && s.top_p <= 1, "more than 0 and at most 1");
  check_number("min_p", s.min_p, s.min_p >= 0 && s.min_p <= 1, "0 to 1");
  check_number("repetition_penalty", s.repetition_penalty, s.repetition_penalty > 0, "more than 0");
  if (s.top_k < 0 || s.top_k > dims_.vocab_size)
    throw Error(
        ErrorKind::InvalidArgument,
        fmt::format("top_k: expected 0 (off) to vocab_size = {}, found {}", dims_.vocab_size, s.top_k));
  if (static_cast<int64_t>(request.prompt.size()) > dims_.max_context)
    throw Error(ErrorKind::ContextFull,
                fmt::format("prompt: {} tokens, and a sequence holds {} (max_context)", request.prompt.size(),
                            dims_.max_context));
}

SequenceId Scheduler::add(const Request& request) {
  check(request);
  Sequence sequence;
  sequence.id = next_id_;
  sequence.tokens = request.prompt;
  sequence.sampling = request.sampling;
  sequence.stop_ids = request.stop_ids;
  if (!request.ignore_eos)
    sequence.stop_ids.insert(sequence.stop_ids.end(), eos_token_ids_.begin(), eos_token_ids_.end());
  std::sort(sequence.stop_ids.begin(), sequence.stop_ids.end());
  queue(sequences_.emplace(next_id_, std::move(sequence)).first->second, request.max_new_tokens);
  return next_id_++;
}

void Scheduler::queue(Sequence& sequence, int max_new_tokens) {
  sequence.prompt_length = static_cast<int64_t>(sequence.tokens.size());
  sequence.max_length = sequence.prompt_length + max_new_tokens;
  sequence.cached = 0;
  sequence.finish = FinishReason::None;
  sequence.state = Sequence::State::Waiting;
  if (max_new_tokens == 0)
    end(sequence, FinishReason::Length);
  else
    waiting_.push_back(&sequence);
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
  if (sequence.state != Sequence::State::Ended) end(sequence, FinishReason::Cancelled);
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
  sequence.tokens.resize(static_cast<size_t>(length));
  queue(sequence, max_new_tokens);
}

void Scheduler::remove(SequenceId id) {
  cancel(id);
  std::erase_if(outputs_, [id](const Output& output) { return output.sequence == id; });
  sequences_.erase(id);
}

void Scheduler::end(Sequence& sequence, FinishReason reason) {
  std::erase(running_, &sequence);
  std::erase(waiting_, &sequence);
  if (sequence.slot) free_slots_.push_back(sequence.slot);
  sequence.slot = 0;
  sequence.slot_written = false;
  pages_.give_back(sequence.pages);
  sequence.state = Sequence::State::Ended;
  sequence.finish = reason;
  outputs_.push_back({sequence.id, -1, 0, reason});
}

// A sequence is admitted once all the pages it can ever need are free: an admitted one never waits for
// memory, and one that does not fit leaves the others' tokens as they would be without it.
void Scheduler::admit() {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Sequence& sequence = *waiting_.front();
    const int64_t positions = std::min(sequence.max_length, dims_.max_context);
    if (!pages_.take((positions + dims_.page_size - 1) / dims_.page_size, sequence.pages)) return;
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    sequence.state = Sequence::State::Running;
    waiting_.pop_front();
    running_.push_back(&sequence);
  }
}

StepPlan Scheduler::plan() {
  admit();
  StepPlan plan;
  const auto pending = [](const Sequence* s) { return static_cast<int64_t>(s->tokens.size()) - s->cached; };
  const auto give = [&](Sequence* sequence, int64_t rows) {
    const bool draws = rows == pending(sequence);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t position = sequence->cached + i;
      plan.rows.push_back({sequence->tokens[static_cast<size_t>(position)], static_cast<int32_t>(position),
                           sequence->slot, 1});
    }
    plan.shares.push_back({sequence, rows, draws ? static_cast<int>(plan.logit_rows.size()) : -1});
    if (draws) plan.logit_rows.push_back(static_cast<int32_t>(plan.rows.size()) - 1);
  };
  // max_sequences <= max_rows and <= max_logit_rows, so a decoding sequence always has its row.
  for (Sequence* sequence : running_)
    if (pending(sequence) == 1) give(sequence, 1);
  for (Sequence* sequence : running_) {
    const int64_t left = dims_.max_rows() - static_cast<int64_t>(plan.rows.size());
    if (pending(sequence) > 1 && left > 0) give(sequence, std::min(left, pending(sequence)));
  }
  return plan;
}

void Scheduler::take_token(Sequence& sequence, const Sampled& sampled) {
  if (sampled.status != Sampled::kOk) return end(sequence, FinishReason::NumericalError);
  sequence.tokens.push_back(sampled.token);
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  FinishReason finish = FinishReason::None;
  if (std::binary_search(sequence.stop_ids.begin(), sequence.stop_ids.end(), sampled.token))
    finish = FinishReason::Stop;
  else if (length >= sequence.max_length)
    finish = FinishReason::Length;
  else if (length > dims_.max_context)  // this token has no position to be fed at
    finish = FinishReason::ContextFull;
  if (finish == FinishReason::None) {
    outputs_.push_back({sequence.id, sampled.token, sampled.logprob, finish});
  } else {
    end(sequence, finish);
    outputs_.back() = {sequence.id, sampled.token, sampled.logprob, finish};
  }
}

std::vector<Output> Scheduler::commit(const StepPlan& plan, std::span<const Sampled> sampled) {
  for (const StepPlan::Share& share : plan.shares) {
    share.sequence->cached += share.rows;
    share.sequence->slot_written = true;
    if (share.logit_row >= 0) take_token(*share.sequence, sampled[static_cast<size_t>(share.logit_row)]);
  }
  return take_outputs();
}

std::vector<Output> Scheduler::take_outputs() { return std::exchange(outputs_, {}); }

}  // namespace rondo
