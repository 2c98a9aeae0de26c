#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <climits>

#include "runner/cli/commands.h"
#include "runner/cli/lines.h"
#include "runner/cli/request.h"
#include "runner/cli/terminal.h"
#include "runner/text/tokenizer.h"

namespace rondo::cli {
namespace {

constexpr int kBadInput = 2;
constexpr std::chrono::milliseconds kWait{100};

// {"text": "..", "add_special_tokens": true} gives {"ids": [..]}, {"ids": [..], "skip_special_tokens": true}
// gives {"text": ".."}.
Json answer(const Line& line, const Tokenizer& tokenizer) {
  const rondo::Json object = read_line_object(line);
  JsonFields fields(object, fmt::format("line {}", line.number));
  fields.ignore("id");
  Json result = Json::object();
  if (object.contains("id")) result["id"] = read_id(object, line);
  const rondo::Json* list = fields.find("ids");
  if ((list != nullptr) == object.contains("text")) fields.refuse_field("text", "either \"text\" or \"ids\"");
  if (list == nullptr) {
    const std::string text = fields.string("text");
    const bool special = fields.boolean_or("add_special_tokens", true);
    fields.refuse_others("docs/text.md names the fields");
    result["ids"] = tokenizer.encode(text, special);
    return result;
  }
  if (!list->is_array()) fields.refuse_field("ids", "an array of token ids");
  std::vector<int32_t> ids;
  for (const rondo::Json& id : *list)
    ids.push_back(static_cast<int32_t>(json_integer(id, "ids", 0, INT_MAX)));
  const bool skip = fields.boolean_or("skip_special_tokens", true);
  fields.refuse_others("docs/text.md names the fields");
  result["text"] = tokenizer.decode(ids, skip);
  return result;
}

int answer_lines(const Tokenizer& tokenizer) {
  LineReader input(STDIN_FILENO);
  bool bad = false;
  while (!input.ended()) {
    if (caught_signal() != 0) throw Interrupted{caught_signal()};
    const std::optional<Line> line = input.next(kWait);
    if (!line) continue;
    try {
      write_out(json_line(as_argument([&] { return answer(*line, tokenizer); })));
    } catch (const Error& error) {
      bad = true;
      write_out(error_line(*line, nullptr, error));
    }
  }
  return bad ? kBadInput : 0;
}

}  // namespace

int run(const TokenizeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::open(options.model);
  if (options.texts.empty()) return answer_lines(tokenizer);
  for (const std::string& text : options.texts)
    write_out(fmt::format("{}\n", fmt::join(tokenizer.encode(text, !options.no_special_tokens), ",")));
  return 0;
}

}  // namespace rondo::cli
