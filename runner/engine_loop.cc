// Generation by one launch: a loop on the device makes steps until its sequences have ended, and the host
// commits what they drew while it goes on.
#include <algorithm>
#include <atomic>
#include <chrono>

#include "runner/engine_core.h"
#include "runner/step.h"

namespace rondo {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void ask_to_stop(LoopMail& mail) { std::atomic_ref(mail.stop).store(1, std::memory_order_release); }
int steps_made(LoopMail& mail) {
  return static_cast<int>(std::atomic_ref(mail.made).load(std::memory_order_acquire));
}

// Sequences of a committed step that ended by what only the host knows, a stop sequence: the device goes on
// with their rows.
uint64_t ended_for_the_host(const StepPlan& plan) {
  return static_cast<uint64_t>(
      std::count_if(plan.shares.begin(), plan.shares.end(), [](const StepPlan::Share& share) {
        const Sequence& s = *share.sequence;
        return s.finish == FinishReason::Stop &&
               !std::binary_search(s.stop_ids.begin(), s.stop_ids.end(), s.tokens.back());
      }));
}

}  // namespace

void EngineCore::prepare_loops(bool wanted) {
  if (!wanted) return;
  if (replayer_->policy() == ReplayPolicy::Off) {
    one_launch_ =
        backend_.make_loop_end ? "graphs are off" : "the " + backend_.name + " backend has no graphs";
    return;
  }
  loop_ = std::make_unique<LoopBuffers>(*backend_.device, dims_, buffers_);
  loop_end_ = backend_.make_loop_end(dims_, buffers_, *loop_);
  loop_recorder_ = backend_.make_recorder();
  loop_done_ = backend_.device->make_event();
  one_launch_ = "on";
  if (replayer_->policy() != ReplayPolicy::Start) return;
  const int most = bucket_of(dims_, dims_.max_sequences).rows;
  for (int bucket : dims_.buckets)
    if (bucket <= most) loop_of(bucket);
}

// Null where the device or its driver has no loops: then steps are made one by one, and stats() says why.
Recording* EngineCore::loop_of(int bucket) {
  if (!loop_ || !replayer_->recorded(bucket)) return nullptr;  // not recorded: not warm yet
  std::unique_ptr<Recording>& loop = loops_[bucket];
  if (loop) return loop.get();
  try {
    RecordingCost cost;
    guarded([&] {
      loop = loop_recorder_->record_loop(
          [&](uint64_t condition) {
            run_step(*ops_, weights_.model, buffers_, bucket_of(dims_, bucket));
            loop_end_->enqueue(condition);
          },
          cost);
    });
    return loop.get();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::DeviceLost) throw;
    one_launch_ = error.what();
    loops_.clear();
    loop_.reset();
    return nullptr;
  }
}

void EngineCore::launch_loop(const StepPlan& plan, int steps, Recording& recording) {
  LoopControl& control = loop_->asked_control();
  control = {steps, static_cast<int32_t>(plan.rows.size()), 0, 0};
  std::vector<const Sequence*> sequences;
  for (const StepPlan::Share& share : plan.shares) {
    const Sequence& sequence = *share.sequence;
    sequences.push_back(&sequence);
    if (sequence.sampling.top_logprobs > 0) control.listed = 1;
    LoopSlot& slot = loop_->asked_slot(sequence.slot);
    slot.left =
        static_cast<int32_t>(std::min<int64_t>(scheduler_->tokens_left(sequence), loop_->steps() + 1));
    slot.stops = static_cast<int32_t>(sequence.stop_ids.size());
    std::copy(sequence.stop_ids.begin(), sequence.stop_ids.end(), slot.stop_ids);
  }
  std::atomic_ref(loop_->mail().made).store(0);
  std::atomic_ref(loop_->mail().stop).store(0);
  guarded([&] {
    const Range range(*backend_.device, "loop");
    begin_launch(scheduler_->steps(), plan.rows.size());
    write_step(plan.rows, plan.logit_rows, sequences);
    loop_->upload();
    recording.launch();
    launches_.back().form = Launch::Form::Loop;
    loop_done_->record();
  });
  ++counters_.loops;
}

// Commits steps as they come in. No more are wanted when every sequence has ended for the host too, when
// somebody asks for something, or waits for what an ended sequence has left; what the device makes until it
// hears of that stands all the same.
void EngineCore::follow_loop(StepPlan plan, const Each& each) {
  LoopMail& mail = loop_->mail();
  const auto bucket = static_cast<uint64_t>(bucket_of(dims_, static_cast<int>(plan.rows.size())).rows);
  const bool listed = loop_->asked_control().listed != 0;
  const auto list = static_cast<size_t>(dims_.max_logit_rows);
  uint64_t lost = 0;  // rows of a step that the host wants no more
  auto last = Clock::now();
  int seen = 0;
  for (bool over = false; !over;) {
    guarded([&] { over = loop_done_->reached(); });  // asked first: then no step comes behind those made
    for (const int made = steps_made(mail); seen < made && !plan.shares.empty(); ++seen) {
      ++counters_.steps;
      ++counters_.loop_steps;
      counters_.rows += plan.rows.size() + lost;
      counters_.wasted_rows += lost;
      counters_.padded_rows += bucket - plan.rows.size() - lost;
      const double waited = seconds_between(last, Clock::now());
      scheduler_->commit(plan, {loop_->sampled(seen), list},
                         {loop_->top(seen), listed ? list * kMaxTopTokens : 0});
      counters_.wait_seconds += waited;
      note_time(seconds_between(last, Clock::now()), waited);
      lost += ended_for_the_host(plan);
      plan = scheduler_->again(plan);
      hand_out(scheduler_->take_outputs(), each);
      last = Clock::now();
    }
    if (plan.shares.empty() || inbox_.pending() || scheduler_->somebody_may_come()) ask_to_stop(mail);
  }
  waited_for(launch_count_);
  const uint64_t wasted = lost * static_cast<uint64_t>(steps_made(mail) - seen);
  counters_.rows += wasted;
  counters_.wasted_rows += wasted;
}

// False where the next step is none of a run, and no more was done than to plan it.
bool EngineCore::run_loop(const Each& each, std::optional<StepPlan>& planned) {
  planned = scheduler_->plan();
  StepPlan& plan = *planned;
  if (plan.rows.empty()) return false;
  Recording* const recording = loop_of(bucket_of(dims_, static_cast<int>(plan.rows.size())).rows);
  const int steps = recording ? scheduler_->reserve_run(plan, loop_->steps()) : 0;
  if (steps == 0) return false;
  const uint64_t steps_before = counters_.steps;
  try {
    launch_loop(plan, steps, *recording);
    follow_loop(plan, each);
  } catch (...) {
    if (counters_.steps == steps_before) scheduler_->fail(plan, false);
    // The loop may still run: what it draws is not wanted, and its pages are about to be given back.
    ask_to_stop(loop_->mail());
    try {
      guarded([&] { backend_.device->synchronize(); });
      launches_.clear();
    } catch (const Error&) {  // the first error is on its way
    }
    scheduler_->end_run();
    throw;
  }
  scheduler_->end_run();
  return true;
}

// What `each` has not seen when it throws comes with the next call.
void EngineCore::hand_out(std::vector<Output> outputs, const Each& each) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    try {
      each(outputs[i]);
    } catch (...) {
      scheduler_->return_outputs(std::span(outputs).subspan(i + 1));
      throw;
    }
  }
}

void EngineCore::generate(const Each& each) {
  for (;;) {
    inbox_.take(*scheduler_);
    if (!scheduler_->busy()) return;
    std::optional<StepPlan> planned;
    if (loop_ && !flight_ && run_loop(each, planned)) continue;
    hand_out(step(launch_ahead_ && !loop_, false, std::move(planned)), each);
  }
}

}  // namespace rondo
