// The program driven through a pipe: requests and answers by the line, and text by tokenizer.json.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "tests/model_files.h"
#include "tests/program.h"
#include "tests/support.h"

namespace rondo::test {
namespace {

const std::string kDemo = (kSource / "models/demo").string();
const std::string kTokenizers = (kSource / "tests/tokenizers").string();

Arguments on_demo(const Arguments& more = {}) {
  Arguments arguments = {"generate", "--model",         kDemo, "--device", "cpu", "--threads",
                         "2",        "--max-sequences", "3",   "--jsonl"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::vector<Json> objects_of(const std::string& out) {
  EXPECT_TRUE(out.empty() || out.ends_with("\n")) << "a torn line: " << out;
  std::vector<Json> lines;
  size_t begin = 0;
  for (size_t end = out.find('\n'); end != out.npos; begin = end + 1, end = out.find('\n', begin))
    lines.push_back(parse_json(out.substr(begin, end - begin)));
  return lines;
}

struct Answers {
  int status = 0;
  std::vector<Json> lines;
};

Answers answers(const Arguments& arguments, const std::string& input) {
  Process process(arguments, Process::Input::Pipe);
  process.write_input(input);
  const Process::Result result = process.finish();
  EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  return {result.status, objects_of(result.out)};
}

// A directory with a config.json and the tokenizer.json of a fixture, for random weights.
class TextModel {
 public:
  explicit TextModel(const std::string& name) {
    TinySizes sizes;
    sizes.vocab = 1280;
    std::filesystem::copy_file(TinyConfig(sizes).path(), folder_ / "config.json");
    std::filesystem::copy_file(kTokenizers + "/" + name + "/tokenizer.json", folder_ / "tokenizer.json");
  }
  Arguments arguments(const std::string& command, const Arguments& more) const {
    Arguments all = {command,
                     "--config",
                     folder_ / "config.json",
                     "--random-weights",
                     "--device",
                     "cpu",
                     "--max-rows",
                     "8",
                     "--threads",
                     "2"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string tokenizer() const { return folder_ / "tokenizer.json"; }

 private:
  testing_files::TempDir folder_;
};

TEST(CliLines, EveryRequestIsAnsweredAsIfItWereAlone) {
  std::string input;
  std::map<int, Json> alone;
  for (int i = 0; i < 12; ++i) {
    const Json request = {{"id", i},
                          {"prompt", fmt::format("{}+{}=", 10 + 7 * i, 90 - i)},
                          {"temperature", i % 2},
                          {"seed", 100 + i},
                          {"max_new_tokens", 1 + i % 5},
                          {"ignore_eos", true}};
    input += request.dump() + "\n";
    if (i % 4 == 3) alone[i] = answers(on_demo(), request.dump()).lines.at(0);
  }
  const Answers all = answers(on_demo(), input);
  EXPECT_EQ(all.status, 0);
  ASSERT_EQ(all.lines.size(), 12u);
  std::map<int, Json> by_id;
  for (const Json& line : all.lines) by_id[line.at("id")] = line;
  ASSERT_EQ(by_id.size(), 12u);
  for (const auto& [id, line] : by_id) EXPECT_EQ(line.at("ids").size(), 1u + id % 5);
  for (const auto& [id, line] : alone) EXPECT_EQ(by_id.at(id), line);
}

TEST(CliLines, AnswersBeforeTheInputEnds) {
  Process process(on_demo(), Process::Input::Pipe);
  process.write_input("{\"id\": \"sum\", \"prompt\": \"36+79=\"}\n{\"id\": ");
  const Json first = parse_json(process.read_line());
  EXPECT_EQ(first.at("id"), "sum");
  EXPECT_EQ(first.at("text"), "115");
  EXPECT_EQ(first.at("finish_reason"), "stop");
  process.write_input("2, \"prompt_ids\": [51,54,43,55,57,61]}");
  const Process::Result result = process.finish();
  EXPECT_EQ(result.status, 0) << result.err;
  const std::vector<Json> rest = objects_of(result.out);
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].at("id"), 2);
  EXPECT_EQ(rest[0].at("text"), "115");
}

TEST(CliLines, ABadLineIsAnErrorWithItsNumberAndTheOthersGoOn) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"nonsense", "JSON object"},
      {"[1]", "array"},
      {R"({"id": 1})", "neither"},
      {R"({"id": 1, "prompt": "a", "prompt_ids": [1]})", "both"},
      {R"({"id": 1, "prompt": "a", "colour": 1})", "colour"},
      {R"({"id": 1, "prompt": "a", "temperature": -1})", "temperature"},
      {R"({"id": 1, "prompt": "a", "top_p": 0})", "top_p"},
      {R"({"id": 1, "prompt": "a", "seed": -1})", "seed"},
      {R"({"id": 1, "prompt": "a", "max_new_tokens": 1.5})", "max_new_tokens"},
      {R"({"id": 1, "prompt": "a", "stop": ""})", "stop"},
      {R"({"id": 1, "prompt": "a", "logit_bias": {"x": 1}})", "logit_bias"},
      {R"({"id": 1, "prompt": "a", "stop_sequences": [1]})", "stop_sequences"},
      {R"({"id": 1, "prompt": "a", "prompt": "b"})", "twice"},
      {R"({"id": 1, "prompt": ""})", "prompt"},
      {R"({"id": 1, "prompt_ids": [100000]})", "100000"},
      {R"({"id": [], "prompt": "a"})", "id"},
      {"{\"id\": 1, \"prompt\": \"\xff\"}", "UTF-8"},
  };
  std::string input;
  for (const auto& [line, naming] : bad) input += line + "\n \n{\"prompt\": \"36+79=\"}\n";
  const Answers all = answers(on_demo(), input);
  EXPECT_EQ(all.status, 2);
  std::map<size_t, Json> errors;
  size_t good = 0;
  for (const Json& line : all.lines) {
    if (line.contains("error")) {
      errors[line.at("line")] = line;
    } else {
      EXPECT_EQ(line.at("text"), "115");
      ++good;
    }
  }
  EXPECT_EQ(good, bad.size());
  ASSERT_EQ(errors.size(), bad.size());
  std::set<size_t> named;  // those whose id could be read
  for (size_t i = 0; i < bad.size(); ++i) {
    if (bad[i].first.starts_with("{\"id\": 1") && bad[i].second != "twice" && bad[i].second != "UTF-8")
      named.insert(i);
    const Json& error = errors.at(3 * i + 1).at("error");
    EXPECT_EQ(error.at("kind"), "InvalidArgument") << bad[i].first;
    EXPECT_NE(error.at("message").get<std::string>().find(bad[i].second), std::string::npos) << error;
    EXPECT_EQ(errors.at(3 * i + 1).contains("id"), named.contains(i)) << bad[i].first;
  }
}

TEST(CliLines, StreamIsALinePerTokenAndTheSameLineAtTheEnd) {
  const std::string input = R"({"id": 5, "prompt": "reverse stressed=", "logprobs": true})";
  const Answers whole = answers(on_demo(), input);
  const Answers stream = answers(on_demo({"--stream"}), input);
  ASSERT_EQ(whole.lines.size(), 1u);
  const Json& end = whole.lines[0];
  ASSERT_EQ(stream.lines.size(), end.at("ids").size() + 1);
  EXPECT_EQ(stream.lines.back(), end);
  std::string text;
  for (size_t i = 0; i + 1 < stream.lines.size(); ++i) {
    EXPECT_EQ(stream.lines[i].at("id"), 5);
    EXPECT_EQ(stream.lines[i].at("token"), end.at("ids")[i]);
    EXPECT_EQ(stream.lines[i].at("logprob"), end.at("logprobs")[i]);
    text += stream.lines[i].at("text").get<std::string>();
  }
  EXPECT_EQ(text, "desserts");
}

TEST(CliLines, AStopTextEndsASequenceWhateverTokensItComesIn) {
  const std::string plain = R"({"id": 1, "prompt": "reverse stressed=")";
  const auto text = [&](const std::string& stop) {
    const Answers all = answers(on_demo({"--stream"}), plain + ", \"stop\": " + stop + "}");
    std::string streamed;
    for (size_t i = 0; i + 1 < all.lines.size(); ++i) streamed += all.lines[i].at("text").get<std::string>();
    EXPECT_EQ(all.lines.back().at("finish_reason"), "stop");
    EXPECT_EQ(all.lines.back().at("text"), streamed) << "nothing of a stop is streamed";
    return streamed;
  };
  EXPECT_EQ(text(R"("sse")"), "de");
  EXPECT_EQ(text(R"(["zzz", "rt", "ert"])"), "dess");
  EXPECT_EQ(text(R"("d")"), "");
  EXPECT_EQ(text(R"("sz")"), "desserts");  // begun at the end, and shown
}

TEST(CliLines, EveryFieldReachesTheEngine) {
  const auto line = [](const std::string& fields) {
    const Answers all = answers(
        on_demo(), R"({"prompt": "36+79=", "ignore_eos": true, "max_new_tokens": 6, )" + fields + "}");
    EXPECT_EQ(all.status, 0) << all.lines;
    return all.lines.at(0);
  };
  const Json plain =
      line(R"("priority": -3, "draft_tokens": 2, "draft_ngram": 2)");  // tokens are the same with these
  EXPECT_EQ(plain.at("text").get<std::string>().substr(0, 4), "115\n");
  EXPECT_EQ(line(R"("seed": 18446744073709551615)"), plain) << "greedy";
  EXPECT_EQ(line(R"("stop_ids": [53])").at("ids"), Json({49, 49, 53}));
  EXPECT_EQ(line(R"("stop_ids": [53])").at("text"), "11");
  EXPECT_EQ(line(R"("stop_sequences": [[49, 53]])").at("text"), "115");
  EXPECT_NE(line(R"("stop_ids": [53], "min_new_tokens": 5)").at("ids").size(), 3u);
  EXPECT_NE(line(R"("logit_bias": {"49": -1000})").at("ids")[0], 49);
  EXPECT_NE(line(R"("frequency_penalty": 100)").at("ids")[1], 49);
  EXPECT_NE(line(R"("presence_penalty": 100)").at("ids")[1], 49);
  const Json top = line(R"("top_logprobs": 2, "logprobs": true)");
  ASSERT_EQ(top.at("top_logprobs").size(), 6u);
  EXPECT_EQ(top.at("top_logprobs")[0].size(), 2u);
  EXPECT_EQ(top.at("top_logprobs")[0][0].at("token"), 49);
  EXPECT_EQ(top.at("top_logprobs")[0][0].at("logprob"), top.at("logprobs")[0]);
}

TEST(CliLines, OptionsAreTheDefaultsOfEveryLine) {
  const Answers all = answers(on_demo({"--max-new-tokens", "2", "--ignore-eos"}),
                              "{\"prompt\": \"36+79=\"}\n{\"prompt\": \"36+79=\", \"max_new_tokens\": 0}");
  ASSERT_EQ(all.lines.size(), 2u);
  std::map<int, size_t> made;
  for (const Json& line : all.lines) made[line.at("id")] = line.at("ids").size();
  EXPECT_EQ(made, (std::map<int, size_t>{{1, 2}, {2, 0}}));  // a line without an id is named by its number
}

// Twelve sequences that write more than a pipe holds.
struct LongLines {
  TinyConfig config{[] {
    TinySizes sizes;
    sizes.max_positions = 1 << 13;
    return sizes;
  }()};
  Process process{{"generate", "--config", config.path(), "--random-weights", "--device", "cpu", "--threads",
                   "2", "--jsonl", "--stream", "--max-sequences", "4", "--max-context", "8192",
                   "--ignore-eos", "--max-new-tokens", "8000"},
                  Process::Input::Pipe};
  LongLines() {
    for (int i = 0; i < 12; ++i) process.write_input("{\"prompt_ids\": [1]}\n");
    process.read_byte();
  }
};

TEST(CliLines, B43_ASignalEndsItWithWholeLinesOfWhatThereIs) {
  LongLines run;
  ASSERT_EQ(kill(run.process.pid(), SIGTERM), 0);
  const Process::Result result = run.process.finish();
  EXPECT_EQ(result.status, 128 + SIGTERM) << result.err;
  size_t cancelled = 0;
  for (const Json& line : objects_of("{" + result.out)) {  // its first byte has been read
    if (line.contains("finish_reason")) cancelled += line.at("finish_reason") == "cancelled";
  }
  EXPECT_EQ(cancelled, 12u);
}

TEST(CliLines, ASignalEndsTheWaitForInput) {
  Process process(on_demo(), Process::Input::Pipe);
  process.write_input("{\"prompt\": \"36+79=\"}\n");
  process.read_line();
  ASSERT_EQ(kill(process.pid(), SIGINT), 0);
  process.read_to_end();  // its input is still open
  EXPECT_EQ(process.finish().status, 128 + SIGINT);
}

TEST(CliLines, AClosedPipeEndsItQuietly) {
  LongLines run;
  run.process.close_output();
  const Process::Result result = run.process.finish();
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
}

TEST(CliLines, RefusesOptionsThatDoNotFitTogether) {
  for (const Arguments& more :
       {Arguments{"--jsonl", "--prompt", "x"}, {"--jsonl", "--json"}, {"--stream", "--prompt", "x"}}) {
    Arguments arguments = {"generate", "--model", "a"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Process::Result result = rondo_program(arguments);
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.err.find(more[0]), std::string::npos) << result.err;
  }
}

#ifdef RONDO_WITH_TEXT
TEST(CliText, PromptsAndAnswersAreTextByTokenizerJson) {
  const TextModel model("llama3");
  const std::string prompt = "L'\u00e9t\u00e9 \u6f22\u5b57 \U0001f44d\U0001f3fd 123";
  Arguments encode = {"tokenize", "--model", std::filesystem::path(model.tokenizer()).parent_path(),
                      "--prompt", prompt};
  std::string ids = rondo_program(encode).out;
  ASSERT_TRUE(ids.ends_with("\n"));
  ids.pop_back();
  const Arguments more = {"--max-new-tokens", "20", "--temperature", "1", "--ignore-eos", "--json"};
  const auto generate = [&](const std::string& option, const std::string& value) {
    Arguments arguments = model.arguments("generate", more);
    arguments.insert(arguments.end(), {option, value});
    return parse_json(rondo_program(arguments).out).at("sequences").at(0);
  };
  const Json by_text = generate("--prompt", prompt);
  EXPECT_EQ(by_text, generate("--prompt-ids", ids));

  // Streamed, the text is the same, and whole at the end of the line.
  Arguments plain =
      model.arguments("generate", {"--max-new-tokens", "20", "--temperature", "1", "--ignore-eos"});
  plain.insert(plain.end(), {"--prompt", prompt});
  const auto text = by_text.at("text").get<std::string>();
  EXPECT_EQ(rondo_program(plain).out.substr(0, text.size()), text);

  // And of all of it back, what tokenize says.
  const Answers back = answers({"tokenize", "--model", encode[2]}, Json{{"ids", by_text.at("ids")}}.dump());
  EXPECT_EQ(back.lines.at(0).at("text"), by_text.at("text"));
}

TEST(CliText, ScoreShowsTokensAsText) {
  const TextModel model("qwen2");
  const Process::Result table = rondo_program(model.arguments("score", {"--prompt", "Viktor"}));
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_NE(table.out.find("V"), std::string::npos) << table.out;
}

TEST(CliText, ATokenizerThatIsNotUnderstoodIsRefusedForTextAndSaidForIds) {
  const TextModel model("llama3");
  testing_files::write_file(model.tokenizer(), R"({"version": "1.0", "model": {"type": "Unigram"}})");
  const Process::Result text = rondo_program(model.arguments("generate", {"--prompt", "x"}));
  EXPECT_EQ(text.status, 2);
  EXPECT_TRUE(text.err.starts_with("rondo: InvalidModel: " + model.tokenizer())) << text.err;
  const Process::Result ids =
      rondo_program(model.arguments("generate", {"--prompt-ids", "1", "--max-new-tokens", "2"}));
  EXPECT_EQ(ids.status, 0);
  EXPECT_TRUE(ids.err.starts_with("rondo: no text: " + model.tokenizer())) << ids.err;
}

TEST(CliText, TokenizeAnswersEveryLineAndSaysWhichAreBad) {
  const Answers all =
      answers({"tokenize", "--model", kTokenizers + "/llama3"},
              "{\"text\": \"Viktor\", \"id\": \"a\"}\n{\"text\": 5}\n{\"ids\": [1200, 86], "
              "\"skip_special_tokens\": false}\n"
              "{\"text\": \"\", \"add_special_tokens\": false}\n{\"ids\": [1], \"text\": \"\"}\n");
  EXPECT_EQ(all.status, 2);
  ASSERT_EQ(all.lines.size(), 5u);
  EXPECT_EQ(all.lines[0].at("id"), "a");
  EXPECT_EQ(all.lines[0].at("ids")[0], 1200);  // <|begin_of_text|>
  EXPECT_EQ(all.lines[1].at("error").at("kind"), "InvalidArgument");
  EXPECT_EQ(all.lines[1].at("line"), 2);
  EXPECT_TRUE(all.lines[2].at("text").get<std::string>().starts_with("<|begin_of_text|>"));
  EXPECT_EQ(all.lines[3].at("ids"), Json::array());
  EXPECT_EQ(all.lines[4].at("line"), 5);
}
#endif

}  // namespace
}  // namespace rondo::test
