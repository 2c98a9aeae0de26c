// The program as a user meets it: what it prints, what it refuses, how it ends.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/program.h"
#include "tests/support.h"

namespace rondo::test {
namespace {

TEST(Cli, RefusesOptionsOutOfRangeByName) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"--max-rows", "0"},
      {"--max-rows", "-1"},
      {"--max-rows", "8x"},
      {"--max-rows", "1e3"},
      {"--max-rows", "99999999999999999999"},
      {"--max-context", "0"},
      {"--kv-positions", "0"},
      {"--max-sequences", "2147483648"},
      {"--max-new-tokens", "-1"},
      {"--max-new-tokens", ""},
      {"--threads", "0"},
      {"--temperature", "-0.5"},
      {"--temperature", "nan"},
      {"--temperature", "inf"},
      {"--temperature", "1e999"},
      {"--top-k", "-1"},
      {"--top-p", "0"},
      {"--top-p", "1.5"},
      {"--min-p", "-0.1"},
      {"--min-p", "1.1"},
      {"--repetition-penalty", "0"},
      {"--presence-penalty", "inf"},
      {"--frequency-penalty", "x"},
      {"--draft-tokens", "-1"},
      {"--draft-ngram", "0"},
      {"--draft-ngram", "17"},
      {"--seed", "-1"},
      {"--seed", "18446744073709551616"},
      {"--weights-seed", "x"},
      {"--stop-ids", "1,,2"},
      {"--device", "gpu"},
      {"--device", "cuda:"},
      {"--device", "cuda:-1"},
      {"--graph", "on"},
      {"--prompt", ""},
      {"--prompt-ids", ""},
      {"--prompt-ids", "1,2,"},
      {"--prompt-ids", "-1"},
      {"--prompt-ids", "1 2"},
      {"--prompt-ids", "2147483648"},
  };
  for (const auto& [option, value] : bad) {
    expect_refused({"generate", "--model", "models/none", option, value}, "InvalidArgument", option);
  }
}

TEST(Cli, RefusesCommandLinesThatDoNotFitTogether) {
  const std::vector<std::pair<Arguments, std::string>> bad = {
      {{}, "generate, score, tokenize, inspect, bench, trace or doctor"},
      {{"decode"}, "\"decode\""},
      {{"generate", "--prompt", "x"}, "--model"},
      {{"generate", "--model", "a", "--config", "b", "--prompt", "x"}, "both"},
      {{"generate", "--config", "a", "--prompt", "x"}, "--random-weights"},
      {{"generate", "--model", "a", "--random-weights", "--prompt", "x"}, "--config"},
      {{"generate", "--model", "a", "--weights-seed", "1", "--prompt", "x"}, "--random-weights"},
      {{"generate", "--model", "a"}, "--prompt"},
      {{"generate", "--model", "a", "--prompt", "x", "--no-such-option"}, "--no-such-option"},
      {{"generate", "--model", "a", "--prompt", "x", "--top-k", "1", "--top-k", "2"}, "--top-k"},
      {{"generate", "--model", "a", "--prompt", "x", "stray"}, "stray"},
      {{"generate", "--model", "a", "--jsonl", "--one-launch"}, "--one-launch"},
      {{"generate", "--model", "a", "--prompt", "x", "--tune", "maybe"}, "off or on, found \"maybe\""},
      {{"score", "--model", "a"}, "found 0"},
      {{"score", "--model", "a", "--prompt", "x", "--prompt-ids", "1"}, "found 2"},
      {{"inspect"}, "--config"},
      {{"inspect", "--config", "a", "--device", "auto"}, "cpu or cuda"},
  };
  for (const auto& [arguments, naming] : bad) expect_refused(arguments, "InvalidArgument", naming);
}

TEST(Cli, RefusesModelsAndTokensThatAreNotThere) {
  const TinyConfig config;
  expect_refused({"generate", "--model", "/no/such/model", "--prompt", "x"}, "InvalidArgument",
                 "/no/such/model");
  expect_refused({"inspect", "--config", "/no/such/config.json"}, "InvalidModel", "/no/such/config.json");
  expect_refused(on_cpu("generate", config.path(), {"--prompt-ids", "320"}), "InvalidArgument", "320");
  expect_refused(on_cpu("score", config.path(), {"--prompt-ids", "1", "--top", "321"}), "InvalidArgument",
                 "--top");
}

TEST(Cli, TextForAModelWithATokenizerPointsToTokenIds) {
  const TinyConfig config;  // 320 tokens: not bytes
  expect_refused(on_cpu("generate", config.path(), {"--prompt", "x"}), "InvalidArgument", "--prompt-ids");
}

TEST(Cli, HelpAndVersionAreNoErrors) {
  const Process::Result help = rondo_program({"--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* command : {"generate", "score", "tokenize", "inspect", "bench", "trace", "doctor"}) {
    EXPECT_NE(help.out.find(command), std::string::npos) << command;
  }
  EXPECT_EQ(rondo_program({"generate", "--help"}).status, 0);
  EXPECT_NE(rondo_program({"inspect", "--help"}).out.find("On top come"), std::string::npos);
  EXPECT_TRUE(rondo_program({"--version"}).out.starts_with("rondo 0."));
}

TEST(Cli, DoctorSaysWhichBackendAutoTakes) {
  const Process::Result doctor = rondo_program({"doctor"});
  EXPECT_EQ(doctor.status, 0) << doctor.err;
  for (const char* line :
       {"rondo ", "\nCUDA toolkit: ", "\nNVIDIA driver: ", "\nGPU", "\nCPU features: ", "\nauto takes: "})
    EXPECT_NE(doctor.out.find(line), std::string::npos) << doctor.out;
  EXPECT_EQ(doctor.err, "");
}

// The driver's library is asked at run time, in every build; it may also be there and not start.
TEST(Cli, DoctorNamesTheDriverThatIsThere) {
  setenv("LD_LIBRARY_PATH", RONDO_FAKE_DRIVER, 1);
  const Process::Result found = rondo_program({"doctor"});
  setenv("RONDO_FAKE_NVML_INIT", "9", 1);
  const Process::Result broken = rondo_program({"doctor"});
  unsetenv("RONDO_FAKE_NVML_INIT");
  unsetenv("LD_LIBRARY_PATH");
  EXPECT_EQ(found.status, 0) << found.err;
  EXPECT_NE(found.out.find("\nNVIDIA driver: 999.12.34, for CUDA up to "), std::string::npos) << found.out;
  if (found.out.find("CPU backend alone") != std::string::npos) {
    EXPECT_NE(found.out.find(" 13.1\nGPU 0: Fake 1, 80.0 GiB; "), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("\nGPU 1: Fake 2, "), std::string::npos) << found.out;
    EXPECT_NE(
        broken.out.find("\nNVIDIA driver: none found (libnvidia-ml.so.1 is there and does not start, its "
                        "error is 9)\nGPU: none found\n"),
        std::string::npos)
        << broken.out;
  }
  EXPECT_EQ(broken.status, 0) << broken.err;
  EXPECT_EQ(broken.out.find("999.12.34"), std::string::npos) << broken.out;
}

TEST(Cli, JsonHoldsIdsTextReasonsTimingsAndCounters) {
  const TinyConfig config(byte_level());
  const Json json = parsed(rondo_program(on_cpu("generate", config.path(),
                                                {"--prompt", "{}", "--prompt-ids", "1,2,3", "--prompt", "[a]",
                                                 "--max-new-tokens", "5", "--ignore-eos", "--json"})));
  const Json& sequences = json.at("sequences");
  ASSERT_EQ(sequences.size(), 3u);
  EXPECT_EQ(sequences[0].at("prompt_ids"), Json({123, 125}));
  EXPECT_EQ(sequences[1].at("prompt_ids"), Json({1, 2, 3}));
  EXPECT_EQ(sequences[2].at("prompt_ids"), Json({91, 97, 93}));
  for (const Json& sequence : sequences) {
    EXPECT_EQ(sequence.at("ids").size(), 5u);
    EXPECT_EQ(sequence.at("finish_reason"), "length");
    EXPECT_TRUE(sequence.at("text").is_string());
    ASSERT_EQ(sequence.at("logprobs").size(), 5u);
    for (const Json& logprob : sequence.at("logprobs")) EXPECT_LE(logprob.get<double>(), 0);
  }
  EXPECT_EQ(json.at("timings").at("tokens"), 15);
  EXPECT_EQ(json.at("timings").at("prompt_tokens"), 8);
  EXPECT_GT(json.at("timings").at("load_ms").get<double>(), 0);
  EXPECT_EQ(json.at("stats").at("tokens"), 15);
  EXPECT_EQ(json.at("stats").at("backend"), "cpu");
  const Json& stats = json.at("stats");
  EXPECT_EQ(stats.at("steps").get<int>(), stats.at("replays").get<int>() + stats.at("eager_off").get<int>());
}

TEST(Cli, JsonHoldsEveryCounterOfTheEngine) {
  const TinyConfig config;
  // Two that begin with a whole page of the same tokens, one after the other.
  const std::string prompt = fmt::format("{}", fmt::join(some_tokens(40, 320, 3), ","));
  const Json stats =
      parsed(rondo_program(on_cpu("generate", config.path(),
                                  {"--prompt-ids", prompt, "--prompt-ids", prompt, "--max-sequences", "1",
                                   "--max-new-tokens", "4", "--ignore-eos", "--json"})))
          .at("stats");
  for (const char* counter : {"eager_samples", "host_logit_rows", "pages_shared", "preemptions",
                              "page_copies", "forks", "drafted_tokens", "accepted_drafts"})
    EXPECT_EQ(stats.at(counter), 0) << counter;
  EXPECT_EQ(stats.at("prefix_lookups"), 2);
  EXPECT_EQ(stats.at("prefix_hits"), 1);
  EXPECT_EQ(stats.at("prefix_tokens"), 32);
  EXPECT_GT(stats.at("pages_cached").get<int>(), 0);
  EXPECT_EQ(
      stats.at("finished"),
      Json({{"length", 2}, {"stop", 0}, {"cancelled", 0}, {"context_full", 0}, {"numerical_error", 0}}));
  const Json& times = stats.at("step_times");
  EXPECT_EQ(times.at("counts").size(), times.at("bounds_seconds").size() + 1);
  uint64_t steps = 0;
  for (const Json& count : times.at("counts")) steps += count.get<uint64_t>();
  EXPECT_EQ(stats.at("steps"), steps);
  EXPECT_GT(times.at("sum_seconds").get<double>(), 0);
}

TEST(Cli, PenaltiesChangeWhatIsDrawn) {
  const TinyConfig config;
  const auto ids = [&](const Arguments& more) {
    Arguments arguments = {"--prompt-ids", "4,5", "--max-new-tokens", "24", "--ignore-eos", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return parsed(rondo_program(on_cpu("generate", config.path(), arguments)))
        .at("sequences")[0]
        .at("ids")
        .get<std::vector<int32_t>>();
  };
  const auto different = [](const std::vector<int32_t>& tokens) {
    return std::set<int32_t>(tokens.begin(), tokens.end()).size();
  };
  // So large that no token is made twice, or that the first one is made again and again.
  EXPECT_EQ(different(ids({"--presence-penalty", "1e6"})), 24u);
  EXPECT_EQ(different(ids({"--frequency-penalty", "1e6"})), 24u);
  EXPECT_EQ(different(ids({"--presence-penalty", "-1e6"})), 1u);
  EXPECT_EQ(different(ids({"--frequency-penalty", "-1e6"})), 1u);
}

TEST(Cli, DraftsSaveStepsAndChangeNoToken) {
  const TinyConfig config;
  const auto run = [&](const Arguments& more) {
    // The same token again and again: every guess is right.
    Arguments arguments = {"--prompt-ids",       "4,5",  "--max-new-tokens", "24",
                           "--presence-penalty", "-1e6", "--ignore-eos",     "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return parsed(rondo_program(on_cpu("generate", config.path(), arguments)));
  };
  const Json plain = run({});
  const Json drafted = run({"--draft-tokens", "3", "--draft-ngram", "2"});
  EXPECT_EQ(drafted.at("sequences")[0].at("ids"), plain.at("sequences")[0].at("ids"));
  EXPECT_EQ(plain.at("stats").at("drafted_tokens"), 0);
  EXPECT_GT(drafted.at("stats").at("accepted_drafts").get<int>(), 8);
  EXPECT_LT(drafted.at("stats").at("steps").get<int>(), plain.at("stats").at("steps").get<int>() - 8);
}

TEST(Cli, ASequenceIsTheSameAloneAndInABatch) {
  const TinyConfig config;
  const Arguments sampling = {"--temperature", "1", "--max-new-tokens", "12", "--ignore-eos", "--json"};
  const auto generate = [&](Arguments prompts) {
    prompts.insert(prompts.end(), sampling.begin(), sampling.end());
    return parsed(rondo_program(on_cpu("generate", config.path(), prompts))).at("sequences");
  };
  const Json batch = generate({"--prompt-ids", "1,2,3", "--prompt-ids", "7", "--seed", "5"});
  const Json first = generate({"--prompt-ids", "1,2,3", "--seed", "5"});
  const Json second = generate({"--prompt-ids", "7", "--seed", "6"});  // sequence i samples with seed + i
  EXPECT_EQ(batch[0], first[0]);
  EXPECT_EQ(batch[1], second[0]);
}

TEST(Cli, StopIdsEndASequence) {
  const TinyConfig config;
  const Arguments plain = {"--prompt-ids", "4,5", "--max-new-tokens", "6", "--ignore-eos", "--json"};
  const Json ids =
      parsed(rondo_program(on_cpu("generate", config.path(), plain))).at("sequences")[0].at("ids");
  Arguments stopping = plain;
  stopping.insert(stopping.end(), {"--stop-ids", ids[0].dump()});
  const Json stopped = parsed(rondo_program(on_cpu("generate", config.path(), stopping))).at("sequences")[0];
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
  EXPECT_LE(stopped.at("ids").size(), 1u);
}

TEST(Cli, TextOfOneSequenceIsTheAnswerAlone) {
  const std::string model = (kSource / "models/demo").string();
  const Process::Result one =
      rondo_program({"generate", "--model", model, "--device", "cpu", "--prompt", "36+79="});
  EXPECT_EQ(one.status, 0) << one.err;
  EXPECT_EQ(one.out, "115\n");
  EXPECT_EQ(one.err.find('\n'), one.err.size() - 1) << "one line of figures: " << one.err;
  EXPECT_NE(one.err.find("tokens/s"), std::string::npos) << one.err;
}

TEST(Cli, SeveralSequencesAreLinesInTheOrderOfTheirPrompts) {
  const std::string model = (kSource / "models/demo").string();
  const Process::Result two = rondo_program(
      {"generate", "--model", model, "--device", "cpu", "--prompt", "sort 9 8 7 6=", "--prompt", "36+79="});
  EXPECT_EQ(two.status, 0) << two.err;
  EXPECT_EQ(two.out, "[0] sort 9 8 7 6=6 7 8 9\n[1] 36+79=115\n");
  const Process::Result none = rondo_program({"generate", "--model", model, "--device", "cpu",
                                              "--max-new-tokens", "0", "--prompt", "a\nb", "--prompt", "c"});
  EXPECT_EQ(none.out, "[0] a\\nb\n[1] c\n") << none.err;
}

// Where there are no loops it says so, and the answer is the same.
TEST(Cli, OneLaunchAndNoLaunchAheadGiveTheSameAnswers) {
  const std::string model = (kSource / "models/demo").string();
  const Arguments prompts = {"generate", "--model", model,      "--device",         "cpu",
                             "--prompt", "36+79=",  "--prompt", "reverse stressed="};
  for (const char* flag : {"--one-launch", "--no-launch-ahead"}) {
    Arguments text = prompts, document = prompts;
    text.push_back(flag);
    document.insert(document.end(), {flag, "--json"});
    const Process::Result lines = rondo_program(text);
    EXPECT_EQ(lines.out, "[0] 36+79=115\n[1] reverse stressed=desserts\n") << lines.err;
    const Json json = parsed(rondo_program(document));
    EXPECT_EQ(json.at("timings").at("tokens"), 13);
    EXPECT_EQ(json.at("timings").at("decode_tokens").get<int>() + 2, 13);
    EXPECT_GE(json.at("timings").at("decode_steps"), 8);
    EXPECT_EQ(json.at("stats").at("forms").at(3).at("verb"), "add_project o");
    EXPECT_EQ(json.at("stats").at("forms").at(3).at("kernels").get<std::string>().substr(0, 8), "multiply");
    if (std::string(flag) != "--one-launch") continue;
    EXPECT_EQ(json.at("stats").at("one_launch"), "the cpu backend has no graphs");
    EXPECT_NE(lines.err.find("no loops: the cpu backend"), std::string::npos) << lines.err;
  }
}

TEST(Cli, NoNewTokensIsAnEmptyAnswer) {
  const TinyConfig config;
  const Json json = parsed(rondo_program(
      on_cpu("generate", config.path(), {"--prompt-ids", "1", "--max-new-tokens", "0", "--json"})));
  EXPECT_EQ(json.at("sequences")[0].at("ids"), Json::array());
  EXPECT_EQ(json.at("sequences")[0].at("finish_reason"), "length");
}

// The prompt is longer than the row limit, so that positions come from several steps.
TEST(Cli, ScoresAreTheFullSoftmaxOfEveryPosition) {
  const TinyConfig config;
  const std::vector<int32_t> prompt = some_tokens(20, 320, 7);
  const std::string ids = fmt::format("{}", fmt::join(prompt, ","));
  const Json positions =
      parsed(rondo_program(on_cpu("score", config.path(), {"--prompt-ids", ids, "--top", "320", "--json"})))
          .at("positions");
  ASSERT_EQ(positions.size(), prompt.size());
  EXPECT_TRUE(positions[0].at("logprob").is_null());
  for (size_t i = 0; i < prompt.size(); ++i) {
    EXPECT_EQ(positions[i].at("position"), i);
    EXPECT_EQ(positions[i].at("token"), prompt[i]);
    double sum = 0;
    double before = 0;
    Json next;
    for (const Json& entry : positions[i].at("top")) {
      const double logprob = entry.at("logprob");
      EXPECT_LE(logprob, before) << "likeliest first";
      before = logprob;
      sum += std::exp(logprob);
      if (i + 1 < prompt.size() && entry.at("token") == prompt[i + 1]) next = entry.at("logprob");
    }
    // Each log-probability is one rounding to fp32 away from the truth: below 2^-24 of its size, and those
    // that weigh are below 16 in size.
    EXPECT_NEAR(sum, 1, 16 * std::ldexp(1, -24));
    if (i + 1 < prompt.size()) {
      EXPECT_EQ(positions[i + 1].at("logprob"), next);
    }
  }
}

TEST(Cli, GreedyTokensAreTheLikeliestOfScore) {
  const TinyConfig config;
  const Json made = parsed(rondo_program(on_cpu(
                               "generate", config.path(),
                               {"--prompt-ids", "9,8,7", "--max-new-tokens", "1", "--ignore-eos", "--json"})))
                        .at("sequences")[0];
  const Json scored = parsed(
      rondo_program(on_cpu("score", config.path(), {"--prompt-ids", "9,8,7", "--top", "1", "--json"})));
  const Json likeliest = scored.at("positions")[2].at("top")[0];
  EXPECT_EQ(made.at("ids")[0], likeliest.at("token"));
  // The same logits, normalised in two places: sums of 320 fp32 terms may differ by 320 roundings of 2^-24
  // each.
  EXPECT_NEAR(made.at("logprobs")[0].get<double>(), likeliest.at("logprob").get<double>(),
              320 * std::ldexp(1, -24));
}

TEST(Cli, InspectTotalsAreWhatTheEngineAllocates) {
  const TinyConfig config;
  const Json plan =
      parsed(rondo_program({"inspect", "--config", config.path(), "--device", "cpu", "--max-rows", "8",
                            "--max-sequences", "3", "--max-context", "100", "--threads", "2", "--json"}));
  const Json run = parsed(rondo_program(on_cpu("generate", config.path(),
                                               {"--prompt-ids", "1", "--max-new-tokens", "1",
                                                "--max-sequences", "3", "--max-context", "100", "--json"})));
  EXPECT_EQ(plan.at("totals").at("total_bytes"), run.at("stats").at("device_bytes"));
  uint64_t total = 0;
  for (const Json& arena : plan.at("arenas")) {
    total += arena.at("bytes").get<uint64_t>();
    uint64_t end = 0;
    for (const Json& buffer : arena.at("buffers")) {
      EXPECT_GE(buffer.at("offset").get<uint64_t>(), end) << buffer;
      end = buffer.at("offset").get<uint64_t>() + buffer.at("bytes").get<uint64_t>();
    }
    EXPECT_LE(end, arena.at("bytes").get<uint64_t>()) << arena.at("name");
  }
  EXPECT_EQ(plan.at("totals").at("total_bytes"), total);
}

// What a plan that is too large names can be asked for.
TEST(Cli, KvPositionsAreAnOption) {
  const TinyConfig config;
  const Arguments ask = {"--prompt-ids", "1", "--max-new-tokens", "1"};
  Arguments much = ask, little = ask;
  much.insert(much.end(), {"--kv-positions", "10000000000"});
  little.insert(little.end(), {"--kv-positions", "640"});
  expect_refused(on_cpu("generate", config.path(), much), "OutOfMemory", "--kv-positions");
  EXPECT_EQ(rondo_program(on_cpu("generate", config.path(), little)).status, 0);
  const Json plan =
      parsed(rondo_program({"inspect", "--config", config.path(), "--kv-positions", "640", "--json"}));
  EXPECT_EQ(plan.at("pages").get<int>(), 640 / plan.at("page_size").get<int>() + 1);
}

TEST(Cli, InspectKnowsEveryShapeThatShips) {
  size_t shapes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "models")) {
    if (entry.path().extension() != ".json") continue;
    ++shapes;
    const Json plan = parsed(rondo_program({"inspect", "--config", entry.path().string(), "--json"}));
    EXPECT_GT(plan.at("totals").at("weights_bytes").get<uint64_t>(), 500'000'000u) << entry.path();
    const Process::Result tables = rondo_program({"inspect", "--config", entry.path().string()});
    EXPECT_EQ(tables.status, 0) << entry.path();
    EXPECT_NE(tables.out.find("graphs, and memory of the host"), std::string::npos) << "what is not counted";
  }
  EXPECT_EQ(shapes, 6u);
}

// A shape whose run prints more than a pipe holds, so that it cannot end before it is read.
struct LongRun {
  TinyConfig config{[] {
    TinySizes sizes;
    sizes.max_positions = 1 << 15;
    return sizes;
  }()};
  Arguments arguments = on_cpu("generate", config.path(),
                               {"--prompt-ids", "1", "--ignore-eos", "--max-context", "32768",
                                "--max-new-tokens", "32000", "--temperature", "5"});
};

TEST(Cli, AClosedPipeEndsItQuietly) {
  const LongRun run;
  Process process(run.arguments);
  process.read_byte();
  process.close_output();
  const Process::Result result = process.finish();
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
}

TEST(Cli, B43_ASignalEndsItBetweenTwoSteps) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const LongRun run;
    Process process(run.arguments);
    process.read_byte();
    ASSERT_EQ(kill(process.pid(), signal), 0);
    const Process::Result result = process.finish();
    EXPECT_EQ(result.status, 128 + signal) << result.err;
    EXPECT_TRUE(result.out.ends_with("\n")) << "a torn line";
    EXPECT_NE(result.err.find("tokens/s"), std::string::npos) << result.err;
  }
}

TEST(Cli, AFullDiskIsAnError) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (full < 0) GTEST_SKIP() << "there is no /dev/full here";
  close(full);
  const TinyConfig config;
  std::string command = RONDO_BINARY;
  for (const std::string& argument : on_cpu("generate", config.path(), {"--prompt-ids", "1"})) {
    command += " '" + argument + "'";
  }
  const int status = std::system((command + " >/dev/full 2>/dev/null").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 2);
}

}  // namespace
}  // namespace rondo::test
