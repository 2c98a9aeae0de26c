// The products by tiles (kernels/cuda/stream_tiles.cu): each output, for 2 to 64 rows, with shapes that leave
// parts of tiles, of steps and of blocks' shares, held to the CPU backend; and that it is this form that ran.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/launchers.h"
#include "tests/cuda_pair.h"

namespace rondo::test {
namespace {

// Each instance of the kernel: full, and with columns that nobody reads.
constexpr int kRowCounts[] = {6, 16, 21, 64};

// Of tiles of 64 or 128 rows of W, and of steps of 128 columns, there is one that is not whole.
Case tiled(DType dtype, int rows) {
  Case c;
  c.dtype = dtype;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 48;
  c.hidden = 192;
  c.intermediate = 320;
  c.vocab = 304;
  c.rows = rows;
  return c;
}

// Up to 32 rows they are taken unasked, beyond for large products alone.
void take_tiles(Pair& pair, Verb verb, int rows) {
  Ops& ops = *pair.cuda.ops;
  const auto taken = [&] {
    return ops.kernels(verb, {rows, rows}).find("stream_tiles") != std::string::npos;
  };
  EXPECT_EQ(taken(), rows <= 32) << ops.kernels(verb, {rows, rows});
  for (size_t form = 0; form < ops.forms(verb, {rows, rows}) && !taken(); ++form)
    ops.choose(verb, {rows, rows}, form);
  ASSERT_TRUE(taken()) << verb_name(verb);
}

class CudaTiles : public CudaTest, public testing::WithParamInterface<DType> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    int major = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    if (major != 9) GTEST_SKIP() << "a GPU of compute capability " << major << ".x has no such tiles";
  }

  // Calls check(pair, case, rows) for each count of rows, with and without biases; the verbs are taken by
  // tiles.
  template <class F>
  void for_each_case(std::initializer_list<Verb> verbs, F check) {
    for (int rows : kRowCounts)
      for (bool bias : {false, true}) {
        Case c = tiled(GetParam(), rows);
        c.bias = bias;
        check_case(verbs, c, rows, check);
      }
  }
  // The same for verbs of which qkv is one, with and without norms of heads. Those are a reason to leave what
  // comes behind the product to a kernel of its own, and so are heads of which a tile has no even share.
  template <class F>
  void for_each_kind_of_head(std::initializer_list<Verb> verbs, F check) {
    for (int rows : kRowCounts)
      for (int64_t head_dim : {48, 64, 128})
        for (bool qk_norm : {false, true}) {
          Case c = tiled(GetParam(), rows);
          c.head_dim = head_dim;
          c.bias = head_dim != 64;
          c.qk_norm = qk_norm;
          check_case(verbs, c, rows, [&](Pair& pair, const Case&, int) {
            const bool in_one = !qk_norm && head_dim != 48 && rows <= 32;
            const std::string kernels = pair.cuda.ops->kernels(Verb::Qkv, {rows, rows});
            EXPECT_EQ(kernels.find("rope_append") == std::string::npos, in_one) << kernels;
            pair.embed(rows);
            check(pair, c, rows);
          });
        }
  }

 private:
  template <class F>
  void check_case(std::initializer_list<Verb> verbs, const Case& c, int rows, F check) {
    Pair pair(c);
    for (Verb verb : verbs) take_tiles(pair, verb, rows);
    pair.set_rows(rows_of(rows));
    check(pair, c, rows);
  }
};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaTiles, testing::Values(DType::f16, DType::bf16),
                         [](const auto& dtype) { return dtype_name(dtype.param); });

TEST_P(CudaTiles, QkvIsTheCpus) {
  for_each_kind_of_head({Verb::Qkv}, [](Pair& pair, const Case& c, int rows) {
    pair.randomize(x_of, 2);
    pair.run([&](Side& s) { s.ops->qkv({rows, 1}, s.layer()); });
    const double allowed =
        tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + 50 * 0x1p-23;  // and the angles
    pair.expect_close(q_of, allowed, rows * c.heads * c.head_dim);
    pair.expect_appended(allowed);
  });
}

TEST_P(CudaTiles, ProjectionsAreAddedToTheResidual) {
  for_each_case({Verb::OProj, Verb::DownProj}, [](Pair& pair, const Case& c, int rows) {
    for (auto view : {x_of, o_of, h_of}) pair.randomize(view, 1);
    pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.o, s.layer().o_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 1, c.heads * c.head_dim + 2), rows * c.hidden);
    pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.h, s.layer().down_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 2, c.intermediate + 2), rows * c.hidden);
  });
}

// Behind the projection, which begins the norm where x times the norm's weight is in the type's range.
TEST_P(CudaTiles, GateUpIsSiluOfTheGateTimesUp) {
  for_each_case({Verb::OProj, Verb::GateUp}, [](Pair& pair, const Case& c, int rows) {
    EXPECT_EQ(pair.cuda.ops->kernels(Verb::GateUp, {rows, rows}).find("rmsnorm") == std::string::npos,
              c.dtype == DType::bf16 && rows <= kBegunRows);
    for (auto view : {x_of, o_of}) pair.randomize(view, 2);
    pair.run([&](Side& s) {
      s.ops->add_project({rows, 1}, s.buffers.o, s.layer().o_proj, s.layer().mlp_norm);
      s.ops->gate_up({rows, 1}, s.layer());
    });
    pair.expect_close(h_of, 2 * tolerance(c.dtype, 4, c.hidden + c.heads * c.head_dim + 16),
                      rows * c.intermediate);
  });
}

TEST_P(CudaTiles, QkvOfALaterLayerTakesTheNormThatTheProjectionBegan) {
  for_each_kind_of_head({Verb::DownProj, Verb::Qkv}, [](Pair& pair, const Case& c, int rows) {
    for (auto view : {x_of, h_of}) pair.randomize(view, 2);
    pair.run([&](Side& s) {
      Layer later = s.layer();
      later.attention_norm = later.mlp_norm;
      s.ops->add_project({rows, 1}, s.buffers.h, later.down_proj, later.attention_norm);
      s.ops->qkv({rows, 1}, later);
    });
    const double allowed = tolerance(c.dtype, 5, c.hidden + c.intermediate + c.head_dim + 16) + 50 * 0x1p-23;
    pair.expect_close(q_of, allowed, rows * c.heads * c.head_dim);
    pair.expect_appended(allowed);
  });
}

TEST_P(CudaTiles, LogitsTakeTheRowsThatTheListNames) {
  for (int rows : kRowCounts) {
    const Case c = tiled(GetParam(), rows);
    Pair pair(c);
    take_tiles(pair, Verb::Logits, rows);
    pair.set_rows(rows_of(rows));
    pair.randomize(x_of, 2);
    std::vector<int32_t> list;
    for (int r = 0; r < rows; ++r) list.push_back(r * 3 % rows);
    pair.set_logit_rows(list);
    pair.run([&](Side& s) { s.ops->logits({rows, rows}); });
    pair.expect_close(logits_of, tolerance(c.dtype, 2, c.hidden + 16), rows * c.vocab);
  }
}

// A tile is several blocks', and of several blocks some have no step of another: all cuts of a product's
// steps.
TEST_P(CudaTiles, AnyNumberOfStepsIsShared) {
  for (int64_t intermediate : {64, 128, 192, 1024, 4160})
    for (int64_t hidden : {64, 128, 576}) {
      Case c = tiled(GetParam(), 6);
      c.hidden = hidden;
      c.intermediate = intermediate;
      Pair pair(c);
      for (Verb verb : {Verb::DownProj, Verb::GateUp}) take_tiles(pair, verb, 6);
      pair.set_rows(rows_of(6));
      for (auto view : {x_of, h_of}) pair.randomize(view, 1);
      pair.run([&](Side& s) {
        s.ops->add_project({6, 1}, s.buffers.h, s.layer().down_proj, s.layer().mlp_norm);
        s.ops->gate_up({6, 1}, s.layer());
      });
      pair.expect_close(x_of, tolerance(c.dtype, 1, intermediate + 2), 6 * hidden);
      pair.expect_close(h_of, 2 * tolerance(c.dtype, 4, hidden + intermediate + 16), 6 * intermediate);
      pair.cuda.expect_no_partial_results();
    }
}

// A few rows are streamed, unless their activations would go by phases.
TEST_P(CudaTiles, AFewRowsAreTiledWhereTheirActivationsDoNotFitAtOnce) {
  Case c = tiled(GetParam(), 8);
  c.hidden = 64;
  c.intermediate = 14336;
  c.head_dim = 64;
  Pair pair(c);
  for (int rows : {2, 4}) {
    EXPECT_EQ(pair.cuda.ops->kernels(Verb::DownProj, {rows, 1}), "stream_tiles");
    EXPECT_EQ(pair.cuda.ops->kernels(Verb::OProj, {rows, 1}), "stream_gemm");
    pair.set_rows(rows_of(rows));
    for (auto view : {x_of, h_of}) pair.randomize(view, 1);
    pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.h, s.layer().down_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 1, c.intermediate + 2), rows * c.hidden);
  }
}

// Rows that a bucket has and a step does not: whatever lies in them reaches nobody else.
TEST_P(CudaTiles, RowsDoNotMix) {
  const Case c = tiled(GetParam(), 12);
  std::vector<float> found[2];
  for (bool spoiled : {false, true}) {
    Pair pair(c);
    take_tiles(pair, Verb::DownProj, 12);
    pair.set_rows(rows_of(12));
    std::vector<float> h = pair.randomize(h_of, 1);
    pair.randomize(x_of, 1);
    if (spoiled)
      for (size_t i = 0; i < static_cast<size_t>(c.intermediate); ++i)
        h[5 * static_cast<size_t>(c.intermediate) + i] = kNan;
    pair.set(h_of, h);
    Side& s = pair.cuda;
    s.ops->add_project({12, 1}, s.buffers.h, s.layer().down_proj);
    found[spoiled] = s.get(s.buffers.x);
  }
  for (size_t i = 0; i < found[0].size(); ++i) {
    if (i / static_cast<size_t>(c.hidden) == 5)
      EXPECT_TRUE(std::isnan(found[1][i]));
    else
      ASSERT_EQ(found[0][i], found[1][i]) << i;
  }
}

// One tile, and a block for each of its steps: more than are asked for their parts at once.
TEST_P(CudaTiles, PartsOfManyBlocksAreAddedUp) {
  for (int rows : kRowCounts) {
    Case c = tiled(GetParam(), rows);
    c.hidden = 64;
    c.intermediate = 1024;
    Pair pair(c);
#ifdef RONDO_SIMT
    fake::set_device({.multiprocessors = 18});
    pair.cuda.ops =
        make_cuda_ops(pair.cuda.dims, pair.cuda.buffers, pair.cuda.model, pair.cuda_device().stream());
#endif
    take_tiles(pair, Verb::DownProj, rows);
    pair.set_rows(rows_of(rows));
    pair.randomize(x_of, 1);
    pair.randomize(h_of, 1);
    pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.h, s.layer().down_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 1, c.intermediate + 2), rows * c.hidden);
    pair.cuda.expect_no_partial_results();
  }
}

#ifndef RONDO_SIMT
// What small shapes never do on a GPU's many multiprocessors: a block's ring goes round several times, and it
// has whole tiles between those that it shares. The executor has few, and every test above does so there.
TEST_P(CudaTiles, ARingGoesRoundSeveralTimes) {
  for (int rows : kRowCounts) {
    Case c = tiled(GetParam(), rows);
    c.hidden = 1024;
    c.intermediate = 8192;
    Pair pair(c);
    for (Verb verb : {Verb::OProj, Verb::GateUp, Verb::DownProj}) take_tiles(pair, verb, rows);
    pair.set_rows(rows_of(rows));
    for (auto view : {x_of, o_of}) pair.randomize(view, 1);
    pair.run([&](Side& s) {
      s.ops->add_project({rows, 1}, s.buffers.o, s.layer().o_proj, s.layer().mlp_norm);
      s.ops->gate_up({rows, 1}, s.layer());
    });
    pair.expect_close(h_of, 2 * tolerance(c.dtype, 4, c.hidden + c.heads * c.head_dim + 16),
                      rows * c.intermediate);
    pair.randomize(h_of, 1);
    pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.h, s.layer().down_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 2, c.intermediate + c.heads * c.head_dim + 4),
                      rows * c.hidden);
  }
}
#endif

TEST(StreamTiles, FitTheShapesOfRealModels) {
  cuda::Queue hopper{nullptr, cuda::Order::early, 132, 227 << 10};
  hopper.tiles = true;
  struct Shape {
    int N, K;
  };
  for (const Shape& s :
       {Shape{6144, 4096}, {4096, 14336}, {1024, 3072}, {2560, 9728}, {128256, 4096}, {151936, 1024}})
    for (int rows : kRowCounts) {
      cuda::StreamTilesArgs a{};
      a.N = s.N;
      a.K = s.K;
      a.rows = rows;
      a.output = cuda::StreamOutput::store_f32;
      ASSERT_TRUE(cuda::stream_tiles_fits(a, hopper, kCudaProductPartBytes)) << s.N << " x " << s.K;
      const int tile = rows > 32 ? 128 : 64, columns = rows > 32 ? 64 : 128;
      EXPECT_EQ(a.per_tile, (s.K + columns - 1) / columns);
      EXPECT_EQ(int64_t{a.each} * 132 + a.more, int64_t{(s.N + tile - 1) / tile} * a.per_tile);
      EXPECT_FALSE(cuda::stream_tiles_fits(a, hopper, 1 << 16)) << "no room for partial results";
      EXPECT_FALSE(cuda::stream_tiles_fits(a, cuda::Queue{nullptr, cuda::Order::early, 132, 227 << 10},
                                           kCudaProductPartBytes))
          << "no tiles there";
      cuda::StreamTilesArgs other = a;
      other.rows = 65;
      EXPECT_FALSE(cuda::stream_tiles_fits(other, hopper, kCudaProductPartBytes));
      other = a;
      other.K += 32;
      EXPECT_FALSE(cuda::stream_tiles_fits(other, hopper, kCudaProductPartBytes)) << "columns by the 64";
      other = a;
      other.output = cuda::StreamOutput::silu_mul;
      other.N = 2 * 1028;
      EXPECT_FALSE(cuda::stream_tiles_fits(other, hopper, kCudaProductPartBytes)) << "pairs by the eight";
      other = a;
      float squares = 0;
      other.squares = &squares;
      EXPECT_EQ(cuda::stream_tiles_fits(other, hopper, kCudaProductPartBytes), rows <= kBegunRows);
    }
}

}  // namespace
}  // namespace rondo::test
