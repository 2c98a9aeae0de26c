// What the kernel needs.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention_merge.h"
#include "kernels/cuda/attention_rings.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/raw_heads.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kPairs = 16;        // (row, query head) of a tile: the 16 side of an m16n8k16 product
constexpr int kLongChunk = 1024;  // positions; longer chunks may be cut
constexpr float kLog2E = 1.44269504f;

// How many query heads and rows a tile has, which is the same for all but the last heads of a large group,
// and how many tiles there are.
struct TileShape {
  int heads;
  int rows;
  int rows_per_pair;     // times 2^16, rounded up: 1 / heads, or 0 where a tile has one row
  int per_kv_head;       // for one chunk of a row's positions, of one K/V head
  int per_chunk;         // of all K/V heads
  float chunks_per_one;  // 1 / per_chunk

  __device__ __forceinline__ int row_of(int pair) const { return pair * rows_per_pair >> 16; }
};

// The state of an online softmax for the lane's two pairs, g and g + 8: the largest score, the lane's share
// of the sum of 2^(score - m). Scores are in units of log 2.
struct Softmax {
  float m[2];
  float l[2];
};

// What a block takes at a time: a tile's chunk, for the query heads of one K/V head, or some of a large
// group.
struct Item {
  Chunk chunk;
  const int32_t* table;  // of the sequence's pages
  int kv_head;
  int first_head;
  int heads;

  __device__ __forceinline__ int pairs() const { return heads * chunk.tile.rows; }
  // Turns in which the block's warps take `stride` positions together.
  __device__ __forceinline__ int turns(int stride) const {
    return chunk.pieces ? ceil_div(chunk.end - chunk.begin, stride) : 0;
  }
};

// Makes the chunk's query heads, from `first_head` on, and where it is the tile's last, which has this step's
// position, the new key and value of the K/V head. By all threads; seen after a barrier. What it can know
// before the kernel before has ended it asks for before, and waits where nobody has.
// `new_heads`: where the new key and value go in shared memory, given a head_dim of kMaxDim; where null, to
// the ring.
template <class T, int kMaxDim>
__device__ __forceinline__ void make_heads(const AttentionArgs& a, const RopeAppendArgs& raw,
                                           const Chunk& chunk, const Row& row, int kv_head, int first_head,
                                           int pairs, T* rings, T* queries, T* new_heads, bool& waited) {
  using WarpRing = Ring<T, kMaxDim>;
  constexpr int kStride = kWarps * kPositions;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  using Heads = RawHeads<T, kMaxDim>;
  Heads heads_of_row(raw, row_rope(a.rope, row, a.slots, a.head_dim), row.position, lane);
  const bool makes_new = chunk.index == chunk.pieces - 1;
  // Its tasks: the pairs, then the new key and value.
  const int tasks = pairs + (makes_new ? 2 : 0);
  const auto head_of = [&](int task) {
    return task < pairs ? first_head + task : a.heads + (task - pairs) * a.kv_heads + kv_head;
  };
  const auto load_early = [&](int task) {
#pragma unroll
    for (int k = 0; k < Heads::kTogether; ++k)
      if (task + k * kWarps < tasks) heads_of_row.load_early(k, head_of(task + k * kWarps));
  };
  load_early(warp);
  const int64_t place = makes_new ? page_place(a.map, row, kv_head, a.kv_heads) * a.head_dim : 0;
  const int behind = row.position - chunk.begin, turn = behind / kStride;
  const WarpRing newest{rings + behind / kPositions % kWarps * WarpRing::kElements};
  __syncthreads();
  if (!waited) wait_for_previous();
  waited = true;
#pragma unroll 1
  for (int task = warp; task < tasks;) {
    typename Heads::Loaded x[Heads::kTogether];
#pragma unroll
    for (int k = 0; k < Heads::kTogether; ++k)
      if (task + k * kWarps < tasks) heads_of_row.load(head_of(task + k * kWarps), x[k]);
#pragma unroll
    for (int k = 0; k < Heads::kTogether; ++k) {
      const int which = task + k * kWarps - pairs;
      if (which >= tasks - pairs) continue;
      T* to = queries + (which + pairs) * WarpRing::kRow;
      T* page = nullptr;
      if (which >= 0) {
        page = static_cast<T*>(which ? raw.v_pages : raw.k_pages) + place;
        // A position that the ring has not come to yet is fetched from its page.
        to = page;
        if (new_heads)
          to = new_heads + which * kMaxDim;
        else if (turn < kStages<kMaxDim>)
          to = (which ? newest.values(turn) : newest.keys(turn)) + behind % kPositions * WarpRing::kRow;
      }
      heads_of_row.make(k, head_of(which + pairs), x[k], to, page);
    }
    task += Heads::kTogether * kWarps;
    if (task < tasks) load_early(task);
  }
}

// The kernel.
//
// o = softmax(q k^T / sqrt(head_dim)) v, split over positions (Milakov and Gimelshein, "Online normalizer
// calculation for softmax"; Dao et al., "Flash-Decoding for long-context inference"), products on tensor
// cores. q, o [R, Q]; K and V pages [pages, kv_heads, page_size, head_dim]; a position's page is
// page_tables[slot][position / page_size]. head_dim: a multiple of 16, up to kMaxDim.
//
// A tile is up to 16 pairs of a row and a query head that share a K/V head; its positions are cut into
// chunks. A block, of 4 warps, takes items (chunk, K/V head) in turn; its warps take 16 positions at a time
// in turn, from rings of their own in shared memory, which are filled before the wait as far as earlier steps
// wrote what they hold. S = q k^T has pairs as the 16 side and positions as the 8 side; the weights 2^(s - m)
// of two such products are, as they lie in registers, the 16 x 16 side of o = p v. The warps' results are
// merged in shared memory. A tile of one chunk gets its o here; otherwise partial_o [R, S, heads, head_dim]
// and partial_ml [R, S, heads, 2] (maximum, sum) are written, and merged in the order of the chunks by the
// block that draws the tile's last ticket, or where each block has one chunk, by the last chunk's.
//
// kRaw: the step is one row, and its q, k and v are as the product left them. Each block makes the query
// heads that it needs, and who has the last chunk of a K/V head its new key and value, which go to the page
// too.
//
// kCopied: keys and values come by the copy engine.
template <class T, int kMaxDim, bool kRaw, bool kCopied>
__global__ void __launch_bounds__(kThreads, 2)
    attention_tiles_kernel(const AttentionArgs a, const TileShape shape, const RopeAppendArgs raw,
                           RONDO_GRID_CONSTANT const PageCopies pages) {
  constexpr int kSteps = kMaxDim / 16;
  constexpr int kRow = kMaxDim + kPadding;
  using WarpRing = std::conditional_t<kCopied, CopiedRing<T, kMaxDim>, Ring<T, kMaxDim>>;
  RONDO_TILE_SHARED(shared);
  T* const rings = reinterpret_cast<T*>(shared);                               // [kWarps, WarpRing]
  T* const queries = rings + kWarps * WarpRing::kElements;                     // [kPairs, kRow]
  float* const warp_ml = reinterpret_cast<float*>(queries + kPairs * kRow);    // [kWarps, kPairs, 2]
  int* const arrived = reinterpret_cast<int*>(warp_ml + kWarps * kPairs * 2);  // [1], and kCopied alone:
  T* const new_heads = kCopied ? reinterpret_cast<T*>(arrived + 4) : nullptr;  // [2, kMaxDim]
  let_next_start();

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  WarpRing ring{rings + warp * WarpRing::kElements};
  if constexpr (kCopied) {
    ring.landed = reinterpret_cast<Landing*>(new_heads + 2 * kMaxDim) + warp * kStages<kMaxDim>;
    if (lane == 0) ring.prepare();
    __syncwarp();
  }
  const int group = a.group;
  const float scale = kLog2E / sqrtf(static_cast<float>(a.head_dim));
  Cursor cursor;
  bool waited = false;

  const auto item_at = [&](int index) {
    const int number = quotient(index, shape.chunks_per_one), rest = index - number * shape.per_chunk;
    Item item{};
    item.chunk = kRaw ? chunk_of_one_row(a, number) : cursor.chunk(a, shape.rows, number, lane);
    if (!item.chunk.pieces) return item;
    item.kv_head = shape.per_kv_head == 1 ? rest : rest / shape.per_kv_head;
    const int first_in_group = (rest - item.kv_head * shape.per_kv_head) * shape.heads;
    item.first_head = item.kv_head * group + first_in_group;
    item.heads = group - first_in_group < shape.heads ? group - first_in_group : shape.heads;
    item.table = a.map.page_tables + item.chunk.tile.slot * a.map.pages_per_slot;
    return item;
  };
  constexpr int kStride = kWarps * kPositions;

  // Of many items, by the copy engine: the ring runs on from one to the next, whose first turns are on their
  // way while results are merged. But for the stage of an item's last turn, which has the results until then.
  constexpr bool kRunsOn = kCopied && !kRaw;
  constexpr int kAll = kStages<kMaxDim>;
  const auto after = [](int stage) { return stage + 1 == kAll ? 0 : stage + 1; };
  int stage = 0, empty = 0;          // of the turn that comes next, and of the one that is asked for next
  int asked = 0, asked_of_next = 0;  // turns of the item, and of the one behind it

  // What is waited for longest is asked for early: where the ring runs on, the queries of an item while the
  // one before is multiplied; and a ticket's answer, which is looked at when the item behind it is done.
  constexpr int kLanes = kMaxDim / 8;  // of a query
  constexpr int kQueries = kPairs * kLanes / kThreads;
  uint4 queries_of_next[kQueries];
  const auto ask_for_queries = [&](const Item& of) {
#pragma unroll
    for (int j = 0; j < kQueries; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * kThreads, m = i / kLanes, dim = i % kLanes * 8,
                row = shape.row_of(m);
      queries_of_next[j] = make_uint4(0, 0, 0, 0);
      if (m >= of.pairs() || dim >= a.head_dim) continue;
      const int64_t r = of.chunk.tile.first + row, head = of.first_head + m - row * of.heads;
      queries_of_next[j] =
          load_raw8(static_cast<const T*>(a.q) + (r * a.heads + head) * a.head_dim + dim).words[0];
    }
  };
  const auto take_queries = [&] {
#pragma unroll
    for (int j = 0; j < kQueries; ++j) {
      const int i = static_cast<int>(threadIdx.x) + j * kThreads;
      *reinterpret_cast<uint4*>(queries + i / kLanes * kRow + i % kLanes * 8) = queries_of_next[j];
    }
  };
  Item cut{};      // whose ticket was drawn, and is not looked at yet; or without pieces
  int drawn = -1;  // by thread 0
  const auto merge = [&](const Item& of) {
#pragma unroll 1
    for (int m = warp; m < of.pairs(); m += kWarps) {
      const int row = shape.row_of(m);
      merge_pieces<T, kMaxDim>(a, of.chunk.tile.first + row, of.first_head + m - row * of.heads,
                               of.chunk.pieces, lane);
    }
  };
  const auto ticket_of = [&](const Item& of) {
    return a.tickets + (static_cast<int64_t>(of.chunk.tile.first) * a.heads + of.first_head);
  };
  // Behind a barrier behind `*arrived = drawn`: whether the block's piece was the tile's last to come.
  const auto merge_if_last = [&] {
    if (!cut.chunk.pieces || *arrived != cut.chunk.pieces - 1) return;
    if (threadIdx.x == 0) *ticket_of(cut) = 0;  // as the next attention finds it
    merge(cut);
  };

  int index = static_cast<int>(blockIdx.x);
  Item item = item_at(index), next{};
  for (; item.chunk.pieces; item = kRunsOn || kRaw ? next : item_at(index)) {
    const Chunk& chunk = item.chunk;
    const int first_position = chunk.tile.position();
    const int kv_head = item.kv_head, first_head = item.first_head, heads = item.heads, pairs = item.pairs();
    const int32_t* const table = item.table;
    index += static_cast<int>(gridDim.x);

    // What earlier steps wrote need not wait for the kernel before; what this step wrote must.
    AsyncCopies copies;
    const int begin = chunk.begin + warp * kPositions;
    const int turns = item.turns(kStride);
    const auto ask = [&] {
      const bool own = asked < turns;
      if (!own && asked_of_next >= next.turns(kStride)) return false;
      const int at = (own ? item.chunk.begin : next.chunk.begin) +
                     ((own ? asked++ : asked_of_next++) * kWarps + warp) * kPositions;
      if constexpr (kRunsOn)
        if (lane == 0 && at < (own ? item.chunk.end : next.chunk.end))
          ring.fetch(a, pages, own ? item.table : next.table, own ? item.kv_head : next.kv_head, empty, at);
      empty = after(empty);
      return true;
    };
    if constexpr (kRunsOn)
      asked = asked_of_next, asked_of_next = 0;
    else
      stage = 0;
    // Positions at .. at + 15, as far as they lie in [from, to); by the copy engine, all of them at once.
    const auto fetch = [&](int into, int at, int from, int to) {
      if (at >= chunk.end || from >= to) return;
      if constexpr (kCopied) {
        if (lane == 0) ring.fetch(a, pages, table, kv_head, into, at);
      } else {
        ring.fetch(copies, a, chunk, table, kv_head, into, at, from, to, lane);
      }
    };
    // What lies in [from, to) of all stages. A stage of the copy engine's comes when all of its positions do.
    const auto fill = [&](int from, int to, bool commit) {
#pragma unroll 1
      for (int n = 0; n < kAll; ++n) {
        const int at = begin + n * kStride;
        if constexpr (kCopied) {
          const int last = at + kPositions < chunk.end ? at + kPositions : chunk.end;
          if (from < last && last <= to) fetch(n, at, from, to);
        } else {
          if (from < at + kPositions) fetch(n, at, from, to);
          if (commit) copies.commit();
        }
      }
    };
    const bool first = !waited;
    if constexpr (kRaw) {
      for (int i = static_cast<int>(threadIdx.x); i < kPairs * kRow / 8; i += kThreads)
        reinterpret_cast<uint4*>(queries)[i] = make_uint4(0, 0, 0, 0);
#pragma unroll 1
      for (int n = 0; n < kAll; ++n) {
        const int at = begin + n * kStride;
        if constexpr (kCopied)
          fetch(n, at, 0, 1);  // the new position's place is filled by settle()
        else if (at < chunk.end)
          ring.fetch(copies, a, chunk, table, kv_head, n, at, 0, first_position, lane);
        copies.commit();
      }
      make_heads<T, kMaxDim>(a, raw, chunk, row_at(a, 0), kv_head, first_head, pairs, rings, queries,
                             new_heads, waited);
    } else {
      if (first || !kRunsOn) {
        const int old = first ? first_position_of_step(a, chunk.tile.slot, lane) : 0;
        if (first) {
          fill(0, chunk.end < old ? chunk.end : old, false);
          wait_for_previous();
          waited = true;
        }
        // They are asked for before this step's keys and values, whose page has to be looked up first.
        ask_for_queries(item);
        fill(old, chunk.end, true);
        take_queries();
        asked = turns < kAll ? turns : kAll, empty = asked == kAll ? 0 : asked;
      }
      if constexpr (kRunsOn) {
        next = item_at(index);
        for (int on_their_way = asked; on_their_way < kAll && ask();) ++on_their_way;
        ask_for_queries(next);
      }
    }
    if (first || !kRunsOn)
      __syncthreads();  // the queries are there, and else have been since the item before

    // Of a pair that is not there, anything at all: its results meet no other's.
    int row_end[2], row_begin[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int position = first_position + shape.row_of(g + 8 * h);
      row_end[h] = position + 1;
      row_begin[h] = window_begin(a, position);
    }
    const T* const query = queries + (lane / 8 % 2 * 8 + lane % 8) * kRow + lane / 16 * 8;
    const int key_at = WarpRing::lane_at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const int value_at = WarpRing::lane_at(lane / 8 % 2 * 8 + lane % 8, lane / 16);
    const bool has_new = kRaw && kCopied && chunk.index == chunk.pieces - 1;
    const T* const type = nullptr;

    Softmax state{{-INFINITY, -INFINITY}, {0, 0}};
    float o[2 * kSteps][4];
#pragma unroll
    for (int n = 0; n < 2 * kSteps; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] = 0;

#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn, stage = after(stage)) {
      const int at = begin + turn * kStride;
      if (at >= chunk.end) continue;  // it is the last
      if constexpr (kCopied) {
        ring.settle(stage, at, chunk, has_new ? new_heads : nullptr, first_position, lane);
      } else {
        copies.wait<kStages<kMaxDim> - 1>();
        __syncwarp();
      }
      float s[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const uint4 q = load_matrices(query + 16 * k),
                    w = load_matrices(ring.keys(stage) + WarpRing::further(key_at, k));
        mma(s[0], q, make_uint2(w.x, w.y), type);
        mma(s[1], q, make_uint2(w.z, w.w), type);
      }
      float keep[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = state.m[h];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int p = at + 8 * n + 2 * t + j;
            float& score = s[n][2 * h + j];
            score = p >= row_begin[h] && p < row_end[h] && p < chunk.end ? score * scale : -INFINITY;
            top = fmaxf(top, score);
          }
        top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 2));
        const float anchor = reference(top);
        keep[h] = exp2f(state.m[h] - anchor);
        state.m[h] = top;
        state.l[h] *= keep[h];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            s[n][2 * h + j] = exp2f(s[n][2 * h + j] - anchor);
            state.l[h] += s[n][2 * h + j];
          }
      }
      if (__any_sync(kFullWarp, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < 2 * kSteps; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) o[n][i] *= keep[i / 2];
      }
      const uint4 p = make_uint4(narrow2(s[0][0], s[0][1], type), narrow2(s[0][2], s[0][3], type),
                                 narrow2(s[1][0], s[1][1], type), narrow2(s[1][2], s[1][3], type));
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const uint4 v = load_matrices_transposed(ring.values(stage) + WarpRing::further(value_at, k));
        mma(o[2 * k], p, make_uint2(v.x, v.y), type);
        mma(o[2 * k + 1], p, make_uint2(v.z, v.w), type);
      }
      __syncwarp();  // before the stage is overwritten
      if constexpr (kRunsOn) {
        if (turn + 1 < turns) ask();
      } else {
        fetch(stage, at + kAll * kStride, 0, chunk.end);
        copies.commit();
      }
    }
    copies.wait<0>();
    __syncwarp();

    // The warps' results, [kPairs, kMaxDim] each.
    const int results_stage = !kRunsOn ? 0 : stage == 0 ? kAll - 1 : stage - 1;
    const auto results = [&](int of_warp) {
      return reinterpret_cast<float*>(rings + of_warp * WarpRing::kElements +
                                      results_stage * WarpRing::kStage);
    };
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int m = g + 8 * h;
      state.l[h] += __shfl_xor_sync(kFullWarp, state.l[h], 1);
      state.l[h] += __shfl_xor_sync(kFullWarp, state.l[h], 2);
      if (m >= pairs) continue;  // no collective follows
      if (t == 0) {
        warp_ml[(warp * kPairs + m) * 2] = state.m[h];
        warp_ml[(warp * kPairs + m) * 2 + 1] = state.l[h];
      }
#pragma unroll
      for (int n = 0; n < 2 * kSteps; ++n)
        *reinterpret_cast<float2*>(results(warp) + m * kMaxDim + 8 * n + 2 * t) =
            make_float2(o[n][2 * h], o[n][2 * h + 1]);
    }
    if (!kRaw && threadIdx.x == 0) *arrived = drawn;
    __syncthreads();

    // Four neighbouring dimensions of a pair each.
    constexpr int kQuads = kMaxDim / 4;
    const bool whole = chunk.pieces == 1;
    for (int i = static_cast<int>(threadIdx.x); i < pairs * kQuads; i += kThreads) {
      const int m = i / kQuads, d = i % kQuads * 4, row = shape.row_of(m);
      if (d >= a.head_dim) continue;
      float top = -INFINITY, l = 0, sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, warp_ml[(w * kPairs + m) * 2]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float weight = exp2f(warp_ml[(w * kPairs + m) * 2] - reference(top));
        float v[4];
        load4(results(w) + m * kMaxDim + d, v);
        l += weight * warp_ml[(w * kPairs + m) * 2 + 1];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += weight * v[j];
      }
      const int r = chunk.tile.first + row, head = first_head + m - row * heads;
      if (whole) {
        const float scale_back = 1.0f / l;
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] *= scale_back;
        store4(static_cast<T*>(a.o) + (static_cast<int64_t>(r) * a.heads + head) * a.head_dim + d, sum);
      } else {
        const int64_t at = piece_at(a, r, chunk.index, head);
        store_words(reinterpret_cast<float4*>(a.partial_o + at * a.head_dim + d),
                    make_float4(sum[0], sum[1], sum[2], sum[3]));
        if (d == 0) store_words(reinterpret_cast<float2*>(a.partial_ml) + at, make_float2(top, l));
      }
    }
    if constexpr (kRaw) {
      // Each block has one chunk: the last one's takes the others' results as they come.
      __syncthreads();
      if (!whole && chunk.index == chunk.pieces - 1) merge(item);
    } else {
      merge_if_last();
      if constexpr (kRunsOn) take_queries();
      if constexpr (kCopied) order_before_copies();  // the results' place is the next item's ring
      __syncthreads();  // before the next item's results, and all partial results are written
      if constexpr (kRunsOn) ask();
      cut = {};
      if (!whole) {
        cut = item;
        if (threadIdx.x == 0) drawn = draw_ticket(ticket_of(item));
      }
    }
  }
  if constexpr (!kRaw) {
    if (threadIdx.x == 0) *arrived = drawn;
    __syncthreads();
    merge_if_last();
  }
  if (!waited) wait_for_previous();  // nobody may take this kernel for done before the one before it is
}

template <class T, int kMaxDim, bool kCopied>
void enqueue(const AttentionArgs& args, const TileShape& shape, const RopeAppendArgs* raw, Queue& queue) {
  using WarpRing = std::conditional_t<kCopied, CopiedRing<T, kMaxDim>, Ring<T, kMaxDim>>;
  const auto bytes =
      static_cast<size_t>(kWarps * WarpRing::kElements + kPairs * (kMaxDim + kPadding)) * sizeof(T) +
      kWarps * kPairs * 2 * sizeof(float) + 16 +
      (kCopied ? 2 * kMaxDim * sizeof(T) + kWarps * kStages<kMaxDim> * sizeof(Landing) : 0);
  PageCopies pages{};
  if constexpr (kCopied) {
    const int64_t row = kMaxDim * int64_t{sizeof(T)};
    const int64_t rows = (args.pages * args.kv_heads) << args.map.page_shift;
    const auto map = [&](const void* base) {
      return make_tile_map(base, {rows, kMaxDim / 64, 1, 1}, {row, 128, row, row},
                           {kPositions, kMaxDim / 64, 1, 1});
    };
    pages = {map(args.k_pages), map(args.v_pages)};
  }
  if (raw)
    return launch_spread<Blocks::wait_for_lower>(queue, attention_tiles_kernel<T, kMaxDim, true, kCopied>,
                                                 dim3(kThreads), bytes, args, shape, *raw, pages);
  const auto kernel = attention_tiles_kernel<T, kMaxDim, false, kCopied>;
  if (args.look_ahead)
    return launch_spread(queue, kernel, dim3(kThreads), bytes, args, shape, RopeAppendArgs{}, pages);
  // Many rows are work enough for two blocks on each multiprocessor.
  allow_shared(kernel, queue.shared_limit);
  launch(queue, kernel, dim3(static_cast<unsigned>(2 * queue.multiprocessors)), dim3(kThreads), bytes, args,
         shape, RopeAppendArgs{}, pages);
}

}  // namespace

// The launcher.

bool attention_tiles_fit(DType dtype, int head_dim) {
  return dtype != DType::f32 && head_dim % 16 == 0 && head_dim <= 256;
}

void enqueue_attention_tiles(DType dtype, const AttentionArgs& asked, Queue& queue,
                             const RopeAppendArgs* raw) {
  AttentionArgs args = asked;
  const int group = args.heads / args.kv_heads, heads = std::min(group, kPairs), rows = kPairs / heads;
  const int per_kv_head = (group + heads - 1) / heads, per_chunk = args.kv_heads * per_kv_head;
  constexpr int kMostPerChunk = 512;  // quotient() is exact with so many, at any length
  if (per_chunk > kMostPerChunk)
    throw Error(
        ErrorKind::InvalidArgument,
        "attention: expected at most 512 groups of up to 16 query heads that share a K/V head, found " +
            std::to_string(per_chunk));
  // As many chunks as blocks where there are few rows. Where there are many, a chunk is cut further: one long
  // row among short ones is not left to a few blocks, but gives at least half of the multiprocessors work.
  // Not further than that, for longer chunks are read faster. No more than `capacity` of them either way.
  const int blocks = (args.look_ahead ? 1 : 2) * queue.multiprocessors;
  args.splits = std::clamp(blocks / (args.rows_in_step * per_chunk), 1, args.capacity);
  args.pieces = std::clamp(queue.multiprocessors / 2 / per_chunk, 1, args.capacity);
  const int positions = static_cast<int>(args.map.pages_per_slot << args.map.page_shift) + kPositions;
  args.long_chunk = args.rows_in_step == 1
                        ? positions
                        : std::max(kLongChunk, (positions + args.capacity - 1) / args.capacity);
  args.group = group;
  args.per_split = 1.0f / static_cast<float>(args.splits);
  args.per_piece = 1.0f / static_cast<float>(args.pieces);
  const TileShape shape{heads,       rows,      rows == 1 ? 0 : (65536 + heads - 1) / heads,
                        per_kv_head, per_chunk, 1.0f / static_cast<float>(per_chunk)};
  const bool copied = queue.tiles && 1 << args.map.page_shift >= kPositions &&
                      (args.pages * args.kv_heads) << args.map.page_shift <= INT32_MAX;
  const auto pick = [&]<class T>(T*) {
    if (copied && args.head_dim == 64)
      enqueue<T, 64, true>(args, shape, raw, queue);
    else if (copied && args.head_dim == 128)
      enqueue<T, 128, true>(args, shape, raw, queue);
    else if (args.head_dim <= 64)
      enqueue<T, 64, false>(args, shape, raw, queue);
    else if (args.head_dim <= 128)
      enqueue<T, 128, false>(args, shape, raw, queue);
    else
      enqueue<T, 256, false>(args, shape, raw, queue);
  };
  if (dtype == DType::bf16)
    pick(static_cast<__nv_bfloat16*>(nullptr));
  else
    pick(static_cast<__half*>(nullptr));
}

}  // namespace rondo::cuda
