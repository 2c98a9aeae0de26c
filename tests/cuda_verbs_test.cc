// Each verb of the CUDA backend once against the CPU backend's, small and in the forms that two rows take.
// The sizes are few enough for the executor under TSan, which leaves out the sweeps of cuda_ops_test.cc.
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "kernels/verbs.h"
#include "tests/cuda_pair.h"

namespace rondo::test {
namespace {

constexpr int kRows = 2;

class CudaVerb : public CudaTest, public testing::WithParamInterface<std::tuple<Verb, DType>> {};
INSTANTIATE_TEST_SUITE_P(Small, CudaVerb,
                         testing::Combine(testing::ValuesIn(kVerbs),
                                          testing::Values(DType::f32, DType::bf16)),
                         [](const auto& each) {
                           std::string name = std::string(verb_name(std::get<0>(each.param))) + "_" +
                                              dtype_name(std::get<1>(each.param));
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST_P(CudaVerb, IsTheCpus) {
  const auto [verb, dtype] = GetParam();
  Case c;
  c.dtype = dtype;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 32;
  c.hidden = c.intermediate = 128;
  c.vocab = 40;
  c.max_context = 16;
  Pair pair(c);
  const Bucket bucket{kRows, kRows};
  pair.set_rows({{3, 9, 1, 1}, {5, 0, 2, 1}});
  const auto x = [](Side& s) { return s.buffers.x; };
  const auto q = [](Side& s) { return s.buffers.q; };
  const auto o = [](Side& s) { return s.buffers.o; };
  const auto h = [](Side& s) { return s.buffers.h; };
  const auto logits = [](Side& s) { return s.buffers.logits; };
  if (verb == Verb::Qkv) pair.embed(kRows);
  pair.randomize(x, 1);
  const int64_t Q = c.heads * c.head_dim;
  switch (verb) {
    case Verb::Embed:
      pair.run([&](Side& s) { s.ops->embed(bucket); });
      pair.expect_close(x, 0, kRows * c.hidden);
      break;
    case Verb::Qkv:
      pair.run([&](Side& s) { s.ops->qkv(bucket, s.layer()); });
      pair.expect_close(q, tolerance(dtype, 4, c.hidden + c.head_dim + 16) + 16 * 0x1p-23, kRows * Q);
      break;
    case Verb::Attend:
      pair.fill_pages();
      pair.randomize(q, 1);
      pair.run([&](Side& s) { s.ops->attend(bucket, s.layer()); });
      pair.expect_close(o, tolerance(dtype, 2, c.head_dim + 10 + 16), kRows * Q);
      break;
    case Verb::OProj:
      pair.randomize(o, 1);
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj); });
      pair.expect_close(x, tolerance(dtype, 1, Q + 2), kRows * c.hidden);
      break;
    case Verb::GateUp:
      pair.run([&](Side& s) { s.ops->gate_up(bucket, s.layer()); });
      pair.expect_close(h, 2 * tolerance(dtype, 4, c.hidden + 16), kRows * c.intermediate);
      break;
    case Verb::DownProj:
      pair.randomize(h, 1);
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj); });
      pair.expect_close(x, tolerance(dtype, 1, c.intermediate + 2), kRows * c.hidden);
      break;
    case Verb::Logits:
      pair.run([&](Side& s) { s.ops->logits(bucket); });
      pair.expect_close(logits, tolerance(dtype, 2, c.hidden + 16), kRows * c.vocab);
      break;
    case Verb::Sample: {
      std::vector<SlotParams> params(kRows);
      params[1].temperature = 1;
      params[1].top_p = 0.9f;
      pair.set_params(params);
      pair.randomize(logits, 3);
      pair.run([&](Side& s) { s.ops->sample(bucket); });
      Sampled drawn[2][kRows];
      for (int i = 0; i < 2; ++i) {
        Side& s = *pair.sides()[static_cast<size_t>(i)];
        std::memcpy(drawn[i], s.read(s.buffers.sampled.data, sizeof(drawn[i])).data(), sizeof(drawn[i]));
      }
      for (int row = 0; row < kRows; ++row) {
        EXPECT_EQ(drawn[1][row].status, Sampled::kOk);
        EXPECT_EQ(drawn[1][row].token, drawn[0][row].token);
        EXPECT_NEAR(drawn[1][row].logprob, drawn[0][row].logprob,
                    static_cast<double>(c.vocab + 16) * 0x1p-22);
      }
      break;
    }
  }
}

}  // namespace
}  // namespace rondo::test
