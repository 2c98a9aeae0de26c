// Parity with transformers: one golden (tests/goldens/README.md) against one backend.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "runner/engine_core.h"
#include "tests/json.h"
#include "tests/support.h"

namespace rondo::test {

inline const std::filesystem::path kGoldens = kSource / "tests/goldens";

inline std::vector<float> read_floats(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// |a - b| / |b| over a whole row of logits; NaN anywhere gives NaN, which passes no comparison.
inline double relative_l2(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double(found[i]) - expected[i]) * (double(found[i]) - expected[i]);
    size += double(expected[i]) * expected[i];
  }
  return std::sqrt(difference / size);
}

struct Golden {
  std::string name;
  std::string tolerance_class;
  double tolerance = 0;
  nlohmann::json sequences;

  std::string directory() const { return (kGoldens / name).string(); }
};

// All of them, or those of one tolerance class.
inline std::vector<Golden> load_goldens(const std::string& tolerance_class = "") {
  std::vector<Golden> goldens;
  const auto manifest = read_json(kGoldens / "manifest.json");
  for (const auto& entry : manifest.at("goldens")) {
    Golden golden;
    golden.name = entry.at("directory");
    golden.tolerance_class = entry.at("tolerance");
    if (!tolerance_class.empty() && golden.tolerance_class != tolerance_class) continue;
    golden.tolerance = manifest.at("tolerances").at(golden.tolerance_class).at("rel_l2");
    golden.sequences = read_json(kGoldens / golden.name / "golden.json").at("sequences");
    goldens.push_back(golden);
  }
  return goldens;
}

inline std::string golden_name(const testing::TestParamInfo<Golden>& golden) {
  std::string name = golden.param.name;
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

inline EngineOptions golden_options(DeviceKind device, int max_rows) {
  EngineOptions options;
  options.device = device;
  options.max_rows = max_rows;
  options.max_sequences = 4;
  options.max_logit_rows = max_rows;
  options.page_size = 16;
  options.threads = 2;
  return options;
}

inline void expect_prompt_logits(EngineCore& core, const Golden& golden, const nlohmann::json& sequence) {
  const auto prompt = sequence.at("prompt").get<std::vector<int32_t>>();
  const auto positions = sequence.at("positions").get<std::vector<int64_t>>();
  const auto expected = read_floats(kGoldens / golden.name / sequence.at("logits_file").get<std::string>());
  const auto vocab = static_cast<size_t>(core.dims().vocab_size);
  size_t compared = 0;
  core.score(prompt, [&](int64_t position, std::span<const float> logits) {
    ASSERT_EQ(positions[compared], position);
    EXPECT_LE(relative_l2(logits, {expected.data() + compared * vocab, vocab}), golden.tolerance)
        << golden.name << " position " << position;
    ++compared;
  });
  EXPECT_EQ(compared, prompt.size());
}

// Greedy decoding, step by step: the logits of every recorded position while the tokens agree, and in fp32
// all the tokens.
inline void expect_decoding(EngineCore& core, const Golden& golden, const nlohmann::json& sequence) {
  const auto prompt = sequence.at("prompt").get<std::vector<int32_t>>();
  const auto expected_tokens = sequence.at("sequence").get<std::vector<int32_t>>();
  const auto positions = sequence.at("positions").get<std::vector<int64_t>>();
  const auto expected = read_floats(kGoldens / golden.name / sequence.at("logits_file").get<std::string>());
  const auto vocab = static_cast<size_t>(core.dims().vocab_size);
  const auto id =
      core.scheduler().add(greedy(prompt, static_cast<int>(expected_tokens.size() - prompt.size())));
  std::vector<float> logits(vocab);
  bool agree = true;
  int compared = 0;
  while (core.scheduler().busy()) {
    for (const Output& output : core.step()) {
      const auto position =
          static_cast<int64_t>(core.scheduler().sequence(id).tokens.size()) - 2;  // the row that drew it
      const auto at = std::find(positions.begin(), positions.end(), position);
      if (agree && at != positions.end()) {
        core.device().read(logits.data(), core.buffers().logits.data, vocab * sizeof(float));
        core.device().synchronize();
        const auto row = static_cast<size_t>(at - positions.begin());
        EXPECT_LE(relative_l2(logits, {expected.data() + row * vocab, vocab}), golden.tolerance)
            << golden.name << " position " << position;
        ++compared;
      }
      agree = agree && output.token == expected_tokens[static_cast<size_t>(position) + 1];
    }
  }
  EXPECT_GE(compared, 1);
  if (golden.tolerance_class == "fp32") {
    EXPECT_EQ(core.scheduler().sequence(id).tokens, expected_tokens) << golden.name;
  }
  core.scheduler().remove(id);
}

// All sequences of a golden at once.
inline void expect_batch(Engine& engine, const Golden& golden) {
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (const auto& sequence : golden.sequences) {
    const auto prompt = sequence.at("prompt").get<std::vector<int32_t>>();
    expected.push_back(sequence.at("sequence").get<std::vector<int32_t>>());
    requests.push_back(greedy(prompt, static_cast<int>(expected.back().size() - prompt.size())));
  }
  EXPECT_EQ(generate(engine, requests), expected);
}

}  // namespace rondo::test
