// Where a warp of attention_tiles.cu has the keys and values that it works on: a ring of stages in shared
// memory, filled by its lanes' asynchronous copies or by the copy engine.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_schedule.h"
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"

namespace rondo::cuda {

constexpr int kPadding = 8;  // elements behind a row in shared memory: eight rows lie in different banks

// The pages of a layer as the copy engine takes boxes of positions from them.
struct PageCopies {
  TileMap keys;
  TileMap values;
};

template <int kMaxDim>
constexpr int kStages = kMaxDim <= 64    ? 6
                        : kMaxDim <= 128 ? 3
                                         : 2;

// One warp's ring of keys and values: kStages stages of kPositions positions. A lane copies 8 dimensions of
// every kMaxDim / 256-th position.
template <class T, int kMaxDim>
struct Ring {
  // Where in a stage's keys or values a lane's 16 bytes lie that load_matrices() is to read, of 16 dimensions
  // from 0 on in row `row`; and of 16 dimensions k times further.
  static __device__ __forceinline__ int lane_at(int row, int half) { return row * kRow + half * 8; }
  static __device__ __forceinline__ int further(int at, int k) { return at + 16 * k; }

  static constexpr int kLanes = kMaxDim / 8, kPerTurn = 32 / kLanes;
  static constexpr int kRow = kMaxDim + kPadding;       // elements
  static constexpr int kStage = 2 * kPositions * kRow;  // keys, then values
  static constexpr int kElements = kStages<kMaxDim> * kStage;

  T* base;

  __device__ __forceinline__ T* keys(int stage) const { return base + stage * kStage; }
  __device__ __forceinline__ T* values(int stage) const { return keys(stage) + kPositions * kRow; }

  // Positions at .. at + 15, as far as they lie in [from, to). Values outside of [begin, end) are made 0, so
  // that a weight of 0 makes nothing of them, and so are the dimensions that there are not.
  __device__ __forceinline__ void fetch(AsyncCopies& copies, const AttentionArgs& a, const Chunk& chunk,
                                        const int32_t* table, int kv_head, int stage, int at, int from,
                                        int to, int lane) const {
    const int dim = lane % kLanes * 8, in_page = (1 << a.map.page_shift) - 1;
    // The positions lie in one page, unless pages are shorter.
    int64_t first = 0;
#pragma unroll
    for (int turn = 0; turn < kPositions / kPerTurn; ++turn) {
      const int i = turn * kPerTurn + lane / kLanes, p = at + i;
      T* const key = keys(stage) + i * kRow + dim;
      T* const value = values(stage) + i * kRow + dim;
      if (dim >= a.head_dim) {
        *reinterpret_cast<uint4*>(key) = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(value) = make_uint4(0, 0, 0, 0);
        continue;
      }
      if (p < chunk.tile.begin || p >= chunk.end) *reinterpret_cast<uint4*>(value) = make_uint4(0, 0, 0, 0);
      if (turn == 0 || in_page < kPositions - 1) {
        const int known = p < to ? p : to > 0 ? to - 1 : 0;
        first = ((table[known >> a.map.page_shift] * static_cast<int64_t>(a.kv_heads) + kv_head)
                 << a.map.page_shift) *
                    a.head_dim +
                dim;
      }
      if (p < from || p < chunk.tile.begin || p >= to) continue;
      const int64_t element = first + (p & in_page) * a.head_dim;
      copies.copy16(key, static_cast<const T*>(a.k_pages) + element);
      copies.copy16(value, static_cast<const T*>(a.v_pages) + element);
    }
  }
};

// The same by the copy engine, for a head_dim of kMaxDim and pages of at least kPositions positions: a
// stage's keys, and its values, are one box, of 64 dimensions of all 16 positions, then of the next 64, in
// the engine's swizzle. A stage has whatever its positions' pages hold; settle() makes of it what it should
// hold.
template <class T, int kMaxDim>
struct CopiedRing {
  static constexpr int kTensor = kPositions * kMaxDim, kStage = 2 * kTensor;  // elements
  static constexpr int kElements = kStages<kMaxDim> * kStage;
  static constexpr int kBlock = 64 * kPositions;

  T* base;
  Landing* landed = nullptr;  // [kStages]
  unsigned parities = 0;      // of each stage's next use, a bit each

  static __device__ __forceinline__ int lane_at(int row, int half) { return row * 64 + (half ^ row % 8) * 8; }
  static __device__ __forceinline__ int further(int at, int k) { return (at ^ k % 4 * 16) + k / 4 * kBlock; }
  // Of piece `piece` of eight dimensions.
  static __device__ __forceinline__ int piece_at(int row, int piece) {
    return piece / 8 * kBlock + row * 64 + (piece % 8 ^ row % 8) * 8;
  }

  __device__ __forceinline__ T* keys(int stage) const { return base + stage * kStage; }
  __device__ __forceinline__ T* values(int stage) const { return keys(stage) + kTensor; }

  // One lane, before anyone waits.
  __device__ __forceinline__ void prepare() const {
#pragma unroll
    for (int stage = 0; stage < kStages<kMaxDim>; ++stage) prepare_landing(landed + stage);
    prepare_landings_done();
  }
  // One lane: positions at .. at + 15.
  __device__ __forceinline__ void fetch(const AttentionArgs& a, const PageCopies& pages, const int32_t* table,
                                        int kv_head, int stage, int at) const {
    const int in_page = (1 << a.map.page_shift) - 1;
    const int row =
        ((table[at >> a.map.page_shift] * a.kv_heads + kv_head) << a.map.page_shift) + (at & in_page);
    expect_bytes(landed + stage, kStage * sizeof(T));
    copy_tile(keys(stage), pages.keys, row, 0, 0, 0, landed + stage, false);
    copy_tile(values(stage), pages.values, row, 0, 0, 0, landed + stage, false);
  }
  // All lanes: waits for the stage, which holds positions at .. at + 15, makes values outside of the chunk 0,
  // so that a weight of 0 makes nothing of them, and puts `newest`, this step's key and value, at its
  // position.
  __device__ __forceinline__ void settle(int stage, int at, const Chunk& chunk, const T* newest, int position,
                                         int lane) {
    wait_landed(landed + stage, static_cast<int>(parities >> stage & 1));
    parities ^= 1u << stage;
    const bool edge = at < chunk.tile.begin || at + kPositions > chunk.end;
    const bool has_newest = newest && position < at + kPositions;
    if (!edge && !has_newest) return;
#pragma unroll 1
    for (int i = lane; edge && i < kPositions * kMaxDim / 8; i += 32) {
      const int row = i % kPositions, p = at + row;
      if (p < chunk.tile.begin || p >= chunk.end)
        *reinterpret_cast<uint4*>(values(stage) + piece_at(row, i / kPositions)) = make_uint4(0, 0, 0, 0);
    }
    if (has_newest)
      for (int i = lane; i < 2 * kMaxDim / 8; i += 32) {
        T* const to = i < kMaxDim / 8 ? keys(stage) : values(stage);
        *reinterpret_cast<uint4*>(to + piece_at(position - at, i % (kMaxDim / 8))) =
            reinterpret_cast<const uint4*>(newest)[i];
      }
    order_before_copies();
    __syncwarp();
  }
};

}  // namespace rondo::cuda
