// Reads that are interrupted, short or fail, and signals while an engine works; the numbers are those of
// tests/README.md.
#include <gtest/gtest.h>
#include <sys/time.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "tests/reads.h"
#include "tests/support.h"

namespace rondo {
namespace {

const std::string kModel = (test::kSource / "tests/goldens/llama-default").string();

EngineOptions options() {
  EngineOptions o = test::tiny_options(DeviceKind::Cpu);
  o.random_weights = false;
  return o;
}

std::vector<std::vector<int32_t>> load_and_generate() {
  Engine engine = Engine::open(kModel, options());
  return test::generate(engine, {test::greedy({1, 2, 3}, 12)});
}

TEST(Interrupted, B43_ReadsThatAreInterruptedOrShortLoadTheSameModel) {
  const auto expected = load_and_generate();
  const test::ReadsAs disturbed({.interrupted_each = 2, .at_most = 1000});
  EXPECT_EQ(load_and_generate(), expected);
  EXPECT_GT(test::reads().calls, 200u);
}

std::atomic<int> alarms{0};

// A handler without SA_RESTART: whatever call waits in the kernel comes back with EINTR.
TEST(Interrupted, B43_SignalsWhileItLoadsAndGeneratesChangeNothing) {
  const auto expected = load_and_generate();
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { ++alarms; };
  ASSERT_EQ(sigaction(SIGALRM, &action, &before), 0);
  const itimerval each_millisecond{{0, 1000}, {0, 1000}}, never{};
  ASSERT_EQ(setitimer(ITIMER_REAL, &each_millisecond, nullptr), 0);
  while (alarms < 20) EXPECT_EQ(load_and_generate(), expected);
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
}

TEST(Interrupted, B3_AReadErrorInMidWeightsNamesTheFileAndTheNextLoadWorks) {
  const auto expected = load_and_generate();
  uint64_t calls = 0;
  {
    const test::ReadsAs counted({});
    load_and_generate();
    calls = test::reads().calls;
  }
  for (uint64_t nth = 1; nth <= calls; ++nth) {
    const test::ReadsAs failing({.failing = nth, .error = EIO});
    try {
      load_and_generate();
      ADD_FAILURE() << "read " << nth << ": expected InvalidModel";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidModel) << error.what();
      EXPECT_NE(std::string(error.what()).find(kModel), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("Input/output error"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(load_and_generate(), expected);
}

}  // namespace
}  // namespace rondo
