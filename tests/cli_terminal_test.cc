// What the program shows a person at a terminal, and nobody else.
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace rondo::test
