// What the scheduler decides: who gets a slot and pages, who loses them, which rows the step has, and what
// became of them.
#include <fmt/format.h>

#include <algorithm>

#include "runner/drafting.h"
#include "runner/scheduler.h"

namespace rondo {

// Pages for all of its tokens, and one for each sequence that runs, so that none of them loses its own right
// away.
bool Scheduler::reserve(Sequence& sequence) {
  const bool fresh = sequence.pages.empty();
  const int64_t shared = fresh ? pages_.adopt_prefix(sequence) : 0;
  const auto positions = static_cast<int64_t>(sequence.tokens.size());
  for (;;) {
    const int64_t missing = pages_.pages_for(positions) - static_cast<int64_t>(sequence.pages.size());
    if (missing + static_cast<int64_t>(running_.size()) <= pages_.pool().free() &&
        pages_.grow(sequence, positions))
      break;
    if (running_.empty() && drop_waiting_pages(sequence)) continue;
    if (fresh) pages_.release(sequence);
    return false;
  }
  if (fresh) {
    ++counts_.prefix_lookups;
    counts_.prefix_hits += shared > 0;
  }
  counts_.prefix_tokens += static_cast<uint64_t>(sequence.cached);
  return true;
}

void Scheduler::admit() {
  blocked_ = false;
  for (auto it = waiting_.begin(); it != waiting_.end() && !free_slots_.empty();) {
    Sequence& sequence = **it;
    if (sequence.after != 0) {
      ++it;
      continue;
    }
    if (!reserve(sequence)) {  // nobody overtakes it
      blocked_ = true;
      return;
    }
    it = waiting_.erase(it);
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    sequence.state = Sequence::State::Running;
    running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, Before()), &sequence);
    LogEvent event;
    event.kind = LogEvent::Kind::Admit;
    event.sequence = sequence.id;
    event.length = sequence.cached;
    event.slot = sequence.slot;
    log(std::move(event));
  }
}

void Scheduler::preempt(Sequence& sequence) {
  LogEvent event;
  event.kind = LogEvent::Kind::Preempt;
  event.sequence = sequence.id;
  event.slot = sequence.slot;
  log(std::move(event));
  leave(sequence);
  sequence.state = Sequence::State::Waiting;
  wait(sequence);
  ++counts_.preemptions;
}

// Of the sequences that wait, the last that holds pages gives them up.
bool Scheduler::drop_waiting_pages(const Sequence& but) {
  for (auto it = waiting_.rbegin(); it != waiting_.rend(); ++it)
    if (*it != &but && !(*it)->pages.empty()) {
      pages_.release(**it);
      return true;
    }
  return false;
}

// Pages of its own for the first `positions`, from the last of the others if need be. False: it was itself
// the last, and waits now; or, where it is spared, nobody else has any.
bool Scheduler::make_room(Sequence& sequence, int64_t positions, bool spare) {
  while (!pages_.grow(sequence, positions) || !pages_.own(sequence, sequence.cached, positions)) {
    if (drop_waiting_pages(sequence)) continue;
    const auto last = std::find_if(running_.rbegin(), running_.rend(),
                                   [&](const Sequence* other) { return !spare || other != &sequence; });
    if (last == running_.rend()) return false;
    Sequence& loser = **last;
    preempt(loser);
    if (&loser == &sequence) return false;
  }
  return true;
}

// Guesses at what follows, as many as there is room for without taking anybody's.
std::vector<int32_t> Scheduler::guess(Sequence& sequence, int64_t most) {
  if (sequence.draft_tokens == 0 || sequence.on_logits) return {};
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  most = std::min(
      {most, int64_t{sequence.draft_tokens}, sequence.max_length - length - 1, dims_.max_context - length});
  if (most <= 0) return {};
  auto drafts = prompt_lookup(sequence.tokens, sequence.draft_ngram, static_cast<int>(most));
  if (!drafts.empty() && !pages_.grow(sequence, length + static_cast<int64_t>(drafts.size()))) {
    const int64_t room = static_cast<int64_t>(sequence.pages.size()) * dims_.page_size - length;
    drafts.resize(std::min(drafts.size(), static_cast<size_t>(room)));
  }
  return drafts;
}

void Scheduler::give(StepPlan& plan, Sequence& sequence, int64_t rows, std::vector<int32_t> drafts) {
  const bool draws = rows == sequence.pending();
  const auto row = [&](int32_t token, int64_t position) {
    plan.rows.push_back({token, static_cast<int32_t>(position), sequence.slot, 1});
  };
  const auto logit_row = [&] { plan.logit_rows.push_back(static_cast<int32_t>(plan.rows.size()) - 1); };
  const int first = draws ? static_cast<int>(plan.logit_rows.size()) : -1;
  for (int64_t i = 0; i < rows; ++i)
    row(sequence.tokens[static_cast<size_t>(sequence.cached + i)], sequence.cached + i);
  if (draws) logit_row();
  for (size_t i = 0; i < drafts.size(); ++i) {
    row(drafts[i], sequence.cached + rows + static_cast<int64_t>(i));
    logit_row();
  }
  plan.shares.push_back(
      {&sequence, rows, first, std::move(drafts), static_cast<int64_t>(sequence.pages.size())});
}

StepPlan Scheduler::plan() {
  admit();
  // max_sequences <= max_rows and <= max_logit_rows, so a decoding sequence always has its row. Whoever loses
  // its pages stands behind the one that needs them, and has no row yet.
  std::vector<Sequence*> decoding;
  for (size_t i = 0; i < running_.size();) {
    Sequence& sequence = *running_[i];
    if (sequence.pending() == 1) {
      if (!make_room(sequence, sequence.cached + 1, false)) continue;
      decoding.push_back(&sequence);
    }
    ++i;
  }
  StepPlan plan;
  const bool prompts = decoding.size() < running_.size();
  int64_t spare_rows = (dims_.max_rows() - static_cast<int64_t>(decoding.size())) / (prompts ? 2 : 1);
  int64_t spare_logit_rows = dims_.max_logit_rows - static_cast<int64_t>(running_.size());
  for (Sequence* sequence : decoding) {
    auto drafts = guess(*sequence, std::min(spare_rows, spare_logit_rows));
    spare_rows -= static_cast<int64_t>(drafts.size());
    spare_logit_rows -= static_cast<int64_t>(drafts.size());
    give(plan, *sequence, 1, std::move(drafts));
  }
  int64_t left = dims_.max_rows() - static_cast<int64_t>(plan.rows.size());
  if (options_.prompt_chunk > 0) left = std::min<int64_t>(left, options_.prompt_chunk);
  for (size_t i = 0; i < running_.size() && left > 0; ++i) {
    Sequence& sequence = *running_[i];
    const int64_t rows = std::min(left, sequence.pending());
    if (sequence.pending() == 1) continue;
    // Its pages were reserved, but one may be shared. Nobody who has rows already may lose pages for the
    // copy.
    const int64_t end = sequence.cached + rows;
    if (!plan.rows.empty()) {
      if (!pages_.own(sequence, sequence.cached, end)) continue;
    } else if (!make_room(sequence, end, true)) {
      preempt(sequence);
      break;
    }
    give(plan, sequence, rows, {});
    left -= rows;
  }
  return plan;
}

StepPlan Scheduler::plan_verify(SequenceId id, const std::vector<int32_t>& drafts) {
  Sequence& sequence = find(id);
  check_tokens("drafts", drafts, dims_.vocab_size);
  const auto most = static_cast<size_t>(std::min(dims_.max_rows(), dims_.max_logit_rows) - 1);
  if (drafts.size() > most)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("drafts: expected at most {} (min(max_rows, max_logit_rows) - 1), found {}", most,
                            drafts.size()));
  if (sequence.state != Sequence::State::Running || sequence.pending() != 1)
    throw Error(ErrorKind::Misuse,
                fmt::format("verify: sequence {} is not decoding; step() until it has its first token", id));
  if (sequence.on_logits)
    throw Error(ErrorKind::Misuse,
                fmt::format("verify: sequence {} has on_logits, which sees one token at a time", id));
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  const int64_t useful = std::min(
      {static_cast<int64_t>(drafts.size()), sequence.max_length - length - 1, dims_.max_context - length});
  if (!make_room(sequence, length + std::max<int64_t>(useful, 0), true))
    throw Error(ErrorKind::ContextFull,
                fmt::format("verify: no K/V pages for {} positions of sequence {}", length + useful, id));
  LogEvent event;
  event.kind = LogEvent::Kind::Verify;
  event.sequence = id;
  event.drafts = drafts;
  log(std::move(event));
  StepPlan plan;
  give(plan, sequence, 1, {drafts.begin(), drafts.begin() + std::max<int64_t>(useful, 0)});
  return plan;
}

bool Scheduler::stops(const Sequence& sequence) const {
  if (std::binary_search(sequence.stop_ids.begin(), sequence.stop_ids.end(), sequence.tokens.back()))
    return true;
  if (sequence.generated() < sequence.min_new_tokens) return false;
  return std::any_of(sequence.stop_sequences.begin(), sequence.stop_sequences.end(), [&](const auto& stop) {
    return static_cast<int64_t>(stop.size()) <= sequence.generated() &&
           std::equal(stop.rbegin(), stop.rend(), sequence.tokens.rbegin());
  });
}

// Whether the sequence goes on.
bool Scheduler::take_token(Sequence& sequence, const Sampled& sampled, std::span<const TopToken> top) {
  if (sampled.status != Sampled::kOk) {
    end(sequence, FinishReason::NumericalError);
    return false;
  }
  sequence.tokens.push_back(sampled.token);
  ++counts_.tokens;
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  FinishReason finish = FinishReason::None;
  if (stops(sequence))
    finish = FinishReason::Stop;
  else if (length >= sequence.max_length)
    finish = FinishReason::Length;
  else if (length > dims_.max_context)  // this token has no position to be fed at
    finish = FinishReason::ContextFull;
  if (finish != FinishReason::None) {
    end(sequence, finish);
    outputs_.pop_back();
  }
  Output output{sequence.id, sampled.token, sampled.logprob, finish, {}};
  const auto listed = std::min(static_cast<int64_t>(sequence.sampling.top_logprobs), dims_.vocab_size);
  for (int64_t i = 0; i < listed; ++i)
    output.top_logprobs.push_back({top[static_cast<size_t>(i)].token, top[static_cast<size_t>(i)].logprob});
  outputs_.push_back(std::move(output));
  return finish == FinishReason::None;
}

int Scheduler::commit(const StepPlan& plan, std::span<const Sampled> sampled, std::span<const TopToken> top) {
  LogEvent event;
  event.kind = LogEvent::Kind::Step;
  event.length = static_cast<int64_t>(plan.rows.size());
  event.ahead = plan.ahead;
  event.again = plan.again;
  log(std::move(event));
  ++steps_;
  int right = 0;
  for (const StepPlan::Share& share : plan.shares) {
    if (!share.sequence) {
      counts_.wasted_rows += static_cast<uint64_t>(share.rows);
      continue;
    }
    Sequence& sequence = *share.sequence;
    sequence.cached += share.rows;
    sequence.slot_written = true;
    sequence.tabled = share.pages;
    pages_.committed(sequence);
    adopt_followers(sequence);
    if (share.logit_row < 0) continue;
    counts_.drafted_tokens += share.drafts.size();
    // Token i was drawn behind draft i - 1: it stands as long as all drafts before it were what was drawn.
    for (size_t i = 0;; ++i) {
      const auto at = static_cast<size_t>(share.logit_row) + i;
      const auto listed = top.empty() ? top : top.subspan(at * kMaxTopTokens, kMaxTopTokens);
      if (!take_token(sequence, sampled[at], listed)) break;
      if (i == share.drafts.size() || sequence.tokens.back() != share.drafts[i]) break;
      ++sequence.cached;
      ++right;
      ++counts_.accepted_drafts;
    }
    if (sequence.state == Sequence::State::Running) pages_.committed(sequence);
  }
  return right;
}

}  // namespace rondo
