// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/share.h"

namespace rondo::cuda {
namespace {

constexpr int kMaxRows = 64;

// The cut for a product of kColumns columns: one for each row of `in`, or more.
template <int kColumns>
struct Cut {
  static constexpr int kTileRows = kColumns < 64 ? 64 : 128;  // of W
  static constexpr int kChunks =
      kColumns < 64 ? 2 : 1;  // of a step: 64 columns, 128 bytes, the copy engine's swizzle
  // Steps in flight. Up to 16 columns the next kernel's block starts beside it. Of more, no two fit with six
  // in flight, and the step was still faster than with four; with eight it was not.
  static constexpr int kDepth = kColumns == 16 ? 5 : 6;
  static constexpr int kConsumers = kTileRows / 16;  // warps that multiply: a warpgroup for 64 rows of a tile
  // Whether it begins and ends norms: beyond, a kernel for them was faster.
  static constexpr bool kNorms = kColumns <= kBegunRows;
  // Whether it makes heads: beyond, registers are too few.
  static constexpr bool kHeads = kColumns < 64;
  // A warp that copies, and one that has the norm's factors.
  static constexpr int kThreads = 32 * (kConsumers + 1 + (kNorms ? 1 : 0));
  static constexpr int kWeightBytes = kTileRows * kChunks * 128;  // of a step
  static constexpr int kInBytes = kColumns * kChunks * 128;
  static constexpr int kStageBytes = kWeightBytes + kInBytes;
  static constexpr int kAtOnce =
      kColumns < 32 ? kColumns : 32;             // columns of a tile's product that are written at once
  static constexpr int kScratch = 16 * kAtOnce;  // floats of a warp
  static constexpr int kRingBytes = kDepth * kStageBytes;
  static constexpr int kLandings = kRingBytes + kConsumers * kScratch * 4;  // where they lie
  static constexpr int kFactors =
      kLandings + (2 * kDepth + 2) * static_cast<int>(sizeof(Landing));  // a multiple of 16
  static constexpr int kShared = kFactors + (kNorms ? kColumns : 0) * static_cast<int>(sizeof(float));
};

// Whether a unit is a pair of rows of W: a gate and an up row, or the two elements that a rotation mixes.
__device__ __host__ __forceinline__ bool has_pairs(StreamOutput output) {
  return output == StreamOutput::silu_mul || output == StreamOutput::rope_append;
}

// Writes a warp's part of a tile's product: of 16 rows of W, or of eight pairs, in every row of `in`. Lanes
// have four neighbouring units of a row at a time, the same units in all of their rows. What the outputs need
// besides their sums is fetched when it is made.
template <class T, int kColumns>
class Writer {
  static constexpr int kAtOnce = Cut<kColumns>::kAtOnce, kPasses = kColumns / kAtOnce;
  static constexpr int kQuads = kAtOnce * 4 / 32;  // of a lane in a pass; of pairs half as many, or one
  static constexpr int kPairQuads = kQuads > 1 ? kQuads / 2 : 1;

 public:
  // `head`: of q, k and v, that the units are in; 0 where there are none.
  __device__ __forceinline__ Writer(const StreamTilesArgs& args, int first_unit, int head)
      : a_(args),
        lane_(static_cast<int>(threadIdx.x) % 32),
        pairs_(has_pairs(args.output)),
        rope_(Cut<kColumns>::kHeads && args.output == StreamOutput::rope_append),
        begins_(Cut<kColumns>::kNorms && args.next_norm),
        own_unit_(4 * (lane_ & (pairs_ ? 1 : 3))),
        unit_(first_unit + own_unit_),
        head_(head) {
    // In W, a head's second elements lie behind its first ones, all up rows behind all gate rows.
    const int first_row = unit_ + head_ * a_.apart, second_row = first_row + a_.apart;
#pragma unroll
    for (int k = 0; k < 4; ++k) bias_[k] = up_bias_[k] = gain_[k] = 0;
    if (unit_ < a_.units) {
      if (a_.bias) load4(static_cast<const T*>(a_.bias) + first_row, bias_);
      if (a_.bias && pairs_) load4(static_cast<const T*>(a_.bias) + second_row, up_bias_);
      if (begins_) load4(static_cast<const T*>(a_.next_norm) + unit_, gain_);
    }
    fetch_before();
  }

  // `scratch`: of the warp, [row of `in`, row of W], for kAtOnce rows. `factors`: of the rows' norms, or
  // null.
  __device__ __forceinline__ void write(const TileProduct<T, kColumns>& product, float* scratch,
                                        const float* factors) {
    const int g = lane_ / 4, q = lane_ % 4;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      __syncwarp();  // before the scratch is written again
#pragma unroll
      for (int j = 0; j < kAtOnce / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          scratch[(8 * j + 2 * q + i % 2) * 16 + g + i / 2 * 8] =
              product.sum[4 * (pass * kAtOnce / 8 + j) + i];
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        const int r = row(pass, i);
        float square = 0;
        if (exists(pass, i)) {
          const float* const from = scratch + row(0, i) * 16 + own_unit_;
          square = write_four(pass, i, *reinterpret_cast<const float4*>(from),
                              *reinterpret_cast<const float4*>(from + (pairs_ ? 8 : 0)),
                              factors ? factors[r] : 1.0f);
        }
        if (begins_) {  // four lanes have a row's 16 units
          square += __shfl_xor_sync(kFullWarp, square, 1);
          square += __shfl_xor_sync(kFullWarp, square, 2);
          if (lane_ % 4 == 0 && exists(pass, i)) a_.next_squares[unit_ / 16 * kBegunRows + r] = square;
        }
      }
    }
  }

 private:
  __device__ __forceinline__ int row(int pass, int i) const {
    return pass * kAtOnce + ((lane_ + 32 * i) >> (pairs_ ? 1 : 2));
  }
  __device__ __forceinline__ bool exists(int pass, int i) const {
    return unit_ < a_.units && row(0, i) < kAtOnce && row(pass, i) < a_.rows;
  }
  __device__ __forceinline__ int64_t place(int r) const { return static_cast<int64_t>(r) * a_.units + unit_; }
  __device__ __forceinline__ int in_head() const { return unit_ - head_ * a_.apart; }

  __device__ __forceinline__ void fetch_before() {
#pragma unroll
    for (int j = 0; j < kPasses * kQuads; ++j) {
      const int pass = j / kQuads, i = j % kQuads, r = row(pass, i);
      if (rope_ && i < kPairQuads && exists(pass, i)) {
        const int own = pass * kPairQuads + i;
        row_places_[own] = load_place(a_.rope, r);
        before_[2 * own] = load_two_angles(a_.rope, r, in_head());
        before_[2 * own + 1] = load_two_angles(a_.rope, r, in_head() + 2);
      }
      if (a_.output == StreamOutput::add_f32 && exists(pass, i))
        before_[j] = __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(a_.out) + place(r)));
    }
  }

  // The outputs in the row that is the lane's at (pass, i), given the sums of the units and, of pairs, of
  // their second rows. Returns the sum of their squares where a norm is begun.
  __device__ __forceinline__ float write_four(int pass, int i, float4 sum, float4 up, float factor) const {
    const int r = row(pass, i);
    float v[4] = {sum.x, sum.y, sum.z, sum.w}, u[4] = {up.x, up.y, up.z, up.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = v[k] * factor + bias_[k];
    if (pairs_) {
#pragma unroll
      for (int k = 0; k < 4; ++k) u[k] = u[k] * factor + up_bias_[k];
      if (rope_) {
        if (i < kPairQuads) write_heads(r, pass * kPairQuads + i, v, u);
        return 0;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = __fdividef(v[k], 1.0f + __expf(-v[k])) * u[k];
    }
    if (pairs_ || a_.output == StreamOutput::store) {
      store4(static_cast<T*>(a_.out) + place(r), v);
      return 0;
    }
    if (a_.output == StreamOutput::add_f32) {
      const float4 before = before_[pass * kQuads + i];
      v[0] += before.x, v[1] += before.y, v[2] += before.z, v[3] += before.w;
    }
    store4(static_cast<float*>(a_.out) + place(r), v);
    if (!begins_) return 0;
    float square = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      square += v[k] * v[k];
      v[k] *= gain_[k];
    }
    store4(static_cast<T*>(a_.next_in) + place(r), v);
    return square;
  }

  // Four pairs of row r's head, to be rotated where it is one of q or k.
  __device__ __forceinline__ void write_heads(int r, int j, float (&low)[4], float (&high)[4]) const {
    T* const to = head_at<T>(a_.rope, r, head_, row_places_[j]);
    if (!to) return;
    if (head_ < a_.rope.heads + a_.rope.kv_heads) rotate_four(before_[2 * j], before_[2 * j + 1], low, high);
    store4(to + in_head(), low);
    store4(to + in_head() + a_.apart, high);
  }

  const StreamTilesArgs& a_;
  const int lane_;
  const bool pairs_, rope_, begins_;
  const int own_unit_, unit_;  // the first of the lane's four: of the warp's, and of all
  const int head_;
  float bias_[4], up_bias_[4];
  float gain_[4];                                  // of the norm that is begun
  float4 before_[kPasses * 2 * kPairQuads] = {};   // add_f32: what is added to; rope_append: angles
  int64_t row_places_[kPasses * kPairQuads] = {};  // rope_append
};

// A tile's steps are several blocks', of which the first has the others' sums. Leaves the warp's sums for it
// and returns false, or, by the first, adds those of all others, in the order of the steps.
template <class T, int kColumns>
__device__ __forceinline__ bool add_parts(const StreamTilesArgs& a, const Deal& blocks, int block,
                                          int tile_begin, TileProduct<T, kColumns>& product) {
  constexpr int kPart = kColumns / 8;  // of a lane, in fours
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // Block b's sums: only its first tile is one that another block began.
  const auto part = [&](int b) {
    return reinterpret_cast<float4*>(a.parts) + (b * Cut<kColumns>::kConsumers + warp) * kPart * 32 + lane;
  };
  if (blocks.begin(block) > tile_begin) {
    float4* const to = part(block);
#pragma unroll
    for (int j = 0; j < kPart; ++j)
      store_words(to + 32 * j, make_float4(product.sum[4 * j], product.sum[4 * j + 1], product.sum[4 * j + 2],
                                           product.sum[4 * j + 3]));
    return false;
  }
  // Several blocks' at once: asked for one after the other, each would take a way through the L2.
  constexpr int kBlocks = 4, kFours = kPart < 4 ? kPart : 4;
  const int tile_end = tile_begin + a.per_tile;
#pragma unroll 1
  for (int first = block + 1; blocks.begin(first) < tile_end; first += kBlocks)
#pragma unroll
    for (int j = 0; j < kPart; j += kFours) {
      float4 v[kBlocks][kFours];
      const auto each = [&](auto call) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          if (blocks.begin(first + b) < tile_end)
#pragma unroll
            for (int i = 0; i < kFours; ++i) call(v[b][i], part(first + b) + 32 * (j + i), 4 * (j + i));
      };
      for (;;) {
        bool there = true;
        each([](float4& to, const float4* from, int) { to = load_words(from); });
        each([&](const float4& sum, const float4*, int) { there = there && is_there(sum); });
        if (there) break;
        wait_for_other_block();
      }
      each([&](const float4& sum, float4* from, int at) {
        product.sum[at] += sum.x, product.sum[at + 1] += sum.y;
        product.sum[at + 2] += sum.z, product.sum[at + 3] += sum.w;
        put_back(from);
      });
    }
  return true;
}

// The norm's factor of each row, from its sums of squares, which are added in the same order always. One
// warp: four neighbouring rows to a lane, which several lanes share.
template <int kColumns>
__device__ __forceinline__ void make_factors(const StreamTilesArgs& a, float* factors) {
  constexpr int kRowQuads = kColumns / 4, kLanes = 32 / kRowQuads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 16
  for (int i = lane / kRowQuads; i < a.K / 16; i += kLanes) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(a.squares + i * kBegunRows) + lane % kRowQuads);
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
#pragma unroll
  for (int apart = kRowQuads; apart < 32; apart *= 2) {
    sum.x += __shfl_xor_sync(kFullWarp, sum.x, apart);
    sum.y += __shfl_xor_sync(kFullWarp, sum.y, apart);
    sum.z += __shfl_xor_sync(kFullWarp, sum.z, apart);
    sum.w += __shfl_xor_sync(kFullWarp, sum.w, apart);
  }
  const auto factor = [&](float square) { return rsqrtf(square / static_cast<float>(a.K) + a.eps); };
  if (lane < kRowQuads)
    reinterpret_cast<float4*>(factors)[lane] =
        make_float4(factor(sum.x), factor(sum.y), factor(sum.z), factor(sum.w));
}

// The kernel.
//
// out = f(in W^T), W [N, K], for up to kColumns rows of `in`, at the speed at which W can be read. W is cut
// into tiles of rows and steps of columns (Cut); all steps of all tiles, tile after tile, are dealt out
// evenly to the blocks, one for each multiprocessor. One thread of a block has the copy engine bring its
// steps' W and `in` into a ring of `depth` stages, which it fills with W before it waits for the kernel
// before: weights depend on nobody. It runs ahead of the warps that multiply (wgmma: W's rows are the 64
// side, the rows of `in` the other), so that the memory is busy while these write a tile's results.
//
// A tile whose steps are several blocks' is finished by the first of them, warp by warp: its steps of the
// tile are its last ones, the others' their first ones, whose sums lie in `parts` by then. They are added in
// the order of the steps: the same input gives the same bits.
//
// RMSNorm(x) W^T = ((x * norm_weight) W^T) / sqrt(mean(x^2) + eps): the product that makes x also leaves
// x * norm_weight of the norm that comes next, and the squares of x summed over 16 neighbours each, which the
// product behind the norm adds up. So the norm is no kernel.
//
// Of pairs, half of a tile's rows are first ones, half their second ones, eight of these behind eight of
// those, so that a thread has both of a pair: a gate and an up row, or the two elements of a head that a
// rotation mixes, all in one head.
//
// Of 64 columns no two blocks fit on a multiprocessor anyway, so these may have more registers.
template <class T, int kColumns>
__global__ void __launch_bounds__(RONDO_TILE_THREADS(Cut<kColumns>::kThreads), kColumns < 64 ? 2 : 1)
    stream_tiles_kernel(const RONDO_GRID_CONSTANT StreamTilesArgs a) {
  RONDO_TILE_SHARED(shared);
  let_next_start();
  using C = Cut<kColumns>;
  constexpr int kDepth = C::kDepth, kConsumers = C::kConsumers, kWeightBytes = C::kWeightBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  unsigned char* const inputs = shared + kDepth * kWeightBytes;
  float* const scratch = reinterpret_cast<float*>(shared + C::kRingBytes) + warp * C::kScratch;
  Landing* const landed = reinterpret_cast<Landing*>(shared + C::kLandings);  // [kDepth]
  Landing* const released = landed + kDepth;                                  // [kDepth]
  Landing* const factors_made = released + kDepth;
  float* const factors = reinterpret_cast<float*>(shared + C::kFactors);  // [kColumns]
  const bool begun = C::kNorms && a.squares;

  // The first steps to the last block: who waits for others' sums waits for blocks before it.
  const Deal blocks{a.each, a.more};
  const int block = static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x);
  const int begin = blocks.begin(block), end = blocks.begin(block + 1);
  const int first_tile = quotient(begin, a.tiles_per_step);
  const bool pairs = has_pairs(a.output);

  const auto head_of = [&](int tile) { return quotient(tile, a.heads_per_tile); };

  // The copying end of the ring.
  int tile = first_tile, step = begin - first_tile * a.per_tile;
  const auto fetch_weights = [&](int stage) {
    expect_bytes(&landed[stage], C::kStageBytes);
    copy_tile(shared + stage * kWeightBytes, a.weight_map, 0, step * C::kChunks, 0,
              tile * (C::kTileRows / (pairs ? 16 : 8)) + head_of(tile) * (a.apart / 8), &landed[stage],
              false);
  };
  const auto fetch_input = [&](int stage) {
    copy_tile(inputs + stage * C::kInBytes, a.in_map, 0, step * C::kChunks, 0, 0, &landed[stage], true);
  };
  const auto advance = [&] {
    if (++step == a.per_tile) step = 0, ++tile;
  };
  const bool copies = warp == kConsumers && lane == 0;
  const int ahead = end - begin < kDepth ? end - begin : kDepth,
            at_once = ahead < kDepth / 2 ? ahead : kDepth / 2;
  if (copies) {
    for (int i = 0; i < kDepth; ++i) {
      prepare_landing(&landed[i]);
      prepare_landing(&released[i], kConsumers);
    }
    prepare_landing(factors_made);
    prepare_landings_done();
    for (int i = 0; i < at_once; ++i, advance()) fetch_weights(i);
  }
  __syncthreads();
  if (copies) {
    pause(a.pause);
    for (int i = at_once; i < ahead; ++i, advance()) fetch_weights(i);
  }
  wait_for_previous();
  if (warp == kConsumers) {
    if (copies) {
      step = begin - first_tile * a.per_tile, tile = first_tile;
      for (int i = 0; i < ahead; ++i, advance()) fetch_input(i);
      int stage = 0, parity = 0;
      for (int i = begin + ahead; i < end; ++i, advance()) {
        wait_landed(&released[stage], parity);
        fetch_weights(stage);
        fetch_input(stage);
        if (++stage == kDepth) stage = 0, parity ^= 1;
      }
    }
    __syncwarp();
    return;
  }
  if (warp == kConsumers + 1) {
    if (begun) {
      make_factors<kColumns>(a, factors);
      __syncwarp();
      if (lane == 0) arrive(factors_made);
    }
    return;
  }

  // The multiplying end.
  const int units_of_warp = pairs ? 8 : 16;
  const unsigned char* const own_weights = shared + warp / 4 * (64 * C::kChunks * 128);
  TileProduct<T, kColumns> product;
  int stage = 0, parity = 0;
  int tile_begin = first_tile * a.per_tile;
  for (int at = begin; at < end; ++tile, tile_begin += a.per_tile) {
    const int tile_end = tile_begin + a.per_tile, to = tile_end < end ? tile_end : end;
    const bool whole = at == tile_begin && to == tile_end;
    product.clear();
    for (; at < to; ++at) {
      wait_landed(&landed[stage], parity);
#pragma unroll
      for (int c = 0; c < C::kChunks; ++c)
        product.start(own_weights + stage * kWeightBytes + c * 1024,
                      inputs + stage * C::kInBytes + c * kColumns * 128, C::kChunks * 1024);
      product.wait();
      __syncwarp();
      if (lane == 0) arrive(&released[stage]);
      if (++stage == kDepth) stage = 0, parity ^= 1;
    }
    Writer<T, kColumns> writer(a, (tile * kConsumers + warp) * units_of_warp, head_of(tile));
    if (!whole && !add_parts(a, blocks, block, tile_begin, product)) continue;
    if (begun) wait_landed(factors_made, 0);
    writer.write(product, scratch, begun ? factors : nullptr);
  }
}

// Calls f with the smallest instance that has as many columns as there are rows.
template <class F>
void for_rows(int rows, F f) {
  if (rows <= 8) return f(std::integral_constant<int, 8>());
  if (rows <= 16) return f(std::integral_constant<int, 16>());
  if (rows <= 32) return f(std::integral_constant<int, 32>());
  f(std::integral_constant<int, 64>());
}

}  // namespace

// The launchers.

bool stream_tiles_compiled() { return compiled_for_tiles(stream_tiles_kernel<__half, 8>); }

bool stream_tiles_fits(StreamTilesArgs& a, const Queue& queue, uint64_t part_bytes) {
  const int halves = has_pairs(a.output) ? 2 : 1;
  const bool rope = a.output == StreamOutput::rope_append;
  a.units = a.N / halves;
  a.apart = rope ? a.rope.head_dim / 2 : a.units;
  a.pause = pause_of(queue);
  if (!queue.tiles || a.rows < 1 || a.rows > kMaxRows || a.K % 64 || a.units % 8 ||
      (a.next_norm && (a.units % 16 || a.rows > kBegunRows)) || (a.squares && a.rows > kBegunRows))
    return false;
  bool fits = false;
  for_rows(a.rows, [&](auto n) {
    using C = Cut<n>;
    const int units_of_tile = C::kTileRows / halves;
    a.per_tile = (a.K / 64 + C::kChunks - 1) / C::kChunks;
    a.tiles_per_step = 1.0f / static_cast<float>(a.per_tile);
    const int64_t steps = int64_t{(a.units + units_of_tile - 1) / units_of_tile} * a.per_tile;
    a.each = static_cast<int>(steps / queue.multiprocessors);
    a.more = static_cast<int>(steps % queue.multiprocessors);
    const auto parts = static_cast<uint64_t>(queue.multiprocessors) * C::kTileRows * n * sizeof(float);
    a.heads_per_tile = rope ? static_cast<float>(units_of_tile) / static_cast<float>(a.apart) : 0.0f;
    fits = (!rope || (C::kHeads && a.apart % units_of_tile == 0)) &&
           steps < 1 << 22 &&  // beyond, quotient() is not exact
           parts <= part_bytes && C::kShared <= queue.shared_limit;
  });
  return fits;
}

void enqueue_stream_tiles(DType dtype, const StreamTilesArgs& args, Queue& queue) {
  StreamTilesArgs a = args;
  const int64_t row = int64_t{a.K} * 2;  // bytes
  const int halves = a.N / a.units;
  for_rows(a.rows, [&](auto n) {
    constexpr int kIn = n;
    using C = Cut<kIn>;
    // Eight rows, then the chunks of a step, so that neighbouring chunks are asked for at about the same
    // time.
    a.weight_map =
        make_tile_map(a.weight, {8, a.K / 64, halves, (a.N - (halves - 1) * a.apart) / 8},
                      {row, 128, a.apart * row, 8 * row}, {8, C::kChunks, halves, C::kTileRows / 8 / halves});
    a.in_map = make_tile_map(a.in, {a.rows, a.K / 64, 1, 1}, {row, 128, row, row}, {kIn, C::kChunks, 1, 1});
    const auto run = [&](auto kernel) {
      launch_spread<Blocks::wait_for_lower>(queue, kernel, dim3(C::kThreads), C::kShared, a);
    };
    if (dtype == DType::bf16)
      run(stream_tiles_kernel<__nv_bfloat16, kIn>);
    else
      run(stream_tiles_kernel<__half, kIn>);
  });
}

}  // namespace rondo::cuda
