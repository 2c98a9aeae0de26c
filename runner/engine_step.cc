// Steps, one behind the other or one ahead: a plan is enqueued, waited for and committed, and while the
// device works on it its successor may be enqueued already.
#include <algorithm>
#include <chrono>

#include "runner/engine_core.h"

namespace rondo {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool lists_tokens(const StepPlan& plan) {
  return std::any_of(plan.shares.begin(), plan.shares.end(), [](const StepPlan::Share& share) {
    return share.sequence && share.logit_row >= 0 && share.sequence->sampling.top_logprobs > 0;
  });
}

}  // namespace

// What the step draws comes to the results that no step in flight uses: the step tells it itself, all but
// lists.
EngineCore::Flight EngineCore::read_results(const StepPlan& plan, uint64_t launch) {
  const Flight flight{next_results_, plan.logit_rows.size(), lists_tokens(plan), launch};
  const Results& results = results_[flight.results];
  if (flight.listed)
    backend_.device->read(results.top->data(), buffers_.top.data,
                          flight.rows * kMaxTopTokens * sizeof(TopToken));
  results.done->record();
  next_results_ = (next_results_ + 1) % results_.size();
  return flight;
}

EngineCore::Flight EngineCore::enqueue(const StepPlan& plan) {
  std::vector<const Sequence*> sequences;
  for (const StepPlan::Share& share : plan.shares) sequences.push_back(share.sequence);
  uint64_t launch = 0;
  guarded([&] { launch = run(plan.rows, plan.logit_rows, sequences); });
  call_back(plan);
  Flight flight{};
  guarded([&] { flight = read_results(plan, launch); });
  return flight;
}

// Its rows are on the device: the step in front of it leaves them there. All that goes up are pages that were
// taken since.
EngineCore::Flight EngineCore::enqueue_ahead(const StepPlan& current, const StepPlan& next) {
  Flight flight{};
  guarded([&] {
    const Range range(*backend_.device, "step ahead");
    const uint64_t launch = begin_launch(scheduler_->steps() + 1, next.rows.size());
    bool begun = false;
    for (size_t i = 0; i < next.shares.size(); ++i) {
      const Sequence& sequence = *next.shares[i].sequence;
      const auto known = static_cast<size_t>(current.shares[i].pages);
      if (known == sequence.pages.size()) continue;
      if (!begun) inputs_->begin();
      begun = true;
      inputs_->write_pages(sequence.slot, current.shares[i].pages, std::span(sequence.pages).subspan(known),
                           false);
    }
    if (begun) inputs_->end_without_rows();
    replay(next.rows.size());
    flight = read_results(next, launch);
  });
  ++counters_.steps_ahead;
  return flight;
}

int EngineCore::commit(const StepPlan& plan, const Flight& flight) {
  const Results& results = results_[flight.results];
  guarded([&] {
    const auto start = Clock::now();
    results.done->wait();
    counters_.wait_seconds += seconds_since(start);
  });
  waited_for(flight.launch);
  return scheduler_->commit(
      plan, {buffers_.told + flight.results * static_cast<size_t>(dims_.max_logit_rows), flight.rows},
      {static_cast<const TopToken*>(results.top->data()), flight.listed ? flight.rows * kMaxTopTokens : 0});
}

// What the step in flight draws is not wanted; its K and V lie where nobody reads before they are written
// again.
void EngineCore::drop_flight() {
  if (flight_) counters_.wasted_rows += scheduler_->ahead().rows.size();
  flight_.reset();
  scheduler_->drop_ahead();
}

void EngineCore::note_time(double took, double waited) {
  counters_.host_seconds += took - waited;
  const auto& bounds = StepTimes::bounds;
  const auto bin = std::lower_bound(bounds.begin(), bounds.end(), took) - bounds.begin();
  ++counters_.step_times.counts[static_cast<size_t>(bin)];
  counters_.step_times.sum_seconds += took;
}

int EngineCore::make_step(const StepPlan& plan) {
  const auto start = Clock::now();
  const double waited = counters_.wait_seconds;
  const int right = commit(plan, enqueue(plan));
  note_time(seconds_since(start), counters_.wait_seconds - waited);
  return right;
}

StepPlan EngineCore::take_flight(std::optional<Flight>& flight) {
  flight = std::exchange(flight_, std::nullopt);
  return scheduler_->take_ahead();
}

// Commits the step in flight, or the one `planned`, now if it was not before; with `ahead`, and where that
// can be, leaves its successor in flight. Whatever fails, of this step or of its successor, drops both:
// nothing has been committed, and the step is planned again.
void EngineCore::advance(bool ahead, bool again, std::optional<StepPlan> planned) {
  const auto start = Clock::now();
  const double waited = counters_.wait_seconds;
  std::optional<Flight> flight, next;
  StepPlan plan;
  if (flight_) {
    plan = take_flight(flight);
  } else {
    plan = planned ? std::move(*planned) : again ? scheduler_->plan_again() : scheduler_->plan();
    if (plan.rows.empty()) return scheduler_->log_told();
  }
  bool led = false;
  try {
    if (!flight) flight = enqueue(plan);
    led = ahead && !inbox_.pending() && scheduler_->plan_ahead(plan);
    if (led) next = enqueue_ahead(plan, scheduler_->ahead());
    commit(plan, *flight);
  } catch (...) {
    scheduler_->fail(plan, led);
    throw;
  }
  flight_ = next;
  if (flight_ && !scheduler_->ahead_is_wanted()) drop_flight();
  note_time(seconds_since(start), counters_.wait_seconds - waited);
}

std::vector<Output> EngineCore::step() { return step(launch_ahead_); }

std::vector<Output> EngineCore::step(bool ahead, bool again) { return step(ahead, again, std::nullopt); }

std::vector<Output> EngineCore::step(bool ahead, bool again, std::optional<StepPlan> planned) {
  if (flight_ && !scheduler_->ahead_is_wanted()) drop_flight();
  advance(ahead, again, std::move(planned));
  return scheduler_->take_outputs();
}

void EngineCore::fail(bool led) {
  if (flight_ && !scheduler_->ahead_is_wanted()) drop_flight();
  std::optional<Flight> flight;
  const StepPlan plan = flight_ ? take_flight(flight) : scheduler_->plan();
  if (led) scheduler_->plan_ahead(plan);
  scheduler_->fail(plan, led);
}

}  // namespace rondo
