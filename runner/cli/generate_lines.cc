#include "runner/cli/generate_lines.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "runner/cli/lines.h"
#include "runner/cli/request.h"
#include "runner/cli/stop_text.h"
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
    bool top_logprobs = false;
    std::vector<int32_t> stop_ids;  // tokens that are no text where they end it
    size_t prompt_tokens = 0;
    std::vector<int32_t> ids;
    Json scores = Json::array();  // log-probabilities of ids
    Json top = Json::array();     // and of the likeliest tokens in their places
    std::string text;
    Utf8Stream stream;
    StopText stop;
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
      Sequence& sequence = sequences_[engine_.add(read.request)];
      sequence.id = std::move(read.id);
      sequence.logprobs = read.logprobs;
      sequence.top_logprobs = read.request.sampling.top_logprobs > 0;
      sequence.stop_ids = std::move(read.request.stop_ids);
      sequence.prompt_tokens = read.request.prompt.size();
      sequence.stop = StopText(std::move(read.stop));
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
    const auto found = sequences_.find(output.sequence);
    if (found == sequences_.end()) return;  // a draft behind a stop
    Sequence& sequence = found->second;
    FinishReason finish = output.finish;
    if (output.token >= 0) {
      ++tokens_;
      sequence.ids.push_back(output.token);
      const std::string text = text_of(output, sequence);
      sequence.text += text;
      if (sequence.stop.found()) finish = FinishReason::Stop;
      Json line = {{"id", sequence.id}, {"token", output.token}};
      if (text_.readable()) line["text"] = text;
      if (sequence.logprobs) sequence.scores.push_back(line["logprob"] = number(output.logprob));
      if (sequence.top_logprobs) sequence.top.push_back(line["top_logprobs"] = top_of(output));
      if (options_.stream) out_ += json_line(line);
    }
    if (finish != FinishReason::None) end(output.sequence, finish);
  }

  // The text that can be shown since this token, and no more than that: none of a stop.
  std::string text_of(const Output& output, Sequence& sequence) const {
    const bool ended = output.finish != FinishReason::None;
    std::string text;
    if (output.finish != FinishReason::Stop || !is_stop(output.token, sequence))
      text = sequence.stream.take(text_.bytes(output.token));
    if (ended) text += sequence.stream.end();
    text = sequence.stop.take(text);
    return ended ? text + sequence.stop.end() : text;
  }

  bool is_stop(int32_t token, const Sequence& sequence) const {
    const auto holds = [token](const std::vector<int32_t>& ids) {
      return std::find(ids.begin(), ids.end(), token) != ids.end();
    };
    return holds(sequence.stop_ids) || holds(engine_.eos_token_ids());
  }

  static Json top_of(const Output& output) {
    Json top = Json::array();
    for (const TokenLogprob& next : output.top_logprobs)
      top.push_back({{"token", next.token}, {"logprob", number(next.logprob)}});
    return top;
  }

  void end(SequenceId id, FinishReason finish) {
    Sequence& sequence = sequences_.at(id);
    sequence.text += sequence.stop.take(sequence.stream.end()) + sequence.stop.end();
    Json line = {{"id", sequence.id}, {"finish_reason", finish_reason_name(finish)}};
    if (text_.readable()) line["text"] = sequence.text;
    line["ids"] = sequence.ids;
    if (sequence.logprobs) line["logprobs"] = std::move(sequence.scores);
    if (sequence.top_logprobs) line["top_logprobs"] = std::move(sequence.top);
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
      end(id, FinishReason::Cancelled);
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
