// Which rows go together in attention, and how their positions are cut: every warp computes it from the live
// rows, so that the grid can stay what the bucket made it.
#pragma once

#include <cstdint>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/share.h"

namespace rondo::cuda {

constexpr int kPositions = 16;  // that a warp takes at a time
constexpr int kMinChunk = 64;   // positions below which a chunk is not worth its merge

// Adjacent rows of one sequence at adjacent positions, whose queries meet the same keys.
struct Tile {
  int first;
  int rows;   // 0: padding, nobody asks for it
  int begin;  // positions that one of its rows attends to
  int end;
  int slot;

  __device__ __forceinline__ int position() const { return end - rows; }  // of the first row
  __device__ __forceinline__ int first_turn() const { return begin / kPositions * kPositions; }
  __device__ __forceinline__ int length() const { return end - first_turn(); }
};

// A row of the step in one load.
__device__ __forceinline__ Row row_at(const AttentionArgs& a, int r) {
  const uint4 v = reinterpret_cast<const uint4*>(a.rows)[r];
  return {static_cast<int32_t>(v.x), static_cast<int32_t>(v.y), static_cast<int32_t>(v.z),
          static_cast<int32_t>(v.w)};
}

__device__ __forceinline__ int window_begin(const AttentionArgs& a, int position) {
  const int end = position + 1;
  return a.sliding_window > 0 && end > a.sliding_window ? end - static_cast<int>(a.sliding_window) : 0;
}

// The tile that starts with row r; one without rows where r belongs to a tile that started before it.
// `tile_rows`: the most that a tile may have; one starts anew at every multiple of it.
__device__ __forceinline__ Tile tile_at(const AttentionArgs& a, int r, int tile_rows) {
  const Row row = row_at(a, r);
  if (row.slot == 0) return {r, 0, 0, 0, 0};
  if (r % tile_rows) {
    const Row before = row_at(a, r - 1);
    if (before.slot == row.slot && before.position + 1 == row.position) return {r, 0, 0, 0, 0};
  }
  int rows = 1;
#pragma unroll 1
  while ((r + rows) % tile_rows && r + rows < a.rows_in_step) {
    const Row next = row_at(a, r + rows);
    if (next.slot != row.slot || next.position != row.position + rows) break;
    ++rows;
  }
  return {r, rows, window_begin(a, row.position), row.position + rows, row.slot};
}

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Positions of each of a tile's chunks, the last one's fewer. It depends on the tile and the bucket alone:
// what other sequences hold changes no bit of a row.
__device__ __forceinline__ int chunk_length(const AttentionArgs& a, const Tile& tile) {
  int chunk = quotient(tile.length() + a.splits - 1, a.per_split);
  int longest = quotient(tile.length() + a.pieces - 1, a.per_piece);
  if (longest < a.long_chunk) longest = a.long_chunk;
  if (chunk > longest) chunk = longest;
  if (chunk < kMinChunk) chunk = kMinChunk;
  return ceil_div(chunk, kPositions) * kPositions;
}

// Some positions of a tile. Its partial results lie at slot `index` of each of the tile's rows.
struct Chunk {
  Tile tile;
  int begin;
  int end;
  int index;
  int pieces;  // of the tile; 0: there is no such chunk
};

// Number `index` of a tile's `pieces` chunks of that length.
__device__ __forceinline__ Chunk chunk_of(const Tile& tile, int index, int pieces, int length) {
  const int begin = tile.first_turn() + index * length;
  return {tile, begin, begin + length < tile.end ? begin + length : tile.end, index, pieces};
}

// Chunk number q of a step of one row.
__device__ __forceinline__ Chunk chunk_of_one_row(const AttentionArgs& a, int q) {
  const Row row = row_at(a, 0);
  if (row.slot == 0) return {};
  const Tile tile{0, 1, window_begin(a, row.position), row.position + 1, row.slot};
  const int length = chunk_length(a, tile);
  int pieces = static_cast<int>(__fdividef(static_cast<float>(tile.length()), static_cast<float>(length)));
  while (pieces * length < tile.length()) ++pieces;  // it was rounded down, and may be one too low
  return q < pieces ? chunk_of(tile, q, pieces, length) : Chunk{};
}

// One warp's way through the step's chunks, in ascending order. It knows 32 rows at a time, one a lane, so
// that most chunks are found without a load: while the memory is busy, each takes a microsecond or two.
class Cursor {
 public:
  // Chunk number q, not below the one asked for before.
  __device__ __forceinline__ Chunk chunk(const AttentionArgs& a, int tile_rows, int q, int lane) {
    for (;;) {
      const unsigned reached = __ballot_sync(kFullWarp, up_to_ > q);
      if (reached) {
        const int found = __ffs(static_cast<int>(reached)) - 1;
        const auto of_found = [&](int v) { return __shfl_sync(kFullWarp, v, found); };
        const Tile tile{base_ + found, of_found(tile_.rows), of_found(tile_.begin), of_found(tile_.end),
                        of_found(tile_.slot)};
        const int pieces = of_found(pieces_), index = q - of_found(up_to_) + pieces;
        return chunk_of(tile, index, pieces, of_found(length_));
      }
      if (base_ + 32 >= a.rows_in_step) return {};
      base_ += 32;
      load(a, tile_rows, lane);
    }
  }

 private:
  __device__ __forceinline__ void load(const AttentionArgs& a, int tile_rows, int lane) {
    const int before = base_ ? __shfl_sync(kFullWarp, up_to_, 31) : 0;
    tile_ = {}, pieces_ = 0;
    if (base_ + lane < a.rows_in_step) tile_ = tile_at(a, base_ + lane, tile_rows);
    if (tile_.rows) {
      length_ = chunk_length(a, tile_);
      pieces_ = ceil_div(tile_.length(), length_);
    }
    up_to_ = pieces_;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(kFullWarp, up_to_, offset);
      if (lane >= offset) up_to_ += other;
    }
    up_to_ += before;
  }

  int base_ = -32;  // the first of the rows that are known
  Tile tile_{};     // that starts with the lane's row
  int length_ = 0;  // of its chunks
  int pieces_ = 0;
  int up_to_ = 0;  // chunks of the tile and of all before it
};

// The first position of the slot's sequence that this step writes: the pages hold all before it. One warp.
__device__ __forceinline__ int first_position_of_step(const AttentionArgs& a, int slot, int lane) {
  int first = INT32_MAX;
#pragma unroll 1
  for (int r = lane; r < a.rows_in_step; r += 32)
    if (const Row row = row_at(a, r); row.slot == slot && row.position < first) first = row.position;
  return warp_reduce(first, [](int x, int y) { return x < y ? x : y; });
}

}  // namespace rondo::cuda
