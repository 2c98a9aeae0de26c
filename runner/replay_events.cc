// A scheduler's log, asked for again.
#include <functional>
#include <unordered_map>
#include <utility>

#include "runner/engine.h"

namespace rondo {
namespace {

class Replay {
 public:
  using Step = std::function<std::vector<Output>(bool ahead, bool again)>;
  using Fail = std::function<void(bool led)>;
  Replay(Engine& engine, Step step, Fail fail)
      : engine_(engine), step_(std::move(step)), fail_(std::move(fail)) {}

  // `ahead`: the step behind this event, if it is one, was planned before this one had been made.
  void ask(const LogEvent& event, bool ahead) {
    using Kind = LogEvent::Kind;
    switch (event.kind) {
      case Kind::Add: return name(event, engine_.add(*event.request));
      case Kind::Fork: return name(event, engine_.fork(here(event.source), *event.sampling));
      case Kind::Restore: return name(event, engine_.restore(*event.saved));
      case Kind::Resume: return engine_.resume(here(event.sequence), event.length, event.max_new_tokens);
      case Kind::Cancel: return engine_.cancel(here(event.sequence));
      case Kind::Remove: return engine_.remove(here(event.sequence));
      case Kind::Verify:
        engine_.verify(here(event.sequence), event.drafts);
        verified_ = true;
        return;
      case Kind::Step: return step(ahead, event.again);
      case Kind::Fail: return fail_(event.led);
      case Kind::Admit:
      case Kind::Preempt:
      case Kind::Finish: return;
    }
  }

  // The step that a Verify made is in the log too.
  void step(bool ahead, bool again) {
    if (verified_)
      verified_ = false;
    else
      take(step_(ahead, again));
  }

  std::vector<Output> finish() {
    while (engine_.busy()) take(engine_.step());
    return std::move(outputs_);
  }

 private:
  // Numbers are given out again: they differ where several threads had asked for some at once.
  void name(const LogEvent& event, SequenceId made) {
    here_[event.sequence] = made;
    there_[made] = event.sequence;
  }
  SequenceId here(SequenceId logged) const { return here_.at(logged); }

  void take(std::vector<Output> outputs) {
    for (Output& output : outputs) {
      output.sequence = there_.at(output.sequence);
      outputs_.push_back(std::move(output));
    }
  }

  Engine& engine_;
  Step step_;
  Fail fail_;
  bool verified_ = false;
  std::unordered_map<SequenceId, SequenceId> here_, there_;
  std::vector<Output> outputs_;
};

}  // namespace

std::vector<Output> replay_events(Engine& engine, const std::vector<LogEvent>& events) {
  Replay replay(
      engine, [&engine](bool ahead, bool again) { return engine.step(ahead, again); },
      [&engine](bool led) { engine.fail(led); });
  // Whether the next step was planned ahead has to be known when the one in front is made.
  std::vector<bool> ahead(events.size());
  bool next = false;
  for (size_t i = events.size(); i-- > 0;) {
    ahead[i] = next;
    if (events[i].kind == LogEvent::Kind::Step || events[i].kind == LogEvent::Kind::Fail)
      next = events[i].ahead;
  }
  for (size_t i = 0; i < events.size(); ++i) replay.ask(events[i], ahead[i]);
  return replay.finish();
}

}  // namespace rondo
