// The smallest engine on the CUDA backend, for tests that make many steps: the executor takes some ten
// milliseconds for one.
#pragma once

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "runner/engine.h"
#include "tests/cuda_test.h"
#include "tests/support.h"
#ifdef RONDO_SIMT
#include "tests/simt/fake_cudart.h"
#endif

namespace rondo::test {

class CudaTiny : public CudaTest {
 protected:
  static constexpr int kVocab = 32;

  // Rows up to the last bucket. Tied models repeat their last token.
  CudaTiny(std::vector<int> buckets, int max_sequences, int max_context, bool tied = false)
      : config_({.hidden = 16,
                 .intermediate = 16,
                 .layers = 1,
                 .heads = 2,
                 .kv_heads = 1,
                 .head_dim = 8,
                 .vocab = kVocab,
                 .tied = tied}) {
    options_.max_rows = options_.max_logit_rows = buckets.back();
    options_.buckets = std::move(buckets);
    options_.max_sequences = max_sequences;
    options_.max_context = max_context;
  }
  Engine open() { return Engine::open(config_.path(), options_); }

  TinyConfig config_;
  EngineOptions options_ = tiny_options(DeviceKind::Cuda);
};

#ifdef RONDO_SIMT
// On the stand-in, where calls can be made to fail.
class CudaTinyFaults : public CudaTiny {
 protected:
  CudaTinyFaults(std::vector<int> buckets, int max_sequences, int max_context, bool tied = false)
      : CudaTiny(std::move(buckets), max_sequences, max_context, tied) {
    fake::reset();
  }
  ~CudaTinyFaults() override { fake::reset(); }

  static void expect_clean() {
    EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
    EXPECT_EQ(fake::misuse(), "");
  }
};
#endif

}  // namespace rondo::test
