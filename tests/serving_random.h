// A serving engine under requests at random: who comes, forks and is cancelled, and what each of them must
// be told. Whenever nobody is left, a second engine is asked for the same from the log.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runner/engine_core.h"
#include "tests/serving.h"

namespace rondo::test {

// The log of one engine, and the engine that is to do the same. What was compared is forgotten, so that a
// log of any length leaves memory as it was.
class Replayed {
 public:
  // `options`: of the second engine.
  Replayed(const std::string& path, const EngineOptions& options)
      : again_(Engine::open(path, logging(options))) {}
  Replayed(const Replayed&) = delete;  // the second engine calls back

  void logged(const LogEvent& event) { log_.push_back(event); }
  void told(const Output& output) { outputs_.emplace_back(output.sequence, output.token, output.finish); }

  // Of an engine that has nothing left to do. What is not the same, in words; "" if all is.
  std::string difference() {
    const std::vector<LogEvent> log = std::exchange(log_, {});
    const auto outputs = std::exchange(outputs_, {});
    decltype(outputs_) replayed;
    for (const Output& output : replay_events(again_, log))
      replayed.emplace_back(output.sequence, output.token, output.finish);
    const std::vector<LogEvent> found = std::exchange(found_, {});
    events_ += log.size();
    if (const std::string line = log_difference(log, found); !line.empty()) return line;
    const auto differ = std::mismatch(outputs.begin(), outputs.end(), replayed.begin(), replayed.end());
    if (differ.first == outputs.end() && differ.second == replayed.end()) return "";
    const auto text = [](const auto& at, const auto& end) {
      if (at == end) return std::string("nothing");
      const auto& [sequence, token, finish] = *at;
      return fmt::format("sequence {} token {} finish {}", sequence, token, finish_reason_name(finish));
    };
    return fmt::format("output {} of {}: expected {}, found {}", differ.first - outputs.begin(),
                       outputs.size(), text(differ.first, outputs.end()),
                       text(differ.second, replayed.end()));
  }
  size_t events() const { return events_; }  // compared so far

 private:
  EngineOptions logging(EngineOptions options) {
    options.on_event = [this](const LogEvent& event) { found_.push_back(event); };
    return options;
  }

  std::vector<LogEvent> log_, found_;
  std::vector<std::tuple<SequenceId, int32_t, FinishReason>> outputs_;
  size_t events_ = 0;
  Engine again_;
};

struct ServingCounts {
  uint64_t added = 0, forked = 0, cancelled = 0, stopped = 0, failed = 0;
};

class RandomServing {
 public:
  // `reference`: an engine that tells what each request gives when it is alone.
  RandomServing(Engine& reference, int vocab, uint32_t seed) : random_(seed) {
    for (uint32_t i = 0; i < kKinds; ++i) {
      // Two of a kind have one prompt and differ in their sampling: the first is forked to be the second.
      Request request = i % 2 ? kinds_.back().request : some_request(vocab, i);
      request.sampling = some_sampling(i);
      kinds_.push_back(alone_of(reference, request));
    }
  }

  // Whether what throws, the loss of the device apart, is asked for again: steps after whatever else comes,
  // other calls at once.
  void let_calls_fail(bool let) { calls_fail_ = let; }

  // Steps until `steps` were made in all, with `most` sequences and forks of them, and then until nobody is
  // left.
  void step(EngineCore& core, Replayed& replayed, uint64_t steps, size_t most) {
    const auto step = [&] {
      attempt([&] {
        const EngineCore::Turn turn(core);
        for (const Output& output : core.step()) told(core, replayed, output);
      });
      remove_ended(core);
    };
    while (core.stats().steps < steps && !testing::Test::HasFatalFailure()) {
      while (live_.size() < most) add(core, true);
      if (random_() % 12 == 0) fork(core, any(), false);
      if (random_() % 16 == 0) cancel(core, any());
      step();
    }
    while (core.scheduler().busy() && !testing::Test::HasFatalFailure()) step();
    EXPECT_TRUE(live_.empty());
  }

  // The same by generate(); who comes later, and who is cancelled, by its callback.
  void generate(EngineCore& core, Replayed& replayed, uint64_t steps, size_t most) {
    const auto each = [&](const Output& output) {
      told(core, replayed, output);
      if (core.stats().steps >= steps || live_.empty()) return;
      if (live_.size() < most && random_() % 4 == 0) add(core, false);
      if (random_() % 32 == 0) cancel(core, any());
    };
    while ((core.stats().steps < steps || core.scheduler().busy()) && !testing::Test::HasFatalFailure()) {
      while (live_.size() < most && core.stats().steps < steps) add(core, true);
      attempt([&] {
        const EngineCore::Turn turn(core);
        core.generate(each);
      });
      remove_ended(core);
    }
    EXPECT_TRUE(live_.empty());
  }

  const ServingCounts& counts() const { return counts_; }

 private:
  static constexpr uint32_t kKinds = 24;

  struct Kind {
    Request request;
    std::vector<int32_t> tokens;  // generated
    FinishReason finish;
  };
  struct Live {
    size_t kind;
    size_t told = 0;  // of the kind's tokens
    bool cancelled = false;
  };

  Request some_request(int vocab, uint32_t i) {
    const auto token = [&] { return static_cast<int32_t>(random_() % static_cast<uint32_t>(vocab)); };
    // Few beginnings, so that prefixes are shared.
    Request request = greedy(some_tokens(1 + static_cast<int>(random_() % 12), vocab, i / 2 % 4),
                             static_cast<int>(random_() % 12));
    if (i % 3 == 0) request.stop_ids = {token(), token(), token(), token()};
    if (i % 4 == 0)
      for (int stops = 0; stops < 6; ++stops) request.stop_sequences.push_back({token()});
    if (i % 5 == 0) request.min_new_tokens = request.max_new_tokens / 2;
    if (i % 6 == 0) request.draft_tokens = 2;
    return request;
  }
  Sampling some_sampling(uint32_t i) {
    Sampling sampling = drawn(random_() % 100, random_() % 3 ? 1.2f : 0.0f);
    if (i % 5 == 1) sampling.frequency_penalty = 0.5f;
    if (i % 7 == 2) sampling.top_k = 5;
    if (i % 11 == 3) sampling.top_p = 0.8f;
    if (i % 8 == 4) sampling.top_logprobs = 2;
    return sampling;
  }
  static Kind alone_of(Engine& reference, const Request& request) {
    const SequenceId id = reference.add(request);
    while (reference.busy()) reference.step();
    Kind kind{request, reference.tokens(id), reference.finish_reason(id)};
    reference.remove(id);
    kind.tokens.erase(kind.tokens.begin(), kind.tokens.begin() + static_cast<int64_t>(request.prompt.size()));
    return kind;
  }

  // Whether the call was made.
  template <class Call>
  bool attempt(const Call& call) {
    try {
      call();
      return true;
    } catch (const Error& error) {
      if (!calls_fail_ || error.kind() == ErrorKind::DeviceLost) throw;
      ++counts_.failed;
      return false;
    }
  }
  template <class Call>
  void insist(const Call& call) {
    while (!attempt(call)) {
    }
  }

  SequenceId any() { return std::next(live_.begin(), static_cast<int64_t>(random_() % live_.size()))->first; }

  void add(EngineCore& core, bool may_fork) {
    const size_t kind = random_() % kKinds;
    Request request = kinds_[kind].request;
    request.priority = static_cast<int>(random_() % 3);
    SequenceId id = 0;
    insist([&] { id = core.add(request); });
    live_[id] = {kind};
    ++counts_.added;
    if (may_fork && kind % 2 == 0 && random_() % 4 == 0) fork(core, id, true);
  }
  // Before its first token it may become the other of its kind; later it goes on as its source does.
  void fork(EngineCore& core, SequenceId source, bool other) {
    Live of = live_.at(source);
    of.kind += other;
    of.cancelled = false;
    insist([&] {
      const EngineCore::Turn turn(core);
      if (core.scheduler().sequence(source).finish != FinishReason::None) return;
      live_[core.fork(source, kinds_[of.kind].request.sampling)] = of;
      ++counts_.forked;
    });
  }
  void cancel(EngineCore& core, SequenceId id) {
    insist([&] { core.cancel(id); });
    live_.at(id).cancelled = true;
  }
  void remove_ended(EngineCore& core) {
    for (SequenceId id : std::exchange(ended_, {}))
      insist([&] {
        const EngineCore::Turn turn(core);
        core.remove(id);
      });
  }

  void told(EngineCore& core, Replayed& replayed, const Output& output) {
    if (testing::Test::HasFatalFailure()) return;
    replayed.told(output);
    check(core, output);
  }
  void check(EngineCore& core, const Output& output) {
    Live& live = live_.at(output.sequence);
    const Kind& kind = kinds_[live.kind];
    if (output.token >= 0) {
      ASSERT_LT(live.told, kind.tokens.size()) << output.sequence;
      ASSERT_EQ(output.token, kind.tokens[live.told++]) << output.sequence;
    }
    if (output.finish == FinishReason::None) return;
    if (output.finish == FinishReason::Cancelled) {
      ASSERT_TRUE(live.cancelled) << output.sequence;
      ++counts_.cancelled;
    } else {
      ASSERT_EQ(output.finish, kind.finish) << output.sequence;
      ASSERT_EQ(live.told, kind.tokens.size()) << output.sequence;
      counts_.stopped += output.finish == FinishReason::Stop;
    }
    auto tokens = kind.request.prompt;
    tokens.insert(tokens.end(), kind.tokens.begin(), kind.tokens.begin() + static_cast<int64_t>(live.told));
    ASSERT_EQ(core.scheduler().sequence(output.sequence).tokens, tokens);
    live_.erase(output.sequence);
    ended_.push_back(output.sequence);
  }

  std::mt19937 random_;
  std::vector<Kind> kinds_;
  std::map<SequenceId, Live> live_;
  std::vector<SequenceId> ended_;
  ServingCounts counts_;
  bool calls_fail_ = false;
};

}  // namespace rondo::test
