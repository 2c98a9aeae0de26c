// Ten thousand sequences of every kind through eight slots, and ten thousand steps: what each gives alone,
// and nothing left behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "runner/engine_core.h"
#include "tests/json.h"
#include "tests/serving.h"

namespace rondo {
namespace {

using test::drawn;
using test::kRepeats;
using test::resident_pages;

// A request and all that it could ever give; what a shorter or stopped one gives is the beginning of that.
struct Known {
  Request request;
  std::vector<int32_t> tokens;

  // The first `length` of them, up to and with the stop id.
  std::vector<int32_t> until(int length, int32_t stop_id) const {
    std::vector<int32_t> some(
        tokens.begin(), tokens.begin() + std::min<int64_t>(length, static_cast<int64_t>(tokens.size())));
    const auto stop = std::find(some.begin(), some.end(), stop_id);
    if (stop != some.end()) some.erase(stop + 1, some.end());
    return some;
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
    known.push_back({request, test::alone(engine, request)});
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

TEST(Serving, TenThousandSequencesThroughEightSlotsEachGiveWhatTheyGiveAlone) {
  std::mt19937 random(20251124);
  const std::string model = (test::kSource / "models/demo").string();
  EngineOptions options = eight_slots();
  Engine reference = Engine::open(model, options);
  const auto known = known_requests(reference, 150 / kRepeats, random);
  ASSERT_GE(known.size(), 5u);
  EngineCore engine(model, options);
  struct Asked {
    std::vector<int32_t> prompt, expected;
    bool cancelled;
    size_t got = 0;
  };
  std::map<SequenceId, Asked> asked;
  int added = 0, cancelled = 0, ended = 0;
  const int count = 10000 / kRepeats;
  while (ended < count) {
    while (added < count && asked.size() < 24) {
      const Known& what = known[random() % known.size()];
      Request request = what.request;
      request.max_new_tokens = static_cast<int>(random() % 16 ? random() % 7 : 24);
      request.priority = static_cast<int>(random() % 3);
      // Nobody's next step is known while somebody guesses: the later half goes ahead where it can.
      request.draft_tokens = added > count / 2 || random() % 3 ? 0 : 3;
      int32_t stop_id = -1;
      if (random() % 4 == 0) request.stop_ids = {stop_id = what.tokens[random() % what.tokens.size()]};
      const SequenceId id = engine.add(request);
      ++added;
      asked[id] = {request.prompt, what.until(request.max_new_tokens, stop_id), false};
    }
    if (random() % 16 == 0) {
      auto it = asked.begin();
      std::advance(it, static_cast<int64_t>(random() % asked.size()));
      engine.cancel(it->first);
      it->second.cancelled = true;
    }
    const EngineCore::Turn turn(engine);
    for (const Output& output : engine.step(true)) {
      Asked& of = asked.at(output.sequence);
      if (output.token >= 0) {
        ASSERT_LT(of.got, of.expected.size()) << output.sequence;
        ASSERT_EQ(output.token, of.expected[of.got++]) << output.sequence;
      }
      if (output.finish == FinishReason::None) continue;
      const bool was_cancelled = output.finish == FinishReason::Cancelled;
      ASSERT_TRUE(was_cancelled ? of.cancelled : of.got == of.expected.size()) << output.sequence;
      auto tokens = of.prompt;
      tokens.insert(tokens.end(), of.expected.begin(), of.expected.begin() + static_cast<int64_t>(of.got));
      ASSERT_EQ(engine.scheduler().sequence(output.sequence).tokens, tokens);
      engine.remove(output.sequence);
      asked.erase(output.sequence);
      ++ended;
      cancelled += was_cancelled;
    }
  }
  EXPECT_FALSE(engine.scheduler().busy());
  const Stats stats = engine.stats();
  EXPECT_GT(cancelled, 0);
  EXPECT_GT(stats.preemptions, 0u);
  EXPECT_GT(stats.prefix_hits, 0u);
  EXPECT_GT(stats.accepted_drafts, 0u);
  EXPECT_GT(stats.steps_ahead, 0u);
  EXPECT_GT(stats.wasted_rows, 0u);
  EXPECT_EQ(stats.pages_used, 0u);
  EXPECT_EQ(stats.pages_shared, 0u);
  EXPECT_EQ(stats.waiting + stats.running, 0u);
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
