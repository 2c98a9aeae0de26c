// Many sequences in one engine on the CPU backend: who goes first, who shares pages, who loses them, and that
// nobody's tokens show it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <sstream>
#include <thread>

#include "tests/serving.h"

namespace rondo {
namespace {

using test::alone;
using test::drawn;
using test::generate;
using test::greedy;
using test::kVocab;
using test::run_all;
using test::some_tokens;

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class EngineBatching : public testing::Test {
 protected:
  Engine open() { return Engine::open(config_.path(), options_); }
  test::TinyConfig config_{{.tied = false}};  // tied ones repeat their last token
  EngineOptions options_ = test::one_thread(test::tiny_options(DeviceKind::Cpu));

  // A new engine, whose log goes to `events` as the first one's did, tells the same and logs the same.
  void expect_replay(std::vector<LogEvent>& events,
                     const std::vector<std::pair<SequenceId, int32_t>>& outputs) {
    const std::vector<LogEvent> asked = std::exchange(events, {});
    Engine again = open();
    std::vector<std::pair<SequenceId, int32_t>> replayed;
    for (const Output& output : replay_events(again, asked))
      replayed.emplace_back(output.sequence, output.token);
    EXPECT_EQ(replayed, outputs);
    EXPECT_EQ(test::log_difference(asked, events), "");
  }
};

TEST_F(EngineBatching, TheImportantGoFirstAndEqualsInTheOrderTheyCame) {
  options_.max_sequences = 1;
  Engine engine = open();
  std::vector<SequenceId> ids;
  for (int priority : {0, 5, -1, 5, 0}) {
    Request request = greedy({1, 2}, 2);
    request.priority = priority;
    ids.push_back(engine.add(request));
  }
  std::vector<SequenceId> ended;
  while (engine.busy())
    for (const Output& output : engine.step())
      if (output.finish != FinishReason::None) ended.push_back(output.sequence);
  EXPECT_EQ(ended, (std::vector<SequenceId>{ids[1], ids[3], ids[0], ids[4], ids[2]}));
}

TEST_F(EngineBatching, DecodingIsNeverStarvedByPromptsAndPromptsKeepToTheirChunk) {
  options_.prompt_chunk = 3;
  std::vector<int64_t> rows;
  options_.on_event = [&](const LogEvent& event) {
    if (event.kind == LogEvent::Kind::Step) rows.push_back(event.length);
  };
  Engine engine = open();
  const SequenceId decoding = engine.add(greedy({1}, 40));
  engine.step();
  for (int i = 0; i < 3; ++i) engine.add(greedy(some_tokens(30, kVocab, static_cast<uint32_t>(i)), 1));
  rows.clear();
  for (int steps = 0; steps < 30; ++steps) {
    const auto outputs = engine.step();
    EXPECT_EQ(std::count_if(outputs.begin(), outputs.end(),
                            [&](const Output& o) { return o.sequence == decoding; }),
              1);
    EXPECT_EQ(rows.back(), 4);
  }
}

TEST_F(EngineBatching, WhoRunsOutOfPagesIsComputedAgainAndHasTheSameTokens) {
  options_.share_prefixes = false;
  Engine roomy = open();
  options_.kv_positions = 64;  // eight pages for four sequences that want five each
  Engine engine = open();
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 4; ++i) {
    requests.push_back(greedy(some_tokens(5 + static_cast<int>(i), kVocab, i), 30));
    requests.back().sampling.seed = i;
    requests.back().sampling.temperature = i % 2 ? 1.0f : 0.0f;
    requests.back().sampling.frequency_penalty = i == 3 ? 0.5f : 0.0f;
  }
  std::vector<std::vector<int32_t>> expected;
  for (const Request& request : requests) expected.push_back(joined(request.prompt, alone(roomy, request)));
  EXPECT_EQ(generate(engine, requests), expected);
  EXPECT_GT(engine.stats().preemptions, 0u);
  EXPECT_EQ(engine.stats().pages_used, 0u);
  EXPECT_EQ(roomy.stats().preemptions, 0u);
}

TEST_F(EngineBatching, TheLeastImportantLosesItsPagesEvenIfItCameFirst) {
  options_.kv_positions = 64;
  std::vector<SequenceId> lost;
  options_.on_event = [&](const LogEvent& event) {
    if (event.kind == LogEvent::Kind::Preempt) lost.push_back(event.sequence);
  };
  Engine engine = open();
  Request request = greedy(some_tokens(20, kVocab, 1), 40);
  request.priority = -1;
  const SequenceId unimportant = engine.add(request);
  request.prompt = some_tokens(20, kVocab, 2);
  request.priority = 0;
  engine.add(request);
  run_all(engine);
  ASSERT_FALSE(lost.empty());
  for (SequenceId id : lost) EXPECT_EQ(id, unimportant);
}

TEST_F(EngineBatching, SharedPrefixesGiveTheSameBitsAndFewerRows) {
  const auto prefix = some_tokens(24, kVocab, 5);
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 12; ++i) {
    requests.push_back(greedy(joined(prefix, some_tokens(1 + static_cast<int>(i) % 9, kVocab, i)), 8));
    requests.back().sampling = drawn(i, i % 3 == 0 ? 0.0f : 1.0f);
    requests.back().sampling.repetition_penalty = i % 2 ? 1.3f : 1.0f;
    requests.back().sampling.top_logprobs = 3;
  }
  const auto run = [&](Engine& engine) {
    std::vector<SequenceId> ids;
    for (const Request& request : requests) ids.push_back(engine.add(request));
    auto outputs = run_all(engine);
    std::vector<std::pair<int32_t, float>> all;
    for (SequenceId id : ids)
      for (const Output& output : outputs[id]) {
        all.push_back({output.token, output.logprob});
        for (const TokenLogprob& top : output.top_logprobs) all.push_back({top.token, top.logprob});
      }
    return all;
  };
  Engine sharing = open();
  options_.share_prefixes = false;
  Engine apart = open();
  EXPECT_EQ(run(sharing), run(apart));
  const Stats stats = sharing.stats();
  EXPECT_EQ(stats.prefix_lookups, 12u);
  EXPECT_GE(stats.prefix_hits, 8u);
  EXPECT_GE(stats.prefix_tokens, 8u * 24);
  EXPECT_EQ(stats.rows + stats.prefix_tokens, apart.stats().rows);
  EXPECT_GT(stats.pages_cached, 0u);
  EXPECT_EQ(stats.pages_used, 0u);
  EXPECT_EQ(apart.stats().prefix_hits, 0u);
}

TEST_F(EngineBatching, APromptThatDiffersInItsFirstPageSharesNothing) {
  Engine engine = open();
  auto prompt = some_tokens(33, kVocab, 5);
  alone(engine, greedy(prompt, 1));
  prompt[3] = (prompt[3] + 1) % kVocab;  // the pages behind it have the same tokens and other K and V
  alone(engine, greedy(prompt, 1));
  EXPECT_EQ(engine.stats().prefix_hits, 0u);
  alone(engine, greedy(prompt, 1));
  EXPECT_EQ(engine.stats().prefix_tokens, 32u);
}

TEST_F(EngineBatching, CachedPagesAreGivenUpWhenPagesAreNeeded) {
  options_.kv_positions = 64;
  Engine engine = open();
  for (uint32_t i = 0; i < 10; ++i) alone(engine, greedy(some_tokens(30, kVocab, i), 20));
  EXPECT_EQ(engine.stats().preemptions, 0u);
  EXPECT_LE(engine.stats().pages_cached, 8u);
}

TEST_F(EngineBatching, SamplesOfOnePromptCostOnePromptAndAreThoseOfTheirSeeds) {
  const auto prompt = some_tokens(21, kVocab, 7);
  Engine engine = open();
  options_.share_prefixes = false;
  Engine reference = open();
  Request request = greedy(prompt, 12);
  request.sampling = drawn(1);
  std::vector<SequenceId> ids = {engine.add(request)};
  for (uint64_t seed : {2, 3, 4}) ids.push_back(engine.fork(ids[0], drawn(seed)));
  uint64_t shared = 0;
  while (engine.busy()) {
    engine.step();
    shared = std::max(shared, engine.stats().pages_shared);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    request.sampling.seed = i + 1;
    EXPECT_EQ(engine.tokens(ids[i]), joined(prompt, alone(reference, request))) << i;
  }
  const Stats stats = engine.stats();
  EXPECT_EQ(stats.rows, 21u + 3 * 1 + 4 * 11);  // a fork computes the prompt's last token, to draw from it
  EXPECT_EQ(stats.forks, 3u);
  EXPECT_EQ(shared, 3u);
  EXPECT_GE(stats.page_copies, 3u);
  EXPECT_EQ(stats.pages_used, 0u);
}

TEST_F(EngineBatching, AForkInMidAirGoesItsOwnWayAndItsSourceIsUntouched) {
  Engine engine = open();
  const auto prompt = some_tokens(5, kVocab, 8);
  const auto expected = alone(engine, greedy(prompt, 20));
  for (int steps = 1; steps < 15; ++steps) {
    const SequenceId source = engine.add(greedy(prompt, 20));
    for (int i = 0; i < steps; ++i) engine.step();
    const SequenceId same = engine.fork(source, {}), other = engine.fork(source, drawn(5, 2));
    const auto at_fork = engine.tokens(source);
    run_all(engine);
    EXPECT_EQ(engine.tokens(source), joined(prompt, expected));
    EXPECT_EQ(engine.tokens(same), engine.tokens(source));
    Request rest = greedy(at_fork, 25 - static_cast<int>(at_fork.size()));
    rest.sampling = drawn(5, 2);
    EXPECT_EQ(engine.tokens(other), joined(at_fork, alone(engine, rest))) << steps;
    for (SequenceId id : {source, same, other}) engine.remove(id);
  }
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST_F(EngineBatching, AForkOutlivesASourceThatIsCancelledOrRemovedBeforeItsPromptIsComputed) {
  Engine engine = open();
  const auto prompt = some_tokens(30, kVocab, 9);
  const auto expected = joined(prompt, alone(engine, greedy(prompt, 5)));
  for (bool removed : {false, true}) {
    const SequenceId source = engine.add(greedy(prompt, 5));
    engine.step();
    const SequenceId fork = engine.fork(source, {});
    if (removed)
      engine.remove(source);
    else
      engine.cancel(source);
    run_all(engine);
    EXPECT_EQ(engine.tokens(fork), expected);
  }
  const SequenceId ended = engine.add(greedy(prompt, 0));
  EXPECT_THROW(engine.fork(ended, {}), Error);
}

TEST_F(EngineBatching, ThreadsAddAndCancelWhileOneSteps) {
  Engine engine = open();
  const auto prompt = some_tokens(4, kVocab, 10);
  const auto expected = joined(prompt, alone(engine, greedy(prompt, 6)));
  constexpr int kThreads = 3, kEach = 40;
  std::vector<SequenceId> kept[kThreads];
  std::atomic<int> working{kThreads};
  std::vector<std::thread> threads;
  for (auto& mine : kept)
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        const SequenceId id = engine.add(greedy(prompt, 6));
        if (i % 4 == 3)
          engine.cancel(id);
        else
          mine.push_back(id);
      }
      --working;
    });
  std::map<SequenceId, FinishReason> ended;
  while (working > 0 || engine.busy()) {
    if (!engine.wait(0.01)) continue;
    for (const Output& output : engine.step())
      if (output.finish != FinishReason::None) {
        EXPECT_TRUE(ended.emplace(output.sequence, output.finish).second);
      }
  }
  for (std::thread& thread : threads) thread.join();
  while (engine.busy())
    for (const Output& output : engine.step())
      if (output.finish != FinishReason::None) ended.emplace(output.sequence, output.finish);
  EXPECT_EQ(ended.size(), size_t{kThreads * kEach});
  for (const auto& mine : kept)
    for (SequenceId id : mine) {
      EXPECT_EQ(ended[id], FinishReason::Length);
      EXPECT_EQ(engine.tokens(id), expected);
    }
}

TEST_F(EngineBatching, WaitReturnsWhenThereIsSomethingToDo) {
  Engine engine = open();
  EXPECT_FALSE(engine.wait(0));
  std::thread other([&] { engine.add(greedy({1}, 1)); });
  EXPECT_TRUE(engine.wait(60));
  other.join();
  engine.step();
  EXPECT_FALSE(engine.wait(0));
  EXPECT_FALSE(engine.wait(-1));
}

TEST_F(EngineBatching, B10_CancelFromAnyThreadRefusesWhatThereIsNot) {
  Engine engine = open();
  EXPECT_THROW(engine.cancel(1), Error);
  const SequenceId id = engine.add(greedy({1}, 1));
  engine.cancel(id);
  engine.cancel(id);
  engine.remove(id);
  EXPECT_THROW(engine.cancel(id), Error);
}

// Every kind of request, with pages short: the log asked for again decides the same and gives the same
// outputs.
TEST_F(EngineBatching, TheLogReplaysToTheSameDecisionsAndOutputs) {
  options_.kv_positions = 64;
  options_.max_logit_rows = 8;
  std::vector<LogEvent> events;
  options_.on_event = [&](const LogEvent& event) { events.push_back(event); };
  std::vector<std::pair<SequenceId, int32_t>> outputs;
  {
    Engine engine = open();
    std::mt19937 random(3);
    std::vector<SequenceId> ids;
    std::vector<std::byte> saved;
    for (int step = 0; step < 200; ++step) {
      const auto pick = [&] { return ids[random() % ids.size()]; };
      if (step < 120 && random() % 3 == 0) {
        Request request = greedy(some_tokens(1 + static_cast<int>(random() % 20), 9, random() % 4),
                                 static_cast<int>(random() % 20));
        request.sampling = drawn(random() % 5, random() % 2 ? 1.0f : 0.0f);
        request.priority = static_cast<int>(random() % 3);
        request.draft_tokens = static_cast<int>(random() % 4);
        ids.push_back(engine.add(request));
      }
      const SequenceId id = ids.empty() ? 0 : pick();
      const bool live = id != 0 && engine.finish_reason(id) == FinishReason::None;
      switch (random() % 12) {
        case 0:
          if (live) ids.push_back(engine.fork(id, drawn(step, 1)));
          break;
        case 1:
          if (live) engine.cancel(id);
          break;
        case 2:
          if (live && saved.empty()) saved = engine.save(id);
          break;
        case 3:
          if (!saved.empty()) ids.push_back(engine.restore(saved));
          break;
        case 4:
          if (id != 0 && !live) engine.resume(id, 1, 5);
          break;
        case 5:
          try {
            if (live) engine.verify(id, {1, 2});
          } catch (const Error& error) {
            ASSERT_EQ(error.kind(), ErrorKind::Misuse) << error.what();  // it is not decoding
          }
          break;
        default: break;
      }
      for (const Output& output : engine.step()) outputs.emplace_back(output.sequence, output.token);
    }
    while (engine.busy())
      for (const Output& output : engine.step()) outputs.emplace_back(output.sequence, output.token);
    EXPECT_GT(engine.stats().preemptions, 0u);
    EXPECT_EQ(engine.stats().pages_used, 0u);
  }
  expect_replay(events, outputs);
}

TEST_F(EngineBatching, TheLogHasWhatWasToldByAStepWithoutRows) {
  std::vector<LogEvent> events;
  options_.on_event = [&](const LogEvent& event) { events.push_back(event); };
  Engine engine = open();
  const SequenceId id = engine.add(greedy({1, 2}, 5));
  engine.step();
  engine.cancel(id);
  ASSERT_EQ(engine.step().size(), 1u);  // nobody runs: no step was made
  engine.remove(id);
  const std::vector<LogEvent> asked = std::exchange(events, {});
  Engine again = open();
  const auto replayed = replay_events(again, asked);
  ASSERT_EQ(replayed.size(), 2u);
  EXPECT_EQ(replayed[1].finish, FinishReason::Cancelled);
  EXPECT_EQ(test::log_difference(asked, events), "");
  EXPECT_EQ(again.stats().steps, 1u);
}

// A callback's exception fails steps while pages are short and requests come in between: what was decided for
// them is decided again.
TEST_F(EngineBatching, TheLogHasStepsThatFailed) {
  options_.kv_positions = 48;
  std::vector<LogEvent> events;
  options_.on_event = [&](const LogEvent& event) { events.push_back(event); };
  std::mt19937 random(5);
  bool throws = true;
  const auto some_request = [&] {
    Request request = greedy(some_tokens(1 + static_cast<int>(random() % 20), kVocab, random() % 4), 12);
    request.priority = static_cast<int>(random() % 3);
    request.on_logits = [&](std::span<const int32_t> tokens, std::span<float>) {
      if (throws && tokens.size() % 4 == 0 && random() % 2) throw std::runtime_error("mine");
    };
    return request;
  };
  std::vector<std::pair<SequenceId, int32_t>> outputs;
  int failed = 0;
  {
    Engine engine = open();
    for (int step = 0; step < 200 || engine.busy(); ++step) {
      if (step < 200 && random() % 3 == 0) engine.add(some_request());
      try {
        for (const Output& output : engine.step()) outputs.emplace_back(output.sequence, output.token);
      } catch (const std::runtime_error&) {
        ++failed;
      }
    }
    EXPECT_GT(engine.stats().preemptions, 0u);
  }
  EXPECT_GT(failed, 20);
  throws = false;
  expect_replay(events, outputs);
}

TEST_F(EngineBatching, PrometheusTextHasEveryFigureUnderADeclaredName) {
  Engine engine = open();
  alone(engine, greedy({1, 2, 3}, 4));
  const std::string text = prometheus_text(engine.stats());
  for (const char* line :
       {"rondo_tokens_total 4\n", "rondo_steps_total 4\n", "rondo_eager_total{reason=\"off\"} 4\n",
        "rondo_sequences_finished_total{reason=\"length\"} 1\n", "rondo_sequences_running 0\n",
        "rondo_step_seconds_bucket{le=\"+Inf\"} 4\n", "rondo_step_seconds_count 4\n",
        "# TYPE rondo_step_seconds histogram\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  std::istringstream lines(text);
  std::set<std::string> declared;
  uint64_t last_bucket = 0;
  for (std::string line; std::getline(lines, line);) {
    ASSERT_FALSE(line.empty());
    std::istringstream words(line);
    std::string hash, what, name;
    if (line[0] == '#') {
      words >> hash >> what >> name;
      if (what == "TYPE") {
        EXPECT_TRUE(declared.insert(name).second) << name << " is declared twice";
      }
      continue;
    }
    name = line.substr(0, line.find_first_of("{ "));
    for (const char* suffix : {"_bucket", "_sum", "_count"})
      if (name == std::string("rondo_step_seconds") + suffix) name = "rondo_step_seconds";
    EXPECT_TRUE(declared.count(name)) << line;
    const std::string value = line.substr(line.rfind(' ') + 1);
    size_t used = 0;
    EXPECT_GE(std::stod(value, &used), 0) << line;
    EXPECT_EQ(used, value.size()) << line;
    if (line.rfind("rondo_step_seconds_bucket", 0) == 0) {
      EXPECT_GE(std::stoull(value), last_bucket) << line;
      last_bucket = std::stoull(value);
    }
  }
  EXPECT_EQ(declared.size(), 32u);  // no graphs here
}

}  // namespace
}  // namespace rondo
