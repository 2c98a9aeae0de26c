#include "runner/cli/generate_lines.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <unordered_map>

#include "runner/cli/lines.h"
#include "runner/cli/request.h"
#include "runner/cli/terminal.h"
#include "runner/text/utf8.h"

namespace rondo::cli {
namespace {

constexpr int kBadInput = 2;
// How often a signal is looked for while nothing is to do: it may have reached another thread.
constexpr std::chrono::milliseconds kIdleWait{100};
// Sequences that wait, for each one that decodes: enough that none ends without another to take its place,
// and no whole file in memory.
constexpr size_t kQueuedPerSlot = 4;

class LineGeneration {
 public:
  LineGeneration(const GenerateOptions& options, Session& session)
      : options_(options), engine_(session.engine), text_(session.text), input_(STDIN_FILENO) {}

  int run() {
    while (caught_signal() == 0 && !(sequences_.empty() && input_.ended())) {
      take_lines();
      if (!sequences_.empty()) step();
      flush();
    }
    if (caught_signal() != 0) cancel_all();
    flush();
    const Stats stats = engine_.stats();
    write_err(
        fmt::format("{} sequences, {} bad lines, {} tokens, {:.1f} tokens/s, {} replays of {} steps, {}\n",
                    ended_, bad_lines_, tokens_, seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0,
                    stats.replays, stats.steps, stats.device));
    if (caught_signal() != 0) throw Interrupted{caught_signal()};
    return bad_lines_ > 0 || numerical_errors_ > 0 ? kBadInput : 0;
  }

 private:
  struct Sequence {
    Json id;
    bool logprobs = false;
    size_t prompt_tokens = 0;
    std::vector<int32_t> ids;
    std::vector<float> scores;  // log-probabilities of ids
    std::string text;
    Utf8Stream stream;
  };

  // What has come, as far as there is room for it; waits only where nothing else is to do.
  void take_lines() {
    const size_t most = kQueuedPerSlot * static_cast<size_t>(options_.target.engine.max_sequences);
    while (sequences_.size() < most && !input_.ended()) {
      const std::optional<Line> line =
          input_.next(sequences_.empty() && out_.empty() ? kIdleWait : std::chrono::milliseconds(0));
      if (!line) return;
      add(*line);
    }
  }

  void add(const Line& line) {
    Json id;
    try {
      const rondo::Json object = read_line_object(line);
      id = read_id(object, line);
      LineRequest read = read_request(object, line, options_.request, text_);
      const SequenceId sequence = engine_.add(read.request);
      sequences_[sequence] = {std::move(read.id), read.logprobs, read.request.prompt.size(), {}, {}, {}, {}};
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::DeviceLost) throw;
      ++bad_lines_;
      out_ += error_line(line, id, error);
    }
  }

  void step() {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Output> outputs = engine_.step();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (const Output& output : outputs) take(output);
  }

  void take(const Output& output) {
    Sequence& sequence = sequences_.at(output.sequence);
    const bool ended = output.finish != FinishReason::None;
    if (output.token >= 0) {
      ++tokens_;
      sequence.ids.push_back(output.token);
      sequence.scores.push_back(output.logprob);
      std::string text;
      if (output.finish != FinishReason::Stop) text = sequence.stream.take(text_.bytes(output.token));
      if (ended) text += sequence.stream.end();
      if (options_.stream) {
        Json line = {{"id", sequence.id}, {"token", output.token}};
        if (text_.readable()) line["text"] = text;
        if (sequence.logprobs) line["logprob"] = number(output.logprob);
        out_ += json_line(line);
      }
      sequence.text += text;
    }
    if (ended) end(output.sequence, output.finish);
  }

  void end(SequenceId id, FinishReason finish) {
    Sequence& sequence = sequences_.at(id);
    sequence.text += sequence.stream.end();
    Json line = {{"id", sequence.id}, {"finish_reason", finish_reason_name(finish)}};
    if (text_.readable()) line["text"] = sequence.text;
    line["ids"] = sequence.ids;
    if (sequence.logprobs) {
      line["logprobs"] = Json::array();
      for (const float score : sequence.scores) line["logprobs"].push_back(number(score));
    }
    line["prompt_tokens"] = sequence.prompt_tokens;
    out_ += json_line(line);
    ++ended_;
    numerical_errors_ += finish == FinishReason::NumericalError;
    sequences_.erase(id);
    engine_.remove(id);
  }

  // What they have made until now is still written.
  void cancel_all() {
    while (!sequences_.empty()) {
      const SequenceId id = sequences_.begin()->first;
      engine_.cancel(id);
      const FinishReason finish = engine_.finish_reason(id);
      end(id, finish == FinishReason::None ? FinishReason::Cancelled : finish);
    }
  }

  // Whole lines alone are ever written.
  void flush() {
    if (out_.empty()) return;
    write_out(out_);
    out_.clear();
  }

  const GenerateOptions& options_;
  Engine& engine_;
  const Text& text_;
  LineReader input_;
  std::unordered_map<SequenceId, Sequence> sequences_;  // those that have not ended
  std::string out_;
  uint64_t ended_ = 0;
  uint64_t bad_lines_ = 0;
  uint64_t numerical_errors_ = 0;
  uint64_t tokens_ = 0;
  double seconds_ = 0;  // in steps: waiting for lines is not the engine's time
};

}  // namespace

int generate_lines(const GenerateOptions& options, Session& session) {
  return LineGeneration(options, session).run();
}

}  // namespace rondo::cli
