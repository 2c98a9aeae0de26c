// Rotary frequencies against transformers 5.23's own (LlamaRotaryEmbedding and ROPE_INIT_FUNCTIONS; head_dim
// 16).
#include "runner/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace rondo {
namespace {

// torch's vectorised power is within 1 ulp of the exact value and ours is rounded once, so a power may differ
// by 2 ulp; each of the one to three roundings that follow adds at most half an ulp on either side.
constexpr double kTolerance = 4 * 0x1p-23;

struct Case {
  const char* name;
  std::string rope_parameters;
  int64_t max_position_embeddings;
  int64_t sequence_length;
  std::vector<float> inv_freq;
  float attention_scaling;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ModelConfig config_with(const std::string& rope_parameters, int64_t max_position_embeddings) {
  return parse_model_config(R"({"model_type":"llama","vocab_size":16,"hidden_size":64,"intermediate_size":64,
      "num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":)" +
                                std::to_string(max_position_embeddings) + R"(,"rope_parameters":{)" +
                                rope_parameters + "}}",
                            "config.json");
}

const char* const kLongropeFactors =
    R"("rope_type":"longrope","rope_theta":10000.0,"original_max_position_embeddings":512,
       "short_factor":[1.0,1.0,1.05,1.1,1.15,1.3,1.5,1.8],"long_factor":[1.0,1.25,1.7,2.5,3.75,5.5,8.25,12.0])";

class RopeFrequencies : public testing::TestWithParam<Case> {};

TEST_P(RopeFrequencies, AreThoseOfTransformers) {
  const Case& c = GetParam();
  const ModelConfig config = config_with(c.rope_parameters, c.max_position_embeddings);
  ASSERT_EQ(config.head_dim, 16);
  std::vector<float> found(8, NAN);
  float scaling = NAN;
  rope_inverse_frequencies(config, c.sequence_length, found.data(), &scaling);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], c.inv_freq[i], kTolerance * static_cast<double>(c.inv_freq[i])) << "pair " << i;
  }
  EXPECT_NEAR(scaling, c.attention_scaling, 0x1p-23);
}

const std::vector<float> kPlain = {1.e+00f, 3.1622776e-01f, 1.e-01f, 3.162278e-02f,
                                   1.e-02f, 3.1622779e-03f, 1.e-03f, 3.162278e-04f};
const std::vector<float> kShort = {1.e+00f,       3.1622776e-01f, 9.52381e-02f,   2.874798e-02f,
                                   8.695652e-03f, 2.4325214e-03f, 6.6666666e-04f, 1.756821e-04f};

INSTANTIATE_TEST_SUITE_P(
    Rope, RopeFrequencies,
    testing::Values(
        Case{"Default", R"("rope_type":"default","rope_theta":10000.0)", 64, 1, kPlain, 1.0f},
        Case{"Linear",
             R"("rope_type":"linear","rope_theta":500000.0,"factor":2.5)",
             64,
             1,
             {4.e-01f, 7.7569105e-02f, 1.5042412e-02f, 2.917066e-03f, 5.656854e-04f, 1.0969928e-04f,
              2.1273183e-05f, 4.1253543e-06f},
             1.0f},
        Case{"DynamicWithinTheLength", R"("rope_type":"dynamic","rope_theta":10000.0,"factor":3.0)", 64, 64,
             kPlain, 1.0f},
        Case{"DynamicBeyondTheLength",
             R"("rope_type":"dynamic","rope_theta":10000.0,"factor":3.0)",
             64,
             100,
             {1.e+00f, 2.7457723e-01f, 7.539265e-02f, 2.0701105e-02f, 5.6840517e-03f, 1.5607111e-03f,
              4.285357e-04f, 1.17666146e-04f},
             1.0f},
        Case{
            "Yarn",
            R"("rope_type":"yarn","rope_theta":10000.0,"factor":4.0,"original_max_position_embeddings":2048)",
            8192,
            1,
            {1.e+00f, 3.1622776e-01f, 1.e-01f, 2.5693506e-02f, 6.2499996e-03f, 1.3834966e-03f, 2.5e-04f,
             7.905695e-05f},
            1.1386294f},
        Case{"YarnWithMscaleAndNoTruncation",
             R"("rope_type":"yarn","rope_theta":10000.0,"factor":4.0,"original_max_position_embeddings":2048,
                "beta_fast":16.0,"beta_slow":2.0,"mscale":0.7,"mscale_all_dim":1.1,"truncate":false)",
             8192,
             1,
             {1.e+00f, 3.1622776e-01f, 1.e-01f, 2.6607499e-02f, 4.261619e-03f, 7.9056947e-04f, 2.5e-04f,
              7.905695e-05f},
             9.5188534e-01f},
        Case{"YarnWithAttentionFactorAndNoOriginalLength",
             R"("rope_type":"yarn","rope_theta":1000000.0,"factor":2.0,"attention_factor":1.375)",
             32768,
             1,
             {1.e+00f, 1.7782794e-01f, 3.162278e-02f, 4.6861777e-03f, 6.6666666e-04f, 8.891397e-05f,
              1.5811387e-05f, 2.8117067e-06f},
             1.375f},
        Case{"LongropeAtTheSwitch", kLongropeFactors, 4096, 512, kShort, 1.1547005f},
        Case{"LongropeBeyondTheSwitch",
             kLongropeFactors,
             4096,
             513,
             {1.e+00f, 2.5298223e-01f, 5.882353e-02f, 1.2649111e-02f, 2.6666666e-03f, 5.7495956e-04f,
              1.2121212e-04f, 2.6352314e-05f},
             1.1547005f},
        Case{"LongropeWithFactor", std::string(kLongropeFactors) + R"(,"factor":4.0)", 512, 1, kShort,
             1.1055416f},
        Case{"Llama3",
             R"("rope_type":"llama3","rope_theta":500000.0,"factor":8.0,"low_freq_factor":1.0,
                "high_freq_factor":4.0,"original_max_position_embeddings":8192)",
             131072,
             1,
             {1.e+00f, 1.9392276e-01f, 3.760603e-02f, 7.292665e-03f, 5.24846e-04f, 3.4281024e-05f,
              6.6478697e-06f, 1.2891732e-06f},
             1.0f}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(RopeTable, HoldsBothSetsOfLongropeAndTheLengthWhereTheySwitch) {
  const ModelConfig config = config_with(kLongropeFactors, 4096);
  const RopeTable table = make_rope_table(config);
  EXPECT_EQ(table.switch_length, 512);
  ASSERT_EQ(table.inv_freq.size(), 8u);
  ASSERT_EQ(table.long_inv_freq.size(), 8u);
  EXPECT_FLOAT_EQ(table.inv_freq[7], 1.756821e-04f);
  EXPECT_FLOAT_EQ(table.long_inv_freq[7], 2.6352314e-05f);
}

TEST(RopeTable, OfDynamicSwitchesAtTheTrainedLengthAndGrowsWithoutAStep) {
  const ModelConfig config = config_with(R"("rope_type":"dynamic","factor":3.0)", 64);
  const RopeTable table = make_rope_table(config);
  EXPECT_EQ(table.switch_length, 64);
  EXPECT_TRUE(table.long_inv_freq.empty());
  float scaling;
  std::vector<float> before = table.inv_freq;
  for (int64_t length = 65; length < 200; ++length) {
    std::vector<float> now(8);
    rope_inverse_frequencies(config, length, now.data(), &scaling);
    EXPECT_LT(now[7], before[7]) << length;
    EXPECT_EQ(now[0], 1.0f);
    before = now;
  }
}

TEST(RopeTable, OfTheOtherKindsNeverSwitches) {
  const RopeTable table = make_rope_table(config_with(R"("rope_type":"default")", 64));
  EXPECT_EQ(table.switch_length, INT64_MAX);
  EXPECT_TRUE(table.long_inv_freq.empty());
}

TEST(RopeTable, IsFiniteAtTheEdgesOfWhatAConfigMaySay) {
  for (
      const char* rope : {
          R"("rope_type":"default","rope_theta":1e12)",
          R"("rope_type":"default","rope_theta":1)",
          R"("rope_type":"dynamic","rope_theta":1e12,"factor":1e6)",
          R"("rope_type":"dynamic","rope_theta":1,"factor":1)",
          R"("rope_type":"yarn","rope_theta":1.0000001,"factor":1e6,"original_max_position_embeddings":1)",
          R"("rope_type":"yarn","rope_theta":1e12,"factor":1,"beta_fast":1e6,"beta_slow":1e6)",
          R"("rope_type":"llama3","rope_theta":1e12,"factor":1e6,"low_freq_factor":1e-6,"high_freq_factor":1e6)",
          R"("rope_type":"llama3","factor":1,"low_freq_factor":1,"high_freq_factor":1.0000000000000002)",
      }) {
    const ModelConfig config = config_with(rope, INT32_MAX);
    for (const int64_t length : {int64_t{1}, int64_t{INT32_MAX}, int64_t{INT32_MAX} + 1}) {
      std::vector<float> inv_freq(8, NAN);
      float scaling = NAN;
      rope_inverse_frequencies(config, length, inv_freq.data(), &scaling);
      for (const float frequency : inv_freq)
        EXPECT_TRUE(std::isfinite(frequency)) << rope << " at " << length;
      EXPECT_TRUE(std::isfinite(scaling)) << rope;
    }
  }
}

}  // namespace
}  // namespace rondo
