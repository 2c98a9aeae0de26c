// `rondo bench` and `rondo trace` as a user meets them: options, formats, files.
#include <fstream>
#include <sstream>

#include "tests/program.h"

namespace rondo::test {
namespace {

Arguments bench(const std::string& config, const Arguments& more) {
  Arguments arguments = {
      "bench", "--config", config, "--random-weights", "--device", "cpu", "--steps", "2", "--repeat",
      "1",     "--warmup", "0",    "--ceiling-bytes",  "65536"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The cells of one line; none of the figures hold a comma.
std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields = {""};
  for (char c : line) c == ',' ? fields.push_back("") : fields.back().push_back(c);
  return fields;
}

std::string file_text(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(CliBench, RefusesListsAndOptionsThatMeanNothing) {
  const TinyConfig config;
  const std::vector<std::pair<Arguments, std::string>> bad = {
      {{"--rows", "0"}, "--rows"},
      {{"--rows", ""}, "--rows"},
      {{"--rows", "1,"}, "--rows"},
      {{"--rows", ",1"}, "--rows"},
      {{"--rows", "3-1"}, "--rows"},
      {{"--rows", "1--2"}, "--rows"},
      {{"--rows", "-1"}, "--rows"},
      {{"--rows", "1-4097"}, "--rows"},
      {{"--rows", "1 2"}, "--rows"},
      {{"--context", "1-99999"}, "--context"},
      {{"--context", "1-3,131073"}, "--context"},
      {{"--prompt", "x"}, "--prompt"},
      {{"--threads", "0"}, "--threads"},
      {{"--graph", ""}, "--graph"},
      {{"--graph", "eager,"}, "--graph"},
      {{"--graph", "off"}, "--graph"},
      {{"--graph", "replay"}, "no graphs"},
      {{"--steps", "0"}, "--steps"},
      {{"--repeat", "x"}, "--repeat"},
      {{"--ceiling-bytes", "1"}, "--ceiling-bytes"},
      {{"-o", "xml"}, "-o"},
      {{"--output", "/no/such/folder/x"}, "/no/such/folder/x"},
      {{"--kernels", "--prompt", "4"}, "--kernels"},
      {{"--context", "257"}, "256"},
  };
  for (const auto& [more, naming] : bad) {
    Arguments arguments = {"bench", "--config", config.path(), "--random-weights", "--device", "cpu"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_refused(arguments, "InvalidArgument", naming);
  }
  expect_refused({"bench"}, "InvalidArgument", "--model");
  expect_refused({"bench", "--config", config.path()}, "InvalidArgument", "--random-weights");
  expect_refused({"trace", "--config", config.path(), "--random-weights"}, "InvalidArgument", "--output");
  expect_refused({"trace", "--config", config.path(), "--random-weights", "--device", "cpu", "--output",
                  "/dev/null", "--dot", "/dev/null"},
                 "InvalidArgument", "--dot");
}

TEST(CliBench, RangesAndListsMakeTheGrid) {
  const TinyConfig config;
  const Json json =
      parsed(rondo_program(bench(config.path(), {"--rows", "1-2,4", "--context", "8,16", "-o", "json"})));
  std::vector<std::pair<int, int>> cells;
  for (const Json& cell : json.at("cells")) cells.emplace_back(cell.at("rows"), cell.at("context"));
  EXPECT_EQ(cells, (std::vector<std::pair<int, int>>{{1, 8}, {2, 8}, {4, 8}, {1, 16}, {2, 16}, {4, 16}}));
}

TEST(CliBench, PromptsStandInPlaceOfDecodingUnlessThatIsAskedFor) {
  const TinyConfig config;
  const auto kinds = [&](const Arguments& more) {
    std::vector<std::string> found;
    const Json json = parsed(rondo_program(bench(config.path(), more)));
    for (const Json& cell : json.at("cells")) found.push_back(cell.at("kind"));
    return found;
  };
  EXPECT_EQ(kinds({"--prompt", "20", "-o", "json"}), (std::vector<std::string>{"prompt"}));
  EXPECT_EQ(kinds({"--prompt", "20", "--rows", "1", "-o", "json"}),
            (std::vector<std::string>{"decode", "prompt"}));
}

TEST(CliBench, JsonHoldsEnvironmentCeilingAndCells) {
  const TinyConfig config;
  const Json json =
      parsed(rondo_program(bench(config.path(), {"--context", "16", "--threads", "1,2", "-o", "json"})));
  for (const char* key : {"version", "commit", "build", "device", "platform", "time", "line"})
    EXPECT_FALSE(json.at("environment").at(key).get<std::string>().empty()) << key;
  ASSERT_EQ(json.at("ceilings").size(), 2u);
  ASSERT_EQ(json.at("cells").size(), 2u);
  for (const Json& cell : json.at("cells")) {
    const double ms = cell.at("ms").at("median"), percent = cell.at("ceiling_percent");
    const double ceiling = cell.at("ceiling_gb_per_second"), bytes = cell.at("bytes").at("total");
    EXPECT_NEAR(percent, 100 * bytes / (ms * 1e6) / ceiling, 1e-4 * percent);
    EXPECT_NEAR(cell.at("tokens_per_second").get<double>(), 1000 / ms, 1e-4 * 1000 / ms);
    EXPECT_EQ(cell.at("bytes").at("weights"), json.at("run").at("weight_bytes_per_step"));
  }
}

TEST(CliBench, EveryLineOfCsvHasTheColumnsOfItsHead) {
  const TinyConfig config;
  for (const bool verbs : {false, true}) {
    Arguments more = {"--rows", "1,2", "--context", "16", "-o", "csv"};
    if (verbs) more.push_back("--kernels");
    const Process::Result result = rondo_program(bench(config.path(), more));
    ASSERT_EQ(result.status, 0) << result.err;
    const auto lines = lines_of(result.out);
    ASSERT_EQ(lines.size(), 2u + (verbs ? 16 : 2)) << result.out;
    EXPECT_TRUE(lines[0].starts_with("# rondo ")) << lines[0];
    const auto head = fields_of(lines[1]);
    EXPECT_EQ(head.front(), verbs ? "verb" : "kind");
    for (size_t i = 2; i < lines.size(); ++i) EXPECT_EQ(fields_of(lines[i]).size(), head.size()) << lines[i];
  }
}

TEST(CliBench, EveryLineOfJsonlIsARecord) {
  const TinyConfig config;
  const Process::Result result = rondo_program(bench(config.path(), {"--context", "16", "-o", "jsonl"}));
  ASSERT_EQ(result.status, 0) << result.err;
  std::vector<std::string> records;
  for (const std::string& line : lines_of(result.out)) records.push_back(parse_json(line).at("record"));
  EXPECT_EQ(records, (std::vector<std::string>{"environment", "run", "ceiling", "cell"}));
}

TEST(CliBench, AFileGetsTheFormatAndStandardOutputTheTable) {
  const TinyConfig config;
  const std::string path = testing::TempDir() + "rondo-bench-" + std::to_string(getpid()) + ".json";
  const Process::Result result =
      rondo_program(bench(config.path(), {"--context", "16", "-o", "json", "--output", path}));
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(parse_json(file_text(path)).at("cells").size(), 1u);
  std::remove(path.c_str());
  EXPECT_TRUE(result.out.starts_with("rondo ")) << result.out;
  EXPECT_NE(result.out.find("| decode |"), std::string::npos) << result.out;
  EXPECT_EQ(result.err, "") << "off a terminal nothing is said meanwhile";
}

TEST(CliBench, ATraceIsAFileOfTimedVerbs) {
  const TinyConfig config;
  const std::string path = testing::TempDir() + "rondo-trace-" + std::to_string(getpid()) + ".json";
  const Process::Result result = rondo_program({"trace", "--config", config.path(), "--random-weights",
                                                "--device", "cpu", "--context", "16", "--output", path});
  ASSERT_EQ(result.status, 0) << result.err;
  const Json trace = parse_json(file_text(path));
  std::remove(path.c_str());
  EXPECT_GT(trace.at("traceEvents").size(), 13u);
}

TEST(CliBench, ARunThatFailsLeavesTheFilesOfEarlierOnesAlone) {
  const TinyConfig config;
  const std::string path = testing::TempDir() + "rondo-kept-" + std::to_string(getpid()) + ".json";
  const Arguments fails = {
      "trace",    "--config", config.path(), "--random-weights", "--device", "cpu",
      "--output", path,       "--dot",       "/dev/null"};  // the CPU backend has no graphs
  expect_refused(fails, "InvalidArgument", "--dot");
  EXPECT_FALSE(std::ifstream(path).is_open()) << "an empty file is left";
  std::ofstream(path) << "earlier";
  expect_refused(fails, "InvalidArgument", "--dot");
  EXPECT_EQ(file_text(path), "earlier");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace rondo::test
