// What the bits of a step on the CUDA backend depend on, in each dtype and in buckets on both sides of where
// another kernel takes over. The same text runs on the stand-in in CI and on a real GPU; the case numbers are
// those of tests/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "runner/engine_core.h"
#include "tests/cuda_test.h"
#include "tests/support.h"

namespace rondo {
namespace {

using test::CudaTest;
using test::greedy;
using test::some_tokens;
using test::TinyConfig;

constexpr int kVocab = 64;
constexpr int kContext = 10;  // a page, its edge, and the last position not far behind
const std::vector<int> kBuckets = {1, 2, 4, 5, 8, 9};

// Products of whole multiples of 128 columns and a head_dim of whole multiples of 16: what 16-bit types need
// for the streaming products and for tensor cores.
class CudaBits : public CudaTest, public testing::WithParamInterface<const char*> {
 protected:
  static EngineOptions options(std::vector<int> buckets) {
    EngineOptions o = test::tiny_options(DeviceKind::Cuda);
    o.max_rows = o.max_sequences = buckets.back();
    o.buckets = std::move(buckets);
    o.max_context = kContext;
    o.launch_ahead = false;  // or the memory looked at were the next step's
    return o;
  }

  static std::vector<float> logits_of(EngineCore& core) {
    const View logits = core.buffers().logits;
    std::vector<float> host(logits.bytes() / sizeof(float));
    core.device().read(host.data(), logits.data, logits.bytes());
    core.device().synchronize();
    return host;
  }

  // Rows of as many sequences as each bucket has, then those of one prompt.
  static std::vector<std::vector<float>> logits_of_every_step(EngineCore& core) {
    std::vector<std::vector<float>> seen;
    const auto decode = [&](const std::vector<Request>& work) {
      std::vector<SequenceId> ids;
      for (const Request& request : work) ids.push_back(core.scheduler().add(request));
      while (core.scheduler().busy()) {
        for (const View& view : {core.buffers().logits, core.buffers().sampled})
          core.device().fill(view.data, 0xff, view.bytes());
        core.step();
        seen.push_back(logits_of(core));
      }
      for (SequenceId id : ids) core.scheduler().remove(id);
    };
    for (int rows : core.dims().buckets) {
      std::vector<Request> work;
      for (int i = 0; i < rows; ++i)
        work.push_back(greedy(some_tokens(1, kVocab, static_cast<uint32_t>(i)), kContext));
      decode(work);
    }
    decode({greedy(some_tokens(kContext, kVocab, 7), 1)});
    return seen;
  }

  // That it was the kernels that there are.
  void expect_forms(const Stats& stats, [[maybe_unused]] int hidden) {
    const bool narrow = std::string(GetParam()) != "float32";
    for (const FormStats& form : stats.forms) {
      const auto has = [&](const char* name) { return form.kernels.find(name) != std::string::npos; };
      SCOPED_TRACE(std::to_string(form.rows) + " rows, " + form.verb + ": " + form.kernels);
      if (form.verb == "attend") {
        EXPECT_EQ(has("attention_tiles"), narrow);
        EXPECT_EQ(has("makes q, k, v"), narrow && form.rows == 1);
      }
      if (form.verb == "qkv" || form.verb == "gate_up") {
#ifdef RONDO_SIMT  // it has Hopper's bulk copies and tiles
        EXPECT_EQ(has("stream_row"), narrow && hidden == 256);
        EXPECT_EQ(has("stream_gemm"), narrow && hidden != 256 && form.rows < 5);
        EXPECT_EQ(has("stream_tiles"), narrow && form.rows > 4);
#else
        EXPECT_EQ(has("stream_"), narrow && (form.rows < 9 || has("stream_tiles")));
#endif
      }
    }
  }

  static TinyConfig config(int hidden) {
    return TinyConfig({.hidden = hidden,
                       .intermediate = 128,
                       .layers = 2,  // the second one's first norm is begun by the first's last product
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 32,
                       .vocab = kVocab,
                       .dtype = GetParam(),
                       .tied = false});
  }
  const TinyConfig config_ = config(128);
};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaBits, testing::Values("float32", "float16", "bfloat16"),
                         [](const auto& dtype) { return std::string(dtype.param); });

// Outputs poisoned first, every bucket from position 0 over both sides of a page's edge to the last.
TEST_P(CudaBits, B25_ReplayIsEagerBitForBit) {
  for (const int hidden : {256, 128}) {
    const TinyConfig config = CudaBits::config(hidden);
    const std::vector<int> buckets = hidden == 256 ? std::vector{1} : kBuckets;
    EngineOptions o = options(buckets);
    EngineCore replayed(config.path(), o);
    o.graph = GraphMode::Off;
    EngineCore eager(config.path(), o);
    const auto a = logits_of_every_step(replayed), b = logits_of_every_step(eager);
    ASSERT_EQ(a.size(), b.size());
    EXPECT_GE(a.size(), buckets.size() * kContext);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_EQ(std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)), 0) << "step " << i;
    const Stats stats = replayed.stats();
    EXPECT_EQ(stats.replays, stats.steps);
    EXPECT_EQ(eager.stats().replays, 0u);
    expect_forms(stats, hidden);
  }
}

// The first row's logits where the others are padding, and where they are other sequences'.
TEST_P(CudaBits, B11_PaddingChangesNoBit) {
  for (int bucket : kBuckets) {
    if (bucket == 1) continue;
    EngineCore core(config_.path(), options({bucket}));
    const auto decode = [&](int rows) {
      std::vector<SequenceId> ids;
      for (int i = 0; i < rows; ++i)
        ids.push_back(core.scheduler().add(greedy(some_tokens(1, kVocab, static_cast<uint32_t>(i)), 2)));
      std::vector<float> first;
      while (core.scheduler().busy()) {
        core.step();
        const auto all = logits_of(core);
        first.insert(first.end(), all.begin(), all.begin() + kVocab);
      }
      for (SequenceId id : ids) core.scheduler().remove(id);
      return first;
    };
    const auto alone = decode(1), among = decode(bucket);
    ASSERT_EQ(alone.size(), 2u * kVocab);
    EXPECT_EQ(std::memcmp(alone.data(), among.data(), alone.size() * sizeof(float)), 0) << bucket << " rows";
  }
}

// A token whose embedding is NaN: its row alone is without an answer, in the same step as the other's.
TEST_P(CudaBits, B15_ANanRowEndsItsSequenceAndNoOther) {
  const EngineOptions o = options({1, 2});
  EngineCore clean(config_.path(), o), core(config_.path(), o);
  const Request good = greedy({5, 6}, 6);
  const int32_t poisoned = kVocab - 1;
  const View& embedding = core.model().embedding;
  const uint64_t row = embedding.bytes() / kVocab;
  core.device().fill(static_cast<std::byte*>(embedding.data) + poisoned * row, 0xff, row);
  const auto expected_id = clean.scheduler().add(good);
  while (clean.scheduler().busy()) clean.step();
  const auto bad_id = core.scheduler().add(greedy({poisoned}, 6)), good_id = core.scheduler().add(good);
  while (core.scheduler().busy())
    for (const Output& output : core.step()) EXPECT_EQ(output.token == -1, output.sequence == bad_id);
  EXPECT_EQ(core.scheduler().sequence(bad_id).finish, FinishReason::NumericalError);
  EXPECT_EQ(core.scheduler().sequence(bad_id).tokens.size(), 1u);
  EXPECT_EQ(core.scheduler().sequence(good_id).tokens, clean.scheduler().sequence(expected_id).tokens);
}

// Before every step all that lies between its kernels is NaN, and so are K and V wherever this sequence has
// not put them.
TEST_P(CudaBits, B17_WhatLiesInMemoryBeforeDoesNotReachAToken) {
  EngineOptions o = options({1, 2, 8});
  EngineCore clean(config_.path(), o), core(config_.path(), o);
  Request request = greedy(some_tokens(8, kVocab, 7), 3);
  request.sampling.temperature = 0.8f;  // so that all of sampling's scratch is in use
  request.sampling.top_p = 0.9f;
  request.sampling.repetition_penalty = 1.2f;
  request.sampling.top_logprobs = 3;
  const auto clean_id = clean.scheduler().add(request);
  while (clean.scheduler().busy()) clean.step();

  const auto id = core.scheduler().add(request);
  const auto poison_pages = [&](const View& pages) {
    const Sequence& sequence = core.scheduler().sequence(id);
    const int64_t positions = pages.shape[2],
                  row = static_cast<int64_t>(pages.bytes()) / (pages.shape[0] * pages.shape[1] * positions);
    for (int64_t page = 0; page < pages.shape[0]; ++page) {
      const auto held = std::find(sequence.pages.begin(), sequence.pages.end(), page);
      const int64_t before = (held - sequence.pages.begin()) * positions;
      const int64_t kept =
          held == sequence.pages.end() ? 0 : std::clamp<int64_t>(sequence.cached - before, 0, positions);
      for (int64_t head = 0; head < pages.shape[1]; ++head)
        core.device().fill(
            static_cast<std::byte*>(pages.data) + ((page * pages.shape[1] + head) * positions + kept) * row,
            0xff, static_cast<uint64_t>((positions - kept) * row));
    }
  };
  int64_t most_kept = 0;
  while (core.scheduler().busy()) {
    const StepBuffers& b = core.buffers();
    for (const View& view :
         {b.x, b.norm, b.squares, b.angles, b.places, b.qkv, b.q, b.o, b.gate_up, b.h, b.partial_o,
          b.partial_ml, b.logits, b.sampled, b.top, b.token_words, b.scans, b.workspace})
      core.device().fill(view.data, 0xff, view.bytes());
    for (const Layer& layer : core.model().layers) {
      poison_pages(layer.pages.k);
      poison_pages(layer.pages.v);
    }
    most_kept = std::max(most_kept, core.scheduler().sequence(id).cached);
    core.step();
  }
  EXPECT_EQ(most_kept, kContext - 1) << "positions that lie in a second page";
  EXPECT_EQ(core.scheduler().sequence(id).tokens, clean.scheduler().sequence(clean_id).tokens);
}

}  // namespace
}  // namespace rondo
