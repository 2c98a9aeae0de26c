// The one step that can be planned before its predecessor's tokens are known: that of sequences which all
// decode and go on.
#include <algorithm>

#include "runner/scheduler.h"

namespace rondo {

bool Scheduler::somebody_may_come() const { return !waiting_.empty() && !free_slots_.empty() && !blocked_; }

// Whether nothing but its own token stands between the share's sequence and its next row.
bool Scheduler::decodes_alone(const StepPlan::Share& share) const {
  if (!share.sequence || share.rows != 1 || share.logit_row < 0 || !share.drafts.empty()) return false;
  return share.sequence->draft_tokens == 0 && !share.sequence->on_logits;
}

// Whether the share's sequence has one row in the next step too, as far as can be known before its token. A
// stop token or a stop sequence cannot be.
bool Scheduler::goes_on(const StepPlan::Share& share) const {
  if (!decodes_alone(share)) return false;
  const Sequence& sequence = *share.sequence;
  const auto position = static_cast<int64_t>(sequence.tokens.size());  // of the token that is being drawn
  if (position + 1 >= sequence.max_length || position >= dims_.max_context) return false;
  const auto page = static_cast<size_t>(position / dims_.page_size);
  return page >= sequence.pages.size() || pages_.pool().exclusive(sequence.pages[page]);
}

bool Scheduler::plan_ahead(const StepPlan& plan) {
  if (plan.shares.size() != running_.size() || somebody_may_come()) return false;
  int64_t missing = 0;
  for (const StepPlan::Share& share : plan.shares) {
    if (!goes_on(share)) return false;
    const auto positions = static_cast<int64_t>(share.sequence->tokens.size()) + 1;
    missing += std::max<int64_t>(
        0, pages_.pages_for(positions) - static_cast<int64_t>(share.sequence->pages.size()));
  }
  // Not those that are kept for equal prefixes either: should this step be dropped, nobody must have lost
  // anything by it.
  if (missing > pages_.pool().unused()) return false;
  StepPlan next;
  next.ahead = true;
  next.logit_rows = plan.logit_rows;
  for (const StepPlan::Share& share : plan.shares) {
    Sequence& sequence = *share.sequence;
    const auto position = static_cast<int64_t>(sequence.tokens.size());
    pages_.grow(sequence, position + 1);
    next.rows.push_back({0, static_cast<int32_t>(position), sequence.slot, 1});
    next.shares.push_back({&sequence, 1, share.logit_row, {}, static_cast<int64_t>(sequence.pages.size())});
  }
  ahead_ = std::move(next);
  return true;
}

// Whom it admitted and whom it preempted is not undone: the next plan begins with that. Pages for positions
// that were not made are given back: a loop had reserved many, a step one, and the log, which tells of
// neither, must lead to the same pages. Those of prompts were reserved when they were admitted.
void Scheduler::fail(const StepPlan& plan, bool led) {
  drop_ahead();
  for (Sequence* sequence : running_)
    if (sequence->pending() == 1 && sequence->copies.empty()) pages_.trim(*sequence);
  LogEvent event;
  event.kind = LogEvent::Kind::Fail;
  event.length = static_cast<int64_t>(plan.rows.size());
  event.ahead = plan.ahead;
  event.led = led;
  log(std::move(event));
}

bool Scheduler::ahead_is_wanted() const {
  return std::any_of(ahead_.shares.begin(), ahead_.shares.end(),
                     [](const StepPlan::Share& share) { return share.sequence != nullptr; });
}

}  // namespace rondo
