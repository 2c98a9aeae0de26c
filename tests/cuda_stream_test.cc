// The streaming forms of the products (kernels/cuda/stream_gemm.cu, stream_row.cu): each output that it
// writes, with each input that it takes, for shapes that divide unevenly among blocks, tiles and warps, held
// to the CPU backend; and that it is this form that ran.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/cuda/launchers.h"
#include "tests/cuda_pair.h"

namespace rondo::test {
namespace {

class CudaStream : public CudaTest, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaStream, testing::Values(DType::f16, DType::bf16),
                         [](const auto& dtype) { return dtype_name(dtype.param); });

// Every product of it has a number of columns that the streaming form takes; rows per block are uneven.
Case streamable(DType dtype) {
  Case c;
  c.dtype = dtype;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.hidden = 256;
  c.intermediate = 384;
  c.vocab = 93;
  return c;
}

// One row has a form of its own, which cuts columns into chunks of 1024: one of them and a shorter one.
std::vector<Case> streamable(DType dtype, int rows) {
  std::vector<Case> cases{streamable(dtype)};
  if (rows > 1) return cases;
  cases.push_back(cases.front());
  cases.back().hidden = 1280;
  cases.back().intermediate = 512;
  return cases;
}

TEST_P(CudaStream, QkvIsTheCpusWithAndWithoutBiasAndHeadNorms) {
  for (bool bias : {false, true})
    for (bool qk_norm : {false, true})
      for (int rows : {1, 3, 4})
        for (Case c : streamable(GetParam(), rows)) {
          c.bias = bias;
          c.qk_norm = qk_norm;
          Pair pair(c);
          pair.set_rows(rows_of(rows));
          pair.embed(rows);
          pair.randomize(x_of, 2);
          // Attention makes one row's q, k and v of the product; cuda_attention_test.cc has what comes of q.
          pair.run([&](Side& s) {
            s.ops->qkv({rows, 1}, s.layer());
            if (rows == 1) s.ops->attend({rows, 1}, s.layer());
          });
          const double allowed =
              tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + 16 * 0x1p-23;  // and the angles
          if (rows > 1) pair.expect_close(q_of, allowed, rows * c.heads * c.head_dim);
          pair.expect_appended(allowed);
        }
}

TEST_P(CudaStream, ProjectionsAreAddedToTheResidual) {
  for (bool bias : {false, true})
    for (int rows : {1, 2, 4})
      for (Case c : streamable(GetParam(), rows)) {
        c.bias = bias;
        Pair pair(c);
        pair.set_rows(rows_of(rows));
        pair.randomize(x_of, 1);
        pair.randomize(o_of, 1);
        pair.randomize(h_of, 1);
        pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.o, s.layer().o_proj); });
        pair.expect_close(x_of, tolerance(c.dtype, 1, c.heads * c.head_dim + 2), rows * c.hidden);
        pair.run([&](Side& s) { s.ops->add_project({rows, 1}, s.buffers.h, s.layer().down_proj); });
        pair.expect_close(x_of, tolerance(c.dtype, 2, c.intermediate + 2), rows * c.hidden);
      }
}

// Activations that shared memory does not hold at once, and a warp that has no item in a phase.
TEST_P(CudaStream, ManyColumnsAreTakenInPhases) {
  for (int64_t hidden : {256, 16}) {
    Case c = streamable(GetParam());
    c.hidden = hidden;
    c.intermediate = 5376;
    Pair pair(c);
    pair.set_rows(rows_of(4));
    pair.randomize(x_of, 1);
    pair.randomize(h_of, 1);
    pair.run([&](Side& s) { s.ops->add_project({4, 1}, s.buffers.h, s.layer().down_proj); });
    pair.expect_close(x_of, tolerance(c.dtype, 1, c.intermediate + 2), 4 * c.hidden);
  }
}

TEST_P(CudaStream, GateUpIsSiluOfTheGateTimesUp) {
  for (bool bias : {false, true})
    for (int rows : {1, 3})
      for (Case c : streamable(GetParam(), rows)) {
        c.bias = bias;
        Pair pair(c);
        pair.set_rows(rows_of(rows));
        pair.randomize(x_of, 2);
        pair.run([&](Side& s) { s.ops->gate_up({rows, 1}, s.layer()); });
        pair.expect_close(h_of, 2 * tolerance(c.dtype, 3, c.hidden + 16), rows * c.intermediate);
      }
}

TEST_P(CudaStream, LogitsTakeTheRowsThatTheListNames) {
  for (int rows : {1, 2, 4})
    for (const Case& c : streamable(GetParam(), rows)) {
      Pair pair(c);
      pair.set_rows(rows_of(4));
      pair.randomize(x_of, 2);
      pair.set_logit_rows({3, 1, 2, 0});
      pair.run([&](Side& s) { s.ops->logits({4, rows}); });
      pair.expect_close(logits_of, tolerance(c.dtype, 2, c.hidden + 16), rows * c.vocab);
    }
}

// What tune() chooses from: at each row count the streaming form and cuBLASLt's algorithms.
TEST_P(CudaStream, EveryFormOfAProductIsTheCpus) {
  const Case c = streamable(GetParam());
  for (int rows : {2, 4}) {
    const Bucket bucket{rows, rows};
    Pair pair(c);
    Ops& ops = *pair.cuda.ops;
    pair.set_rows(rows_of(rows));
    for (Verb verb : {Verb::Qkv, Verb::OProj, Verb::GateUp, Verb::DownProj, Verb::Logits}) {
      const size_t forms = ops.forms(verb, bucket);
      ASSERT_GE(forms, 2u) << verb_name(verb);
      EXPECT_EQ(ops.form(verb, bucket), 0u) << "nobody has chosen";
      EXPECT_THROW(ops.choose(verb, bucket, forms), Error);
      std::set<std::string> names;
      for (size_t form = 0; form < forms; ++form) {
        ops.choose(verb, bucket, form);
        EXPECT_EQ(ops.form(verb, bucket), form);
        SCOPED_TRACE(ops.kernels(verb, bucket));
        EXPECT_TRUE(names.insert(ops.kernels(verb, bucket)).second) << "another form of that name";
        const auto has = [&](const char* name) {
          return ops.kernels(verb, bucket).find(name) != std::string::npos;
        };
        EXPECT_TRUE(form == 0 ? has("stream_gemm") : has("cublasLt") || has("stream_tiles"));
        pair.embed(rows);
        for (auto view : {x_of, o_of, h_of}) pair.randomize(view, 1);
        switch (verb) {
          case Verb::Qkv:
            pair.run([&](Side& s) { s.ops->qkv(bucket, s.layer()); });
            pair.expect_close(q_of, tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + 16 * 0x1p-23,
                              rows * c.heads * c.head_dim);
            break;
          case Verb::OProj:
            pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj); });
            pair.expect_close(x_of, tolerance(c.dtype, 1, c.heads * c.head_dim + 2), rows * c.hidden);
            break;
          case Verb::GateUp:
            pair.run([&](Side& s) {  // which may begin the norm
              s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj, s.layer().mlp_norm);
              s.ops->gate_up(bucket, s.layer());
            });
            // The composed form rounds gate and up to T as well.
            pair.expect_close(h_of, 2 * tolerance(c.dtype, 5, c.hidden + c.heads * c.head_dim + 16),
                              rows * c.intermediate);
            break;
          case Verb::DownProj:
            pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj); });
            pair.expect_close(x_of, tolerance(c.dtype, 1, c.intermediate + 2), rows * c.hidden);
            break;
          default:
            pair.run([&](Side& s) { s.ops->logits(bucket); });
            pair.expect_close(logits_of, tolerance(c.dtype, 2, c.hidden + 16), rows * c.vocab);
        }
      }
    }
  }
}

// On the executor, whose kernels never overlap, this holds the host side alone; on a GPU the waits too.
TEST_P(CudaStream, EarlyStartsChangeNoBit) {
  for (int rows : {1, 2, 6, 16, 21})
    for (Case c : streamable(GetParam(), rows)) {
      c.rows = std::max(c.rows, rows);
      std::vector<std::vector<float>> found;
      for (bool early : {false, true}) {
        Pair pair(c);
        pair.cuda.ops = make_cuda_ops(pair.cuda.dims, pair.cuda.buffers, pair.cuda.model,
                                      pair.cuda_device().stream(), {true, early});
        pair.set_rows(rows_of(rows));
        pair.embed(rows);
        pair.randomize(x_of, 2);
        pair.fill_pages();
        const Bucket bucket{rows, rows};
        Side& s = pair.cuda;
        for (int layer = 0; layer < 3; ++layer) {
          Layer l = s.layer();
          if (layer > 0) l.attention_norm = l.mlp_norm;  // which the projection before may begin
          s.ops->qkv(bucket, l);
          s.ops->attend(bucket, l);
          s.ops->add_project(bucket, s.buffers.o, l.o_proj, l.mlp_norm);
          s.ops->gate_up(bucket, l);
          s.ops->add_project(bucket, s.buffers.h, l.down_proj, layer < 2 ? l.mlp_norm : View{});
        }
        s.ops->logits(bucket);
        auto logits = s.get(s.buffers.logits);
        logits.resize(static_cast<size_t>(rows * c.vocab));
        found.push_back(logits);
      }
      EXPECT_EQ(found[0], found[1]);
      EXPECT_FALSE(std::isnan(found[0][0]));
    }
}

// How the columns and rows of real models are cut: everything must fit, in as few phases as the memory
// allows.
TEST(StreamGemm, FitsTheShapesOfRealModels) {
  cuda::Queue hopper{nullptr, cuda::Order::early, 132, 227 << 10};
  hopper.bulk_copies = true;
  const cuda::Queue small{nullptr, cuda::Order::after, 84, 99 << 10};  // GPUs of compute capability 8.6
  struct Shape {
    int N, K;
  };
  for (const Shape& s :
       {Shape{6144, 4096}, {4096, 14336}, {1024, 3072}, {2560, 9728}, {128256, 4096}, {151936, 1024}})
    for (int rows = 1; rows <= 4; ++rows) {
      cuda::StreamGemmArgs a{};
      a.N = s.N;
      a.K = s.K;
      a.rows = rows;
      a.output = cuda::StreamOutput::store_f32;
      a.input = cuda::StreamInput::plain;
      ASSERT_TRUE(cuda::stream_gemm_fits(a, hopper)) << s.N << " x " << s.K << ", " << rows << " rows";
      EXPECT_EQ(a.phases * a.phase_columns, s.K);
      EXPECT_EQ(a.phase_columns % 128, 0);
      EXPECT_EQ(cuda::stream_row_fits(a, hopper), rows == 1);
      EXPECT_FALSE(cuda::stream_row_fits(a, small)) << "no bulk copies there";
    }
  cuda::StreamGemmArgs projection{};
  projection.N = projection.K = 4096;
  projection.rows = 1;
  EXPECT_TRUE(cuda::stream_gemm_fits(projection, small));
  cuda::StreamGemmArgs odd{};
  odd.N = 64;
  odd.K = 576;  // no multiple of 128: left to the composed form
  odd.rows = 1;
  EXPECT_FALSE(cuda::stream_gemm_fits(odd, hopper));
}

}  // namespace
}  // namespace rondo::test
