// What the program shows a person at a terminal, and nobody else.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <string>

#include "tests/program.h"
#include "tests/support.h"

namespace rondo::test {
namespace {

constexpr int kInterrupted = 130;

// A shape that takes seconds to fill, of which no more is filled than the test asks for.
const Arguments kLargeModel = {"generate",
                               "--config",
                               (kSource / "models/llama-3.2-1b.json").string(),
                               "--random-weights",
                               "--device",
                               "cpu",
                               "--max-context",
                               "64",
                               "--prompt-ids",
                               "1"};

TEST(CliTerminal, LoadingALargeModelShowsItsProgressOnATerminalAlone) {
  Process piped(kLargeModel);  // started first, so that it has loaded for longer
  Process watched(kLargeModel, Process::Input::Null, Process::Errors::Terminal);
  std::string shown = watched.read_errors_until(" GB)");
  kill(watched.pid(), SIGINT);
  kill(piped.pid(), SIGINT);
  const Process::Result at_terminal = watched.finish();
  const Process::Result in_pipe = piped.finish();
  EXPECT_TRUE(shown.starts_with("\rloading ")) << shown;
  EXPECT_NE(shown.find(" % ("), std::string::npos) << shown;
  EXPECT_EQ(at_terminal.status, kInterrupted);
  EXPECT_NE(at_terminal.err.find("\r\x1b[K"), std::string::npos)
      << "the line is left behind: " << at_terminal.err;
  EXPECT_EQ(in_pipe.status, kInterrupted);
  EXPECT_EQ(in_pipe.err.find("loading"), std::string::npos) << in_pipe.err;
  EXPECT_EQ(in_pipe.err.find('\r'), std::string::npos) << in_pipe.err;
}

// Both would take seconds to end. They are stopped once the first has shown a token.
TEST(CliTerminal, OfSeveralSequencesTheFirstStreamsAndTheOthersFollow) {
  TinySizes sizes;
  sizes.max_positions = 1 << 16;
  const TinyConfig config(sizes);
  Process process(on_cpu("generate", config.path(),
                         {"--max-context", "65536", "--max-sequences", "2", "--ignore-eos",
                          "--max-new-tokens", "60000", "--prompt-ids", "1,2", "--prompt-ids", "3"}));
  std::string first;
  while (!first.ends_with(' ') || first.size() < std::string("[0] 1,2: 1 ").size())
    first += process.read_byte();
  kill(process.pid(), SIGINT);
  const Process::Result rest = process.finish();
  const std::string out = first + rest.out;
  EXPECT_EQ(rest.status, kInterrupted) << rest.err;
  EXPECT_TRUE(first.starts_with("[0] 1,2: ")) << first;
  const size_t second = out.find("\n[1] 3: ");
  ASSERT_NE(second, std::string::npos) << out;
  EXPECT_EQ(out.find('\n', second + 1), out.size() - 1) << "two lines";
  // Nothing of either was lost: as many tokens, drawn in the same steps.
  const auto tokens = [](const std::string& line) {
    return std::count(line.begin(), line.end(), ' ') - 1;  // all but the one behind the number in brackets
  };
  EXPECT_EQ(tokens(out.substr(0, second)), tokens(out.substr(second)));
  EXPECT_LT(tokens(out.substr(0, second)), 60000);
}

}  // namespace
}  // namespace rondo::test
