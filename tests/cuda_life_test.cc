// The life of an engine on a device: lost, left behind, shared by threads and processes. One text for the
// stand-in and for a real GPU, but for what only a real one does; the case numbers are those of
// tests/README.md.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <thread>

#include "runner/engine_core.h"
#include "tests/cuda_tiny.h"

namespace rondo {
namespace {

using test::generate;
using test::greedy;
using test::some_tokens;

class CudaLife : public test::CudaTiny {
 protected:
  CudaLife() : CudaTiny({1, 2, 4}, 4, 32, true) {}

  std::vector<Request> requests() {
    return {greedy(some_tokens(5, kVocab, 1), 8), greedy(some_tokens(2, kVocab, 2), 8),
            greedy(some_tokens(9, kVocab, 3), 8)};
  }
};

#ifndef RONDO_SIMT
// What is left of a process after it happens is of no use to other tests: it happens in a process of its own.
class CudaLifeDeathTest : public CudaLife {
 protected:
  void SetUp() override {
    CudaLife::SetUp();
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // which starts the program anew
  }
};

TEST_F(CudaLifeDeathTest, B32_AfterAnIllegalAccessLaterCallsNameTheFirstCauseAndTheProcessEnds) {
  const auto lose_the_device = [&] {
    {
      EngineCore core(config_.path(), options_);
      core.scheduler().add(requests()[0]);
      core.step();
      const View tables = core.buffers().page_tables;
      core.device().fill(tables.data, 0x7f, tables.bytes());  // pages far beyond all memory
      std::string first;
      for (int call = 0; call < 3; ++call) {
        try {
          core.step();
          core.device().synchronize();
          std::exit(2);
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::DeviceLost) std::exit(3);
          if (first.empty()) first = error.what();
          if (std::string(error.what()).find("illegal") == std::string::npos) std::exit(4);
        }
      }
    }  // the destructor returns
    std::exit(0);
  };
  EXPECT_EXIT(lose_the_device(), testing::ExitedWithCode(0), "");
}

TEST_F(CudaLifeDeathTest, B37_AnEngineThatOutlivesMainIsSilent) {
  const auto leave_it = [&] {
    static std::unique_ptr<Engine> engine;
    engine = std::make_unique<Engine>(open());
    engine->add(requests()[0]);
    engine->step();
    std::exit(0);
  };
  EXPECT_EXIT(leave_it(), testing::ExitedWithCode(0), testing::Eq(""));
}
#endif

TEST_F(CudaLife, B36_AnEngineMayGoWithAReplayInFlight) {
  const auto expected = [&] {
    Engine engine = open();
    return generate(engine, requests());
  }();
  for (int i = 0; i < 3; ++i) {
    Engine engine = open();
    engine.add(requests()[0]);
    engine.step();
  }
  Engine engine = open();
  EXPECT_EQ(generate(engine, requests()), expected);
}

TEST_F(CudaLife, B38_TwoEnginesInterleaved) {
  Engine a = open(), b = open();
  const auto expected = generate(a, requests());
  std::vector<SequenceId> ids_a, ids_b;
  for (const Request& r : requests()) {
    ids_a.push_back(a.add(r));
    ids_b.push_back(b.add(r));
  }
  while (a.busy() || b.busy()) {
    a.step();
    b.step();
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(a.tokens(ids_a[i]), expected[i]);
    EXPECT_EQ(b.tokens(ids_b[i]), expected[i]);
  }
}

TEST_F(CudaLife, B39_TwoThreadsOnOneEngineEitherTakeTurnsOrAreToldOfMisuse) {
  Engine engine = open();
  const auto expected = generate(engine, {requests()[0]}).front();
  const SequenceId id = engine.add(requests()[0]);
  test::step_in_two_threads(engine);
  EXPECT_EQ(engine.tokens(id), expected);
}

TEST_F(CudaLife, B40_BuiltUsedAndDestroyedInThreeThreads) {
  Engine reference = open();
  const auto expected = generate(reference, requests());
  std::unique_ptr<Engine> engine;
  std::thread([&] { engine = std::make_unique<Engine>(open()); }).join();
  std::thread([&] { EXPECT_EQ(generate(*engine, requests()), expected); }).join();
  std::thread([&] { engine.reset(); }).join();
}

TEST_F(CudaLife, B41_AForkedChildIsToldAndTheParentUntouched) {
  Engine engine = open();
  const auto expected = generate(engine, requests());
  EXPECT_TRUE(test::a_forked_child_is_refused(engine));
  EXPECT_EQ(generate(engine, requests()), expected);
}

}  // namespace
}  // namespace rondo
