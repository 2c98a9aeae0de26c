// Every golden on the CPU backend.
#include "tests/parity.h"

namespace rondo {
namespace {

class Parity : public testing::TestWithParam<test::Golden> {};
class ExactParity : public Parity {};  // fp32 alone, where rounding cannot turn an argmax

// 32 rows: the longer prompts need more than one step.
TEST_P(Parity, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const test::Golden& golden = GetParam();
  EngineCore core(golden.directory(), test::golden_options(DeviceKind::Cpu, 32));
  for (const auto& sequence : golden.sequences) {
    test::expect_prompt_logits(core, golden, sequence);
    test::expect_decoding(core, golden, sequence);
  }
}

// Sequences of unequal lengths in one engine, prompts cut into chunks of odd sizes between decode rows.
TEST_P(ExactParity, ABatchGivesEachSequenceItsOwnTokens) {
  const test::Golden& golden = GetParam();
  Engine engine = Engine::open(golden.directory(), test::golden_options(DeviceKind::Cpu, 5));
  test::expect_batch(engine, golden);
}

INSTANTIATE_TEST_SUITE_P(Goldens, Parity, testing::ValuesIn(test::load_goldens()), test::golden_name);
INSTANTIATE_TEST_SUITE_P(Goldens, ExactParity, testing::ValuesIn(test::load_goldens("fp32")),
                         test::golden_name);

}  // namespace
}  // namespace rondo
