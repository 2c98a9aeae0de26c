// Attention of the CUDA backend against the CPU backend, on the same numbers; where RONDO_SIMT says so, on
// the executor, which runs it in three orders of threads that must agree bit for bit.
#include <gtest/gtest.h>

#include "buffers/cuda_check.h"
#include "tests/cuda_pair.h"

namespace rondo {
namespace {

using test::Case;
using test::CudaTest;
using test::Pair;
using test::Side;
using test::tolerance;

View x_of(Side& s) { return s.buffers.x; }
View q_of(Side& s) { return s.buffers.q; }
View o_of(Side& s) { return s.buffers.o; }

class CudaAttentionTest : public CudaTest {};
class CudaAttention : public CudaAttentionTest, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaAttention, testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(dtype_name(dtype.param)); });

// `multiprocessors`: of the executor's device; 0: as many as it has.
void check_attend(const Case& c, const std::vector<Row>& rows, [[maybe_unused]] int multiprocessors = 0) {
  SCOPED_TRACE(c.text());
  Pair pair(c);
#ifdef RONDO_SIMT
  if (multiprocessors) {
    fake::set_device({.multiprocessors = multiprocessors});
    pair.cuda.ops =
        make_cuda_ops(pair.cuda.dims, pair.cuda.buffers, pair.cuda.model, pair.cuda_device().stream());
  }
#endif
  pair.set_rows(rows);
  pair.fill_pages();
  // One row's q, k and v are made by either verb.
  const bool with_qkv = rows.size() == 1;
  if (with_qkv) pair.embed(1);
  pair.randomize(with_qkv ? x_of : q_of, 1);
  pair.run([&](Side& s) {
    const Bucket bucket{static_cast<int>(rows.size()), 1};
    if (with_qkv) s.ops->qkv(bucket, s.layer());
    s.ops->attend(bucket, s.layer());
  });
  for (size_t r = 0; r < rows.size(); ++r) {
    const int64_t Q = c.heads * c.head_dim,
                  seen = c.window ? std::min<int64_t>(c.window, rows[r].position + 1) : rows[r].position + 1;
    if (rows[r].slot == 0) continue;
    // Two roundings, of the weights (on tensor cores) and of o. Scores are sums over head_dim of size 1 or
    // so, exp takes their error over; then a sum of positions. qkv rounds four times (the norm, the product,
    // the bias or head norm, the result): so far the scores are moved by q, and at its own position by k, o
    // by v.
    const int roundings = with_qkv ? 8 : 2;
    const int64_t terms = (with_qkv ? c.hidden : 0) + c.head_dim + seen + 16;
    pair.expect_close(o_of, tolerance(c.dtype, roundings, terms), Q, static_cast<int64_t>(r) * Q);
  }
  if (with_qkv)
    pair.expect_appended(tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + 16 * 0x1p-23);  // the angles
  if (c.dtype != DType::f32 && c.head_dim % 16 == 0) pair.cuda.expect_no_partial_results();
}

TEST_P(CudaAttention, AttendReadsEveryHeadDimAndGroup) {
  struct Heads {
    int64_t heads, kv_heads, head_dim;
  };
  for (const Heads& h :
       {Heads{2, 2, 8}, Heads{4, 2, 40}, Heads{4, 1, 64}, Heads{8, 1, 128}, Heads{2, 1, 256}, Heads{6, 2, 16},
        Heads{5, 1, 24}, Heads{17, 1, 16}, Heads{36, 2, 8}, Heads{24, 1, 32}, Heads{33, 1, 16}}) {
    Case c;
    c.dtype = GetParam();
    c.heads = h.heads;
    c.kv_heads = h.kv_heads;
    c.head_dim = h.head_dim;
    check_attend(c, {{1, 0, 1, 1}, {1, 37, 2, 1}, {0, 0, 0, 0}});
  }
}

TEST_P(CudaAttention, AttendMeetsPageEdgesSplitsAndWindows) {
  Case c;
  c.dtype = GetParam();
  c.head_dim = 16;
  c.max_context = 200;
  for (int64_t window : {0, 1, 7, 70}) {
    c.window = window;
    check_attend(c, {{1, 7, 1, 1}, {1, 8, 2, 1}, {1, 63, 3, 1}, {1, 64, 4, 1}});
    check_attend(c, {{1, 199, 1, 1}, {1, 127, 2, 1}, {1, 128, 3, 1}});
  }
  c.window = 0;
  check_attend(c, {{1, 199, 3, 1}});
}

// At the first position, at a page's edges, in a window, and where its place in the ring comes round later,
// for which a GPU, with more blocks, wants more positions. Columns that stream_row takes, and others.
TEST_P(CudaAttention, OneRowIsMadeOfWhatTheProductLeaves) {
  struct Heads {
    int64_t heads, kv_heads, head_dim, hidden;
  };
  const auto check = [](const Heads& h, int position) {
    Case c;
    c.dtype = GetParam();
    c.heads = h.heads;
    c.kv_heads = h.kv_heads;
    c.head_dim = h.head_dim;
    c.hidden = h.hidden;
    c.qk_norm = c.bias = position % 2 == 1;
    c.window = position == 63 ? 9 : 0;
    c.max_context = position < 640 ? 640 : 3600;
    check_attend(c, {{1, position, 3, 1}});
  };
  for (const Heads& h : {Heads{4, 2, 64, 256}, Heads{6, 1, 80, 40}, Heads{2, 2, 128, 256},
                         Heads{2, 1, 256, 40}, Heads{17, 1, 16, 512}})
    for (int position : {0, 7, 8, 63, 601}) check(h, position);
#ifndef RONDO_SIMT
  check({16, 8, 128, 256}, 3500);
#endif
}

TEST_P(CudaAttention, AttendServesRowsWithinATile) {
  Case c;
  c.dtype = GetParam();
  c.head_dim = 16;
  for (int64_t window : {0, 5})
    for (int64_t kv_heads : {4, 1}) {  // one tile of four rows; two of two rows
      c.heads = kv_heads == 1 ? 8 : 4;
      c.kv_heads = kv_heads;
      c.window = window;
      check_attend(c, {{1, 10, 1, 3}, {1, 11, 1, 0}, {1, 12, 1, 0}, {0, 0, 0, 0}});
      check_attend(c, {{1, 31, 2, 1}, {1, 32, 2, 1}, {1, 33, 2, 1}, {1, 34, 2, 1}});
      check_attend(c, {{1, 12, 1, 1}, {1, 30, 2, 1}, {1, 31, 2, 1}, {1, 32, 3, 1}});
    }
}

// Positions enough for every warp to go round its ring, for a row of several chunks, and for several such
// rows.
TEST_P(CudaAttention, AttendMergesChunks) {
  Case c;
  c.dtype = GetParam();
  c.heads = 3;
  c.kv_heads = 1;
  c.head_dim = 16;
  c.max_context = 1200;
  c.page_size = 32;
  check_attend(c, {{1, 601, 2, 1}});
  check_attend(c, {{1, 1199, 2, 1}, {1, 5, 1, 1}});
  check_attend(c, {{1, 1197, 2, 1}, {1, 1198, 2, 1}, {1, 1199, 2, 1}});
}

// Keys and values by the copy engine: whole boxes of positions, of which some are not the chunk's, some are
// this step's and one may not be written yet.
class CudaAttentionBoxes : public CudaTest, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaAttentionBoxes, testing::Values(DType::f16, DType::bf16),
                         [](const auto& dtype) { return dtype_name(dtype.param); });

TEST_P(CudaAttentionBoxes, ReachBeyondChunksWindowsAndTheStep) {
  for (auto [head_dim, page_size] : {std::pair{64, 16}, {128, 32}}) {
    Case c;
    c.dtype = GetParam();
    c.hidden = 128;
    c.head_dim = head_dim;
    c.page_size = page_size;
    c.max_context = 1200;
    for (int64_t window : {0, 7, 70}) {
      c.window = window;
      check_attend(c, {{1, 0, 1, 1}, {1, 15, 2, 1}, {1, 16, 3, 1}, {0, 0, 0, 0}});
      check_attend(c, {{1, 199, 1, 1}, {1, 127, 2, 1}, {1, 128, 3, 1}});
      check_attend(c, {{1, 30, 1, 3}, {1, 31, 1, 0}, {1, 32, 1, 0}, {1, 601, 2, 1}});
      for (int position : {0, 7, 15, 16, 63, 601}) {
        c.qk_norm = c.bias = position % 2 == 1;
        check_attend(c, {{1, position, 3, 1}});
      }
    }
    c.window = 0;
    check_attend(c, {{1, 1199, 2, 1}, {1, 5, 1, 1}});
    check_attend(c, {{1, 1197, 2, 1}, {1, 1198, 2, 1}, {1, 1199, 2, 1}});
  }
}

// Blocks have several items each, one behind the other in their rings, and some of those are pieces of a row
// that other blocks have the rest of.
TEST_P(CudaAttentionBoxes, ABlockGoesOnFromItemToItem) {
#ifdef RONDO_SIMT
  const int count = 6, kv_heads = 1, multiprocessors = 8;
#else
  const int count = 40, kv_heads = 8, multiprocessors = 0;
#endif
  for (auto [head_dim, page_size] : {std::pair{64, 16}, {128, 32}}) {
    Case c;
    c.dtype = GetParam();
    c.hidden = 128;
    c.head_dim = head_dim;
    c.kv_heads = kv_heads;
    c.heads = 2 * kv_heads;
    c.page_size = page_size;
    c.max_context = 1200;
    c.rows = count;
    std::vector<Row> rows;
    for (int r = 0; r < count; ++r) rows.push_back({1, r % 3 ? 1199 - 131 * r % 1000 : 1199 - r, 1 + r, 1});
    check_attend(c, rows, multiprocessors);
  }
}

// The last block of every tile leaves its ticket as it found it.
TEST_F(CudaAttentionTest, AttendTwiceMergesTwice) {
  Case c;
  c.dtype = DType::bf16;
  c.kv_heads = 1;
  c.head_dim = 16;
  c.max_context = 256;
  Pair pair(c);
  pair.set_rows({{1, 255, 1, 1}});
  pair.fill_pages();
  pair.embed(1);
  pair.randomize(x_of, 1);
  std::vector<float> first;
  for (int turn = 0; turn < 2; ++turn) {
    Side& s = pair.cuda;
    s.device->fill(s.buffers.o.data, 0xFF, s.buffers.o.bytes());  // NaN, where nobody merges
    s.ops->qkv({1, 1}, s.layer());
    s.ops->attend({1, 1}, s.layer());
    auto o = s.get(s.buffers.o);
    o.resize(static_cast<size_t>(c.heads * c.head_dim));
    if (turn == 0) first = o;
    EXPECT_EQ(o, first);
    EXPECT_FALSE(std::any_of(o.begin(), o.end(), [](float v) { return std::isnan(v); }));
    s.expect_no_partial_results();
  }
}

}  // namespace
}  // namespace rondo
