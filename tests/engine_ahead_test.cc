// Steps that are enqueued before the one in front has been made: who gets what does not change by it. On the
// CPU backend, where a step ahead is asked for by name.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "runner/engine_core.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::drawn;
using test::greedy;
using test::kVocab;
using test::some_tokens;

// All that a sequence was told.
std::string told(const Output& output) {
  std::string text =
      fmt::format("{} {} {};", output.token, output.logprob, finish_reason_name(output.finish));
  for (const TokenLogprob& top : output.top_logprobs) text += fmt::format(" {} {}", top.token, top.logprob);
  return text + "\n";
}

class EngineAhead : public testing::Test {
 protected:
  using Told = std::map<SequenceId, std::string>;
  // Between two steps; `made`: tokens so far.
  using Between = std::function<void(EngineCore& core, const Told& told)>;

  Told run(EngineCore& core, bool ahead, const Between& between = {}) {
    Told all;
    while (core.scheduler().busy()) {
      for (const Output& output : core.step(ahead)) all[output.sequence] += told(output);
      if (between) between(core, all);
    }
    return all;
  }
  Told run(bool ahead, const std::vector<Request>& requests, const Between& between = {}) {
    EngineCore core(config_.path(), options_);
    for (const Request& request : requests) core.scheduler().add(request);
    const Told all = run(core, ahead, between);
    stats_ = core.stats();
    EXPECT_EQ(stats_.pages_used, 0u);
    return all;
  }

  // One of every kind that may go ahead, of unequal lengths.
  std::vector<Request> requests() {
    std::vector<Request> all;
    for (int i = 0; i < 7; ++i) {
      Request request = greedy(some_tokens(1 + i % 3, kVocab, static_cast<uint32_t>(i)), 9 + 5 * i);
      if (i % 2) request.sampling = drawn(static_cast<uint64_t>(i), 1.2f);
      request.sampling.top_logprobs = i;
      if (i == 2) request.sampling.frequency_penalty = 0.7f;
      if (i == 3) request.sampling.repetition_penalty = 1.3f;
      if (i == 4) request.sampling.logit_bias = {{4, 2.0f}, {5, -2.0f}};
      all.push_back(request);
    }
    return all;
  }

  test::TinyConfig config_{{.tied = false}};
  EngineOptions options_ = test::one_thread(test::tiny_options(DeviceKind::Cpu));
  Stats stats_;  // of the last run
};

TEST_F(EngineAhead, EveryKindOfRequestIsToldTheSame) {
  const auto expected = run(false, requests());
  EXPECT_EQ(stats_.steps_ahead, 0u);
  EXPECT_EQ(run(true, requests()), expected);
  EXPECT_GT(stats_.steps_ahead, stats_.steps / 2);
  EXPECT_EQ(stats_.wasted_rows, 0u);  // lengths are known
}

TEST_F(EngineAhead, AStopTokenOrSequenceWastesOneRowAndNoToken) {
  std::vector<Request> work = requests();
  EngineCore core(config_.path(), options_);
  for (Request& request : work) {
    const SequenceId id = core.scheduler().add(request);
    run(core, false);
    const auto tokens = core.scheduler().sequence(id).tokens;
    const auto at = static_cast<int64_t>(request.prompt.size() + 3 + (&request - work.data()));
    if ((&request - work.data()) % 2)
      request.stop_ids = {tokens[static_cast<size_t>(at)]};
    else
      request.stop_sequences = {{tokens.begin() + at - 1, tokens.begin() + at + 1}};
  }
  const auto expected = run(false, work);
  EXPECT_EQ(run(true, work), expected);
  EXPECT_GT(stats_.wasted_rows, 0u);
  EXPECT_EQ(stats_.finished[static_cast<size_t>(FinishReason::Stop)], work.size());
}

TEST_F(EngineAhead, ALonelySequenceIsAheadInEveryStepButTheFirstAndTheDropOfTheLastIsCounted) {
  Request request = greedy({7}, 12);
  run(true, {request});
  EXPECT_EQ(stats_.steps, 12u);
  EXPECT_EQ(stats_.steps_ahead, 11u);
  EngineCore core(config_.path(), options_);
  const SequenceId id = core.scheduler().add(request);
  run(core, true);
  request.stop_ids = {core.scheduler().sequence(id).tokens[5]};
  run(true, {request});
  EXPECT_EQ(stats_.wasted_rows, 1u);
  EXPECT_EQ(stats_.steps, stats_.tokens + 1);
}

TEST_F(EngineAhead, B9_TheLastPositionOfTheContextIsReachedAndNotPassed) {
  options_.max_context = 24;
  const std::vector<Request> work = {greedy(some_tokens(3, kVocab, 1), 100),
                                     greedy(some_tokens(5, kVocab, 2), 100)};
  const auto expected = run(false, work);
  EXPECT_EQ(run(true, work), expected);
  EXPECT_EQ(stats_.finished[static_cast<size_t>(FinishReason::ContextFull)], 2u);
}

// Some come, are forked, cancelled and removed while a step is in flight.
TEST_F(EngineAhead, WhoComesAndGoesBetweenChangesNobodyElsesTokens) {
  std::vector<Request> work = requests();
  work.resize(3);
  for (Request& request : work) request.max_new_tokens = 40;
  const auto count = [](const Told& told, SequenceId id) {
    const auto found = told.find(id);
    return found == told.end() ? 0 : std::count(found->second.begin(), found->second.end(), '\n');
  };
  const auto between = [&](EngineCore& core, const Told& told) {
    Scheduler& scheduler = core.scheduler();
    const auto once = [&](SequenceId mark, auto&& act) {
      if (!scheduler.knows(mark)) act();
    };
    if (count(told, 1) >= 5) once(4, [&] { core.fork(1, drawn(5)); });
    if (count(told, 1) >= 12) once(5, [&] { scheduler.add(requests()[5]); });
    if (count(told, 2) >= 20 && scheduler.knows(2)) core.remove(2);
    if (count(told, 3) >= 30) scheduler.cancel(3);
  };
  auto expected = run(false, work, between), found = run(true, work, between);
  EXPECT_GT(stats_.steps_ahead, 20u);
  EXPECT_GT(stats_.wasted_rows, 0u);
  for (SequenceId id : {1u, 2u, 3u, 4u, 5u}) EXPECT_EQ(found[id], expected[id]) << id;
}

TEST_F(EngineAhead, GuessesAreCheckedBehindTheLastTokenThatWasTold) {
  const Request request = greedy(some_tokens(2, kVocab, 3), 12);
  EngineCore core(config_.path(), options_);
  Scheduler& scheduler = core.scheduler();
  const SequenceId first = scheduler.add(request);
  run(core, false);
  const auto tokens = scheduler.sequence(first).tokens;
  const SequenceId id = scheduler.add(request);
  while (scheduler.sequence(id).tokens.size() < 5) core.step(true);
  EXPECT_EQ(core.verify(id, {tokens[5], tokens[6], (tokens[7] + 1) % kVocab}), 2);
  EXPECT_EQ(core.stats().wasted_rows, 1u);
  run(core, true);
  EXPECT_EQ(scheduler.sequence(id).tokens, tokens);
}

TEST_F(EngineAhead, ASequenceSavedWithAStepInFlightGoesOnFromWhereItWas) {
  Request request = greedy(some_tokens(7, kVocab, 4), 20);
  request.sampling = drawn(3);
  EngineCore core(config_.path(), options_), other(config_.path(), options_);
  const SequenceId id = core.scheduler().add(request);
  while (core.scheduler().sequence(id).tokens.size() < 15) core.step(true);
  const SequenceId restored = other.restore(core.save(id)), beside = core.restore(core.save(id));
  EXPECT_EQ(other.scheduler().sequence(restored).tokens.size(), 15u);
  run(core, true);
  run(other, true);
  EXPECT_EQ(core.scheduler().sequence(beside).tokens, core.scheduler().sequence(id).tokens);
  EXPECT_EQ(other.scheduler().sequence(restored).tokens, core.scheduler().sequence(id).tokens);
}

TEST_F(EngineAhead, ASequenceResumedWhileItsWastedRowIsInFlightGivesTheSame) {
  Request request = greedy(some_tokens(4, kVocab, 5), 30);
  EngineCore core(config_.path(), options_);
  Scheduler& scheduler = core.scheduler();
  const SequenceId id = scheduler.add(request), other = scheduler.add(requests()[6]);
  run(core, false);
  const auto expected = scheduler.sequence(id).tokens, others = scheduler.sequence(other).tokens;
  const SequenceId again = scheduler.add(request), beside = scheduler.add(requests()[6]);
  while (scheduler.sequence(again).tokens.size() < 20) core.step(true);
  scheduler.cancel(again);
  scheduler.resume(again, 10, 24);
  run(core, true);
  EXPECT_EQ(scheduler.sequence(again).tokens, expected);
  EXPECT_EQ(scheduler.sequence(beside).tokens, others);
}

TEST_F(EngineAhead, NobodyLosesPagesToAStepAhead) {
  options_.kv_positions = 64;  // eight pages: four sequences want four to five each
  std::vector<Request> work;
  for (uint32_t i = 0; i < 4; ++i) work.push_back(greedy(some_tokens(6, kVocab, i), 30));
  const auto expected = run(false, work);
  const Stats plain = stats_;
  EXPECT_GT(plain.preemptions, 0u);
  EXPECT_EQ(run(true, work), expected);
  EXPECT_EQ(stats_.preemptions, plain.preemptions);
  EXPECT_GT(stats_.steps_ahead, 0u);
}

// A page that was kept for equal prefixes still holds what it says, whatever was in flight when its sequence
// ended: who begins alike gives what it gives without sharing.
TEST_F(EngineAhead, KeptPagesAreNotWrittenByWastedRows) {
  options_.share_prefixes = false;
  EngineCore apart(config_.path(), options_);
  const auto alone = [&](const Request& request) {
    const SequenceId id = apart.scheduler().add(request);
    run(apart, false);
    return apart.scheduler().sequence(id).tokens;
  };
  options_.share_prefixes = true;
  EngineCore core(config_.path(), options_);
  Scheduler& scheduler = core.scheduler();
  for (int end = 13; end <= 18; ++end) {  // around the page's edge at 16
    Request request = greedy(some_tokens(5, kVocab, static_cast<uint32_t>(end)), 30);
    const auto tokens = alone(request);
    const SequenceId id = scheduler.add(request);
    while (static_cast<int>(scheduler.sequence(id).tokens.size()) < end) core.step(true);
    core.remove(id);
    Request longer = greedy({tokens.begin(), tokens.begin() + 20}, 10);
    const SequenceId again = scheduler.add(longer);
    run(core, true);
    EXPECT_EQ(scheduler.sequence(again).tokens, alone(longer)) << end;
  }
  EXPECT_GT(core.stats().prefix_hits, 0u);
  EXPECT_GT(core.stats().wasted_rows, 0u);
}

TEST_F(EngineAhead, TheLogSaysWhatWasAheadAndReplaysToTheSameDecisions) {
  options_.kv_positions = 96;
  std::vector<LogEvent> events;
  options_.on_event = [&](const LogEvent& event) { events.push_back(event); };
  std::vector<std::pair<SequenceId, int32_t>> outputs;
  {
    EngineCore core(config_.path(), options_);
    Scheduler& scheduler = core.scheduler();
    std::mt19937 random(8);
    std::vector<SequenceId> ids;
    for (int step = 0; step < 300 || scheduler.busy(); ++step) {
      if (step < 250 && random() % 8 == 0) {
        Request request = greedy(some_tokens(1 + static_cast<int>(random() % 9), 9, random() % 4), 20);
        request.sampling = drawn(random() % 5, 1.3f);
        for (int32_t token = 0; token < kVocab; token += 12) request.stop_ids.push_back(token);
        ids.push_back(scheduler.add(request));
      }
      const SequenceId id = ids.empty() ? 0 : ids[random() % ids.size()];
      const bool live = id != 0 && scheduler.sequence(id).finish == FinishReason::None;
      switch (random() % 40) {
        case 0:
          if (live) ids.push_back(core.fork(id, drawn(random())));
          break;
        case 1:
          if (live) scheduler.cancel(id);
          break;
        case 2:
          if (live && scheduler.sequence(id).state == Sequence::State::Running &&
              scheduler.sequence(id).pending() == 1)
            core.verify(id, {1, 2});
          break;
        case 3:
          if (id != 0 && !live) scheduler.resume(id, 1, 5);
          break;
        default: break;
      }
      for (const Output& output : core.step(true)) outputs.emplace_back(output.sequence, output.token);
    }
    EXPECT_GT(core.stats().steps_ahead, 100u);
    EXPECT_GT(core.stats().wasted_rows, 10u);
  }
  const std::vector<LogEvent> asked = std::exchange(events, {});
  Engine again = Engine::open(config_.path(), options_);
  std::vector<std::pair<SequenceId, int32_t>> replayed;
  for (const Output& output : replay_events(again, asked))
    replayed.emplace_back(output.sequence, output.token);
  EXPECT_EQ(replayed, outputs);
  EXPECT_EQ(test::log_difference(asked, events), "");
}

}  // namespace
}  // namespace rondo
