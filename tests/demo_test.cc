// The checkpoint in models/demo answers what it was not trained on.
#include <gtest/gtest.h>

#include <fstream>

#include "tests/json.h"
#include "tests/support.h"

namespace rondo {
namespace {

TEST(Demo, HeldOutPromptsAreAnsweredRightAtLeast95PercentOfTheTime) {
  EngineOptions options;
  options.device = DeviceKind::Cpu;
  options.max_rows = 64;
  Engine engine = Engine::open((test::kSource / "models/demo").string(), options);
  std::ifstream lines(test::kSource / "models/demo/heldout.jsonl");
  std::vector<std::pair<SequenceId, std::string>> asked;
  for (std::string line; std::getline(lines, line);) {
    const auto entry = test::parse_json(line);
    const std::string prompt = entry.at("prompt");
    Request request;
    request.prompt.assign(prompt.begin(), prompt.end());
    request.max_new_tokens = 64;
    asked.emplace_back(engine.add(request), prompt + entry.at("answer").get<std::string>() + "\n");
  }
  ASSERT_GE(asked.size(), 200u);
  while (engine.busy()) engine.step();
  size_t right = 0;
  for (const auto& [id, expected] : asked) {
    const auto tokens = engine.tokens(id);
    right += std::string(tokens.begin(), tokens.end()) == expected;
  }
  EXPECT_GE(static_cast<double>(right), 0.95 * static_cast<double>(asked.size()));
}

}  // namespace
}  // namespace rondo
