// Ten thousand sequences of every kind through eight slots, and ten thousand steps: what each gives alone,
// and nothing left behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <set>
#include <tuple>

#include "runner/engine_core.h"
#include "tests/json.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::drawn;
using test::kRepeats;
using test::resident_pages;

// What the engine's own containers may have grown by.
constexpr int64_t kHeapSlack = 40000;

// A request, what may stop it, and all that it could ever give; what a shorter or stopped one gives is the
// beginning of that.
struct Known {
  Request request;
  int32_t stop_id = -1;
  std::vector<int32_t> stop_sequence;
  int min_new_tokens = 0;
  std::vector<int32_t> tokens;  // with nothing to stop it
  std::vector<int32_t> held;    // with the stop id held back for min_new_tokens
};

// What one request must give.
struct Expected {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::Length;

  Expected() = default;
  Expected(const Known& known, const Request& request) {
    const bool held = request.min_new_tokens > 0 && !request.stop_ids.empty();
    for (int32_t token : held ? known.held : known.tokens) {
      if (static_cast<int>(tokens.size()) == request.max_new_tokens) break;
      tokens.push_back(token);
      if (!stops(request)) continue;
      finish = FinishReason::Stop;
      break;
    }
  }

 private:
  bool stops(const Request& request) const {
    if (std::count(request.stop_ids.begin(), request.stop_ids.end(), tokens.back())) return true;
    if (static_cast<int>(tokens.size()) < request.min_new_tokens) return false;
    return std::any_of(request.stop_sequences.begin(), request.stop_sequences.end(), [&](const auto& stop) {
      return stop.size() <= tokens.size() && std::equal(stop.rbegin(), stop.rend(), tokens.rbegin());
    });
  }
};

std::vector<Known> known_requests(Engine& engine, int count, std::mt19937& random) {
  std::vector<std::vector<int32_t>> prompts;
  std::ifstream lines(test::kSource / "models/demo/heldout.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const std::string prompt = test::parse_json(line).at("prompt");
    prompts.emplace_back(prompt.begin(), prompt.end());
  }
  std::shuffle(prompts.begin(), prompts.end(), random);  // the file is sorted by kind
  prompts.resize(static_cast<size_t>(count));
  std::vector<Known> known;
  for (const auto& prompt : prompts) {
    Request request = test::greedy(prompt, 24);
    if (random() % 2) request.sampling = drawn(random(), 1.5f);
    if (random() % 4 == 0) request.sampling.frequency_penalty = 1;
    Known one{request, 0, {}, 1 + static_cast<int>(random() % 6), test::alone(engine, request), {}};
    one.stop_id = one.tokens[random() % one.tokens.size()];
    const auto at = one.tokens.begin() + static_cast<int64_t>(random() % (one.tokens.size() - 1));
    one.stop_sequence.assign(at, at + 2);
    request.stop_ids = {one.stop_id};
    request.min_new_tokens = one.min_new_tokens;
    one.held = test::alone(engine, request);
    known.push_back(one);
  }
  return known;
}

EngineOptions eight_slots() {
  EngineOptions options;
  options.device = DeviceKind::Cpu;
  options.max_rows = 16;
  options.max_sequences = 8;
  options.max_logit_rows = 12;
  options.prompt_chunk = 12;
  options.max_context = 64;
  options.page_size = 8;
  options.kv_positions = 96;  // twelve pages: eight sequences want two to six each
  options.threads = 1;
  return options;
}

// One of the known ones, of any length, priority and end.
Request some_request(const Known& known, bool may_guess, std::mt19937& random) {
  Request request = known.request;
  request.max_new_tokens = static_cast<int>(random() % 16 ? random() % 7 : 24);
  request.priority = static_cast<int>(random() % 3);
  if (random() % 4 == 0) request.stop_ids = {known.stop_id};
  if (random() % 4 == 0) request.stop_sequences = {known.stop_sequence, {known.tokens.back(), known.stop_id}};
  if (request.max_new_tokens >= known.min_new_tokens && random() % 3 == 0)
    request.min_new_tokens = known.min_new_tokens;
  // Nobody's next step is known while somebody guesses.
  request.draft_tokens = may_guess && random() % 3 == 0 ? 3 : 0;
  return request;
}

// Nobody waits or runs, and all slots and pages can be had again.
void expect_nothing_held(EngineCore& engine, std::vector<LogEvent>& log) {
  const Stats stats = engine.stats();
  EXPECT_EQ(stats.pages_used + stats.pages_shared, 0u);
  EXPECT_EQ(stats.waiting + stats.running, 0u);
  const EngineCore::Turn turn(engine);
  EXPECT_FALSE(engine.scheduler().busy());
  const PagePool& pages = engine.scheduler().pages();
  EXPECT_EQ(pages.unused() + pages.cached(), pages.total());
  log.clear();
  std::vector<SequenceId> ids = {engine.scheduler().add(test::greedy({1, 2}, 3))};
  for (int forks = 1; forks < 8; ++forks) ids.push_back(engine.fork(ids[0], {}));  // they share its page
  engine.step(false);
  engine.step(false);
  std::set<int> slots;
  for (const LogEvent& event : log)
    if (event.kind == LogEvent::Kind::Admit) slots.insert(event.slot);
  EXPECT_EQ(slots, (std::set<int>{1, 2, 3, 4, 5, 6, 7, 8}));
  for (SequenceId id : ids) engine.remove(id);
}

TEST(Serving, TenThousandSequencesThroughEightSlotsEachGiveWhatTheyGiveAlone) {
  std::mt19937 random(20251124);
  const std::string model = (test::kSource / "models/demo").string();
  EngineOptions options = eight_slots();
  Engine reference = Engine::open(model, options);
  const auto known = known_requests(reference, 150 / kRepeats, random);
  ASSERT_GE(known.size(), 5u);
  std::vector<LogEvent> log;
  options.on_event = [&](const LogEvent& event) { log.push_back(event); };
  EngineCore engine(model, options);
  const int64_t heap_before = test::heap_bytes();
  const uint64_t device_bytes = engine.stats().device_bytes;
  struct Asked {
    std::vector<int32_t> prompt;
    Expected expected;
    bool cancelled = false;
    size_t got = 0;
  };
  std::map<SequenceId, Asked> asked;
  std::vector<std::tuple<SequenceId, int32_t, float, FinishReason>> outputs;
  std::array<uint64_t, 6> finished{};
  uint64_t tokens_told = 0;
  int added = 0, ended = 0;
  SequenceId last = 0;
  const int count = 10000 / kRepeats;
  while (ended < count) {
    while (added < count && asked.size() < 24) {
      const Known& what = known[random() % known.size()];
      const Request request = some_request(what, added <= count / 2, random);
      const Expected expected(what, request);
      if (added % 50 == 0) {
        ASSERT_EQ(test::alone(reference, request), expected.tokens);
      }
      last = engine.add(request);
      ++added;
      asked[last] = {request.prompt, expected};
    }
    if (random() % 16 == 0) {
      auto it = asked.begin();
      std::advance(it, static_cast<int64_t>(random() % asked.size()));
      engine.cancel(it->first);
      it->second.cancelled = true;
    }
    const EngineCore::Turn turn(engine);
    for (const Output& output : engine.step(true)) {
      outputs.emplace_back(output.sequence, output.token, output.logprob, output.finish);
      Asked& of = asked.at(output.sequence);
      const auto& expected = of.expected.tokens;
      if (output.token >= 0) {
        ASSERT_LT(of.got, expected.size()) << output.sequence;
        ASSERT_EQ(output.token, expected[of.got++]) << output.sequence;
        ++tokens_told;
      }
      if (output.finish == FinishReason::None) continue;
      if (output.finish == FinishReason::Cancelled) {
        ASSERT_TRUE(of.cancelled) << output.sequence;
      } else {
        ASSERT_EQ(of.got, expected.size()) << output.sequence;
        ASSERT_EQ(output.finish, of.expected.finish) << output.sequence;
      }
      auto tokens = of.prompt;
      tokens.insert(tokens.end(), expected.begin(), expected.begin() + static_cast<int64_t>(of.got));
      ASSERT_EQ(engine.scheduler().sequence(output.sequence).tokens, tokens);
      engine.remove(output.sequence);
      asked.erase(output.sequence);
      ++ended;
      ++finished[static_cast<size_t>(output.finish)];
    }
  }
  const Stats stats = engine.stats();
  for (FinishReason reason : {FinishReason::Length, FinishReason::Stop, FinishReason::Cancelled})
    EXPECT_GT(finished[static_cast<size_t>(reason)], 0u) << finish_reason_name(reason);
  EXPECT_GT(stats.preemptions, 0u);
  EXPECT_GT(stats.prefix_hits, 0u);
  EXPECT_GT(stats.accepted_drafts, 0u);
  EXPECT_GT(stats.steps_ahead, 0u);
  EXPECT_GT(stats.wasted_rows, 0u);

  // Everything was counted, and nothing is left.
  EXPECT_EQ(stats.finished, finished);
  EXPECT_EQ(stats.tokens, tokens_told);
  EXPECT_EQ(std::accumulate(stats.step_times.counts.begin(), stats.step_times.counts.end(), uint64_t{0}),
            stats.steps);
  EXPECT_EQ(stats.device_bytes, device_bytes);
  for (SequenceId id = 1; id <= last; ++id) {
    ASSERT_FALSE(engine.scheduler().knows(id)) << id;
    ASSERT_THROW(engine.cancel(id), Error) << id;
  }
  std::vector<LogEvent> asked_for = std::exchange(log, {});
  expect_nothing_held(engine, log);
  std::vector<LogEvent>().swap(log);

  {
    Engine again = Engine::open(model, options);
    decltype(outputs) replayed;
    for (const Output& output : replay_events(again, asked_for))
      replayed.emplace_back(output.sequence, output.token, output.logprob, output.finish);
    EXPECT_TRUE(replayed == outputs);
    EXPECT_EQ(test::log_difference(asked_for, log), "");
    EXPECT_EQ(again.stats().tokens, tokens_told);
  }
  for (auto* events : {&asked_for, &log}) std::vector<LogEvent>().swap(*events);
  decltype(outputs)().swap(outputs);
  EXPECT_LE(test::heap_bytes(), heap_before + kHeapSlack) << "a few bytes for each sequence";
}

TEST(Serving, B44_TenThousandStepsLeaveMemoryAsItWasAndReplayFromTheLog) {
  const test::TinyConfig config(
      {.hidden = 16, .intermediate = 16, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 8, .vocab = 32});
  EngineOptions options = test::tiny_options(DeviceKind::Cpu);
  options.threads = 1;
  options.kv_positions = 96;
  std::vector<LogEvent> log;
  bool logging = true;
  options.on_event = [&](const LogEvent& event) {
    if (logging) log.push_back(event);
  };
  EngineCore core(config.path(), options);
  std::mt19937 random(44);
  std::vector<SequenceId> live;
  std::vector<std::pair<SequenceId, int32_t>> outputs;
  int64_t before = 0;
  const uint64_t steps = 10000 / static_cast<uint64_t>(kRepeats), logged = steps / 5;
  const auto drain = [&] {
    for (const Output& output : core.step(random() % 4 != 0)) {
      if (logging) outputs.emplace_back(output.sequence, output.token);
      if (output.finish == FinishReason::None) continue;
      std::erase(live, output.sequence);
      core.remove(output.sequence);
    }
  };
  while (core.stats().steps < steps) {
    while (live.size() < 6) {
      Request request = test::greedy(test::some_tokens(1 + static_cast<int>(random() % 20), 32, random() % 8),
                                     1 + static_cast<int>(random() % 20));
      request.sampling = drawn(random() % 8, random() % 2 ? 1.0f : 0.0f);
      live.push_back(core.scheduler().add(request));
    }
    if (random() % 10 == 0) live.push_back(core.fork(live[random() % live.size()], drawn(random() % 8)));
    if (random() % 10 == 0) core.scheduler().cancel(live[random() % live.size()]);
    drain();
    if (logging &&
        core.stats().steps >= logged) {  // a log of everything would be the growth that is looked for
      while (core.scheduler().busy()) drain();
      logging = false;
      before = resident_pages();
    }
  }
  while (core.scheduler().busy()) drain();
  EXPECT_EQ(core.scheduler().pages().used(), 0);
  EXPECT_GT(core.stats().steps_ahead, 0u);
  EXPECT_GT(core.stats().wasted_rows, 0u);
  if (kRepeats == 1) {
    EXPECT_LE(resident_pages(), before + 64);
  }  // what an allocator may need for its own books
  const std::vector<LogEvent> asked = std::exchange(log, {});
  Engine again = Engine::open(config.path(), options);
  std::vector<std::pair<SequenceId, int32_t>> replayed;
  for (const Output& output : replay_events(again, asked))
    replayed.emplace_back(output.sequence, output.token);
  EXPECT_EQ(replayed, outputs);
}

}  // namespace
}  // namespace rondo
