// Every golden on the CPU backend.
#include "tests/parity.h"

namespace rondo {
namespace {

class Parity : public testing::TestWithParam<test::Golden> {};

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
TEST_P(Parity, ABatchGivesEachSequenceItsOwnTokens) {
  const test::Golden& golden = GetParam();
  if (golden.tolerance_class != "fp32") GTEST_SKIP() << "tokens are compared in fp32, where rounding cannot turn an argmax";
  Engine engine = Engine::open(golden.directory(), test::golden_options(DeviceKind::Cpu, 5));
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (const auto& sequence : golden.sequences) {
    const auto prompt = sequence.at("prompt").get<std::vector<int32_t>>();
    expected.push_back(sequence.at("sequence").get<std::vector<int32_t>>());
    requests.push_back(test::greedy(prompt, static_cast<int>(expected.back().size() - prompt.size())));
  }
  EXPECT_EQ(test::generate(engine, requests), expected);
}

INSTANTIATE_TEST_SUITE_P(Goldens, Parity, testing::ValuesIn(test::load_goldens()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace rondo
