#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <unordered_map>

#include "runner/cli/commands.h"
#include "runner/cli/generate_lines.h"
#include "runner/cli/session.h"
#include "runner/cli/terminal.h"
#include "runner/text/utf8.h"

namespace rondo::cli {
namespace {

struct Sequence {
  std::vector<int32_t> prompt;
  std::vector<int32_t> ids;  // made, a stop token included
  std::vector<float> logprobs;
  std::string text;  // of ids, a stop token left out
  Utf8Stream stream;
  FinishReason finish = FinishReason::None;

  bool ended() const { return finish != FinishReason::None; }
};

// A step belongs to the prompts while any sequence waits for its first token, to decoding after that.
struct Timings {
  double prompt_ms = 0;
  double decode_ms = 0;
  uint64_t prompt_tokens = 0;
  uint64_t tokens = 0;
  uint64_t decode_tokens = 0;
  uint64_t decode_steps = 0;

  double tokens_per_second() const {
    return decode_ms > 0 ? 1000.0 * static_cast<double>(decode_tokens) / decode_ms : 0;
  }
  double ms_per_token() const {
    return decode_tokens > 0 ? decode_ms / static_cast<double>(decode_tokens) : 0;
  }
  double ms_per_step() const { return decode_steps > 0 ? decode_ms / static_cast<double>(decode_steps) : 0; }
};

std::string joined(const std::vector<int32_t>& ids, const char* between) {
  return fmt::format("{}", fmt::join(ids, between));
}

// One sequence streams as it is made. Of several, each is one line, in the order of the prompts: the first
// that has not ended streams, and what the others make meanwhile follows when it is their turn.
class TextWriter {
 public:
  TextWriter(const std::vector<Prompt>& prompts, const std::vector<Sequence>& sequences, bool readable)
      : prompts_(prompts), sequences_(sequences), readable_(readable) {}

  // Sequences have new tokens, or have ended.
  void update() {
    const bool lines = sequences_.size() > 1;
    std::string out;
    for (; next_ < sequences_.size(); ++next_, shown_ = 0) {
      const Sequence& sequence = sequences_[next_];
      const std::string made = not_shown(sequence);
      if (lines && !in_line_ && (!made.empty() || sequence.ended())) {
        out += head(next_);
        in_line_ = true;
      }
      out += lines ? one_line(made) : made;
      if (!made.empty()) in_line_ = lines || made.back() != '\n';
      if (!sequence.ended()) break;
      if (!lines) continue;
      out += '\n';
      in_line_ = false;
    }
    if (!out.empty()) write_out(out);
  }

  // Leaves the cursor at the start of a line.
  void close() {
    if (in_line_) {
      in_line_ = false;
      write_out("\n");
    }
  }

 private:
  // Text reads on from its prompt; ids are set apart from theirs.
  std::string head(size_t i) const {
    const Prompt& prompt = prompts_[i];
    return fmt::format("[{}] {}", i, prompt.is_text ? one_line(prompt.text) : joined(prompt.ids, ",") + ": ");
  }

  // What the sequence whose turn it is has made since it was last asked.
  std::string not_shown(const Sequence& sequence) {
    std::string made;
    if (readable_) {
      made = sequence.text.substr(shown_);
      shown_ = sequence.text.size();
    }
    for (; !readable_ && shown_ < sequence.ids.size(); ++shown_)
      made += fmt::format("{}{}", shown_ > 0 ? " " : "", sequence.ids[shown_]);
    return made;
  }

  const std::vector<Prompt>& prompts_;
  const std::vector<Sequence>& sequences_;
  bool readable_;
  size_t next_ = 0;   // whose turn it is
  size_t shown_ = 0;  // bytes of its text, or tokens, that have been written
  bool in_line_ = false;
};

class Generation {
 public:
  Generation(const GenerateOptions& options, Engine& engine, const Text& text)
      : options_(options),
        engine_(engine),
        text_(text),
        writer_(options.prompts, sequences_, text.readable()) {
    for (const Prompt& prompt : options.prompts) {
      Sequence sequence;
      sequence.prompt = text.ids(prompt);
      timings_.prompt_tokens += sequence.prompt.size();
      sequences_.push_back(std::move(sequence));
    }
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Request request = options.request;
      request.prompt = sequences_[i].prompt;
      request.sampling.seed += i;
      ids_.push_back(engine.add(request));
      index_[ids_.back()] = i;
    }
  }

  // Until all have ended or a signal came; then whatever is left is cancelled between two steps.
  void decode() {
    try {
      if (options_.target.engine.one_launch)
        generate();
      else
        while (engine_.busy() && caught_signal() == 0) step();
      for (size_t i = 0; i < sequences_.size(); ++i) {
        if (sequences_[i].ended()) continue;
        if (engine_.finish_reason(ids_[i]) == FinishReason::None) engine_.cancel(ids_[i]);
        sequences_[i].finish = engine_.finish_reason(ids_[i]);
      }
      if (!options_.json) writer_.update();
    } catch (const Error&) {
      writer_.close();  // the error's line starts at a line's start
      throw;
    }
    writer_.close();
  }

  std::string json(double load_ms) const {
    Json sequences = Json::array();
    for (const Sequence& sequence : sequences_) {
      Json logprobs = Json::array();
      for (float logprob : sequence.logprobs) logprobs.push_back(number(logprob));
      Json entry = {{"prompt_ids", sequence.prompt}, {"ids", sequence.ids}};
      if (text_.readable()) entry["text"] = sequence.text;
      entry["finish_reason"] = finish_reason_name(sequence.finish);
      entry["logprobs"] = std::move(logprobs);
      sequences.push_back(std::move(entry));
    }
    const Json timings = {{"load_ms", milliseconds(load_ms)},
                          {"prompt_ms", milliseconds(timings_.prompt_ms)},
                          {"decode_ms", milliseconds(timings_.decode_ms)},
                          {"prompt_tokens", timings_.prompt_tokens},
                          {"tokens", timings_.tokens},
                          {"decode_tokens", timings_.decode_tokens},
                          {"decode_steps", timings_.decode_steps},
                          {"tokens_per_second", milliseconds(timings_.tokens_per_second())},
                          {"ms_per_token", timings_.ms_per_token()},
                          {"ms_per_step", timings_.ms_per_step()}};
    return document({{"version", version()},
                     {"model", options_.target.path},
                     {"sequences", std::move(sequences)},
                     {"timings", timings},
                     {"stats", stats_json(engine_.stats())}});
  }

  std::string figures() const {
    const Stats stats = engine_.stats();
    std::string line = fmt::format("{} tokens, {:.1f} tokens/s, {:.3f} ms/token, {} replays of {} steps, {}",
                                   timings_.tokens, timings_.tokens_per_second(), timings_.ms_per_token(),
                                   stats.replays, stats.steps, stats.device);
    if (options_.target.engine.one_launch)
      line += stats.one_launch == "on"
                  ? fmt::format(", {} steps in {} launches", stats.loop_steps, stats.loops)
                  : fmt::format(", no loops: {}", stats.one_launch);
    size_t full = 0;
    for (const Sequence& sequence : sequences_) full += sequence.finish == FinishReason::ContextFull;
    if (full > 0)
      line += fmt::format(", {} ended by a full context of {} positions", full, engine_.max_context());
    return line + "\n";
  }

  // Everything else has been printed when this is thrown.
  void throw_numerical_errors() const {
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& sequence = sequences_[i];
      if (sequence.finish != FinishReason::NumericalError) continue;
      throw Error(
          ErrorKind::NumericalError,
          fmt::format("sequence {}: expected a token at position {}, found logits that are NaN or infinite",
                      i, sequence.prompt.size() + sequence.ids.size()));
    }
  }

 private:
  void step() {
    const bool prompts = prompting();
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Output> outputs = engine_.step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    uint64_t tokens = 0;
    for (const Output& output : outputs) tokens += output.token >= 0;
    timings_.tokens += tokens;
    if (prompts) {
      timings_.prompt_ms += took.count();
    } else {
      timings_.decode_ms += took.count();
      timings_.decode_tokens += tokens;
      timings_.decode_steps += 1;
    }
    for (const Output& output : outputs) take(output);
  }

  bool prompting() const {
    return std::any_of(sequences_.begin(), sequences_.end(),
                       [](const Sequence& sequence) { return !sequence.ended() && sequence.ids.empty(); });
  }

  // Times are those between two outputs; a sequence that comes again says that there was another step.
  void generate() {
    std::set<SequenceId> in_step;
    auto last = std::chrono::steady_clock::now();
    engine_.generate([&](const Output& output) {
      const auto now = std::chrono::steady_clock::now();
      const double took = std::chrono::duration<double, std::milli>(now - last).count();
      last = now;
      const uint64_t tokens = output.token >= 0;
      timings_.tokens += tokens;
      const bool another = !in_step.insert(output.sequence).second;
      if (another) in_step = {output.sequence};
      if (prompting()) {
        timings_.prompt_ms += took;
      } else {
        timings_.decode_ms += took;
        timings_.decode_tokens += tokens;
        timings_.decode_steps += another;
      }
      take(output);
      if (caught_signal() == 0) return;
      for (SequenceId id : ids_) engine_.cancel(id);  // heard of between two steps
    });
  }

  void take(const Output& output) {
    Sequence& sequence = sequences_.at(index_.at(output.sequence));
    sequence.finish = output.finish;
    if (output.token >= 0) {
      sequence.ids.push_back(output.token);
      sequence.logprobs.push_back(output.logprob);
      std::string text;
      if (output.finish != FinishReason::Stop) text = sequence.stream.take(text_.bytes(output.token));
      if (sequence.ended()) text += sequence.stream.end();
      sequence.text += text;
    }
    if (!options_.json) writer_.update();
  }

  const GenerateOptions& options_;
  Engine& engine_;
  const Text& text_;
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> ids_;
  std::unordered_map<SequenceId, size_t> index_;
  Timings timings_;
  TextWriter writer_;
};

}  // namespace

int run(const GenerateOptions& options) {
  Session session = open_session(options.target);
  if (options.lines) return generate_lines(options, session);
  Generation generation(options, session.engine, session.text);
  if (!session.text.refusal().empty())
    write_err("rondo: no text: " + one_line(session.text.refusal()) + "\n");
  generation.decode();
  if (options.json) {
    write_out(generation.json(session.load_ms));
  } else {
    write_err(generation.figures());
  }
  generation.throw_numerical_errors();
  if (caught_signal() != 0) throw Interrupted{caught_signal()};
  return 0;
}

}  // namespace rondo::cli
