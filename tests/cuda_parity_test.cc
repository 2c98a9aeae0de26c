// Goldens of transformers (tests/goldens/README.md) on the CUDA backend. On a GPU it is all of them: prompts,
// 64 tokens each, and batches. The executor takes minutes for that, and has one family and one more in f32,
// one family in both 16-bit types, and of each the first prompt.
#include <set>
#include <string>
#include <vector>

#include "tests/cuda_test.h"
#include "tests/parity.h"

namespace rondo {
namespace {

using test::CudaTest;
using test::Golden;

std::vector<Golden> goldens(const std::string& tolerance_class = "") {
  std::vector<Golden> all = test::load_goldens(tolerance_class);
#ifdef RONDO_SIMT
  const std::set<std::string> few = {"llama-default", "llama-default-bf16", "llama-default-f16",
                                     "qwen3-default"};
  std::erase_if(all, [&](const Golden& golden) { return !few.count(golden.name); });
#endif
  return all;
}

class CudaParity : public CudaTest, public testing::WithParamInterface<Golden> {};
INSTANTIATE_TEST_SUITE_P(Goldens, CudaParity, testing::ValuesIn(goldens()), test::golden_name);

#ifdef RONDO_SIMT
TEST_P(CudaParity, LogitsOfAPromptAreThoseOfTransformers) {
  const Golden& golden = GetParam();
  EngineCore core(golden.directory(), test::golden_options(DeviceKind::Cuda, 8));
  test::expect_prompt_logits(core, golden, golden.sequences[0]);
}
#else
// 32 rows: the longer prompts need more than one step.
TEST_P(CudaParity, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const Golden& golden = GetParam();
  EngineOptions options = test::golden_options(DeviceKind::Cuda, 32);
  options.launch_ahead = false;  // or the logits looked at were the next step's
  EngineCore core(golden.directory(), options);
  for (const auto& sequence : golden.sequences) {
    test::expect_prompt_logits(core, golden, sequence);
    test::expect_decoding(core, golden, sequence);
  }
}

// fp32 alone, where rounding cannot turn an argmax.
class CudaExactParity : public CudaParity {};
INSTANTIATE_TEST_SUITE_P(Goldens, CudaExactParity, testing::ValuesIn(goldens("fp32")), test::golden_name);

TEST_P(CudaExactParity, ABatchGivesEachSequenceItsOwnTokens) {
  const Golden& golden = GetParam();
  Engine engine = Engine::open(golden.directory(), test::golden_options(DeviceKind::Cuda, 5));
  test::expect_batch(engine, golden);
}
#endif

}  // namespace
}  // namespace rondo
