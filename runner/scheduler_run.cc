// Steps that are planned as one: those of sequences which only decode, while nobody comes.
#include <algorithm>

#include "buffers/loop_buffers.h"
#include "runner/scheduler.h"

namespace rondo {

int64_t Scheduler::tokens_left(const Sequence& sequence) const {
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  return std::min(sequence.max_length, dims_.max_context + 1) - length;
}

int Scheduler::reserve_run(StepPlan& plan, int most) {
  if (plan.shares.size() != running_.size() || somebody_may_come()) return 0;
  int64_t steps = 0;
  for (const StepPlan::Share& share : plan.shares) {
    if (!decodes_alone(share) || share.sequence->stop_ids.size() > kMaxLoopStops) return 0;
    const auto first = share.sequence->pages.begin() + share.sequence->cached / dims_.page_size;
    if (!std::all_of(first, share.sequence->pages.end(),
                     [&](int32_t page) { return pages_.pool().exclusive(page); }))
      return 0;
    steps = std::max(steps, tokens_left(*share.sequence));
  }
  steps = std::min<int64_t>(steps, most);
  const auto positions = [&](const Sequence& sequence) {
    return sequence.cached + std::min(steps, tokens_left(sequence));
  };
  const auto missing = [&] {
    int64_t pages = 0;
    for (const StepPlan::Share& share : plan.shares)
      pages += std::max<int64_t>(0, pages_.pages_for(positions(*share.sequence)) -
                                        static_cast<int64_t>(share.sequence->pages.size()));
    return pages;
  };
  while (steps > 1 && missing() > pages_.pool().unused()) steps /= 2;
  if (steps < 2) return 0;
  for (StepPlan::Share& share : plan.shares) {
    pages_.grow(*share.sequence, positions(*share.sequence));
    share.pages = static_cast<int64_t>(share.sequence->pages.size());
  }
  return static_cast<int>(steps);
}

StepPlan Scheduler::again(const StepPlan& plan) const {
  StepPlan next;
  next.again = true;
  for (const StepPlan::Share& share : plan.shares) {
    Sequence& sequence = *share.sequence;
    if (sequence.state != Sequence::State::Running) continue;
    next.rows.push_back({sequence.tokens.back(), static_cast<int32_t>(sequence.cached), sequence.slot, 1});
    next.shares.push_back(share);
  }
  return next;
}

StepPlan Scheduler::plan_again() {
  StepPlan plan;
  plan.again = true;
  for (Sequence* sequence : running_) {
    if (sequence->pending() != 1 || !pages_.grow(*sequence, sequence->cached + 1)) return this->plan();
    give(plan, *sequence, 1, {});
  }
  return plan;
}

void Scheduler::end_run() {
  for (Sequence* sequence : running_) pages_.trim(*sequence);
}

}  // namespace rondo
