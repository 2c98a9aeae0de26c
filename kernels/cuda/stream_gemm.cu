// What the kernel needs.
#include <algorithm>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/stream_output.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 8;     // weight rows of a tile: the n side of an m16n8k16 product
constexpr int kChunk = 128;  // columns of an item, 256 bytes of each of its rows
constexpr int kStageBytes = kTile * kChunk * 2;
constexpr int kDepth = 2;  // items in flight per warp
constexpr int kPadding =
    8;  // elements behind a row of activations, so that eight rows lie in different banks
constexpr int kMaxRows = 8;

// Blocks whose registers must fit on a multiprocessor together: kernels overlap from Hopper on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksTogether = 1;
#else
constexpr int kBlocksTogether = 2;
#endif

// The kernel.
//
// out = f(in W^T), W [N, K], for 1 to 8 rows, at the speed at which W can be read. Grid: a block per
// multiprocessor, of 16 warps; a block takes an even share of the units, which are rows of W, or pairs of a
// gate and an up row. Its units are dealt out to tiles of 8 rows, a tile's columns are cut into chunks;
// (tile, chunk) is an item, and a warp takes neighbouring items. Each warp has a ring of kDepth items in
// flight, and fills it before it waits for the kernel before: weights depend on nobody. Products are
// mma.m16n8k16 with the activations as the 16 side, sums are fp32. Partial sums go to shared memory, one
// place per (warp, tile), and are added in the order of the warps: the same input gives the same bits. Where
// the activations do not fit into shared memory at once, columns are taken in `phases`.
//
// The product's 16 rows are 8 rows of activations twice, for two neighbouring steps of 16 columns: of the one
// product the upper half is wanted, of the other the lower. Rows that are not there need no zeros: row m of
// the one side and row n of the other meet in element (m, n) alone, which nobody reads then.
//
// norm: RMSNorm(x) W^T = ((x * norm_weight) W^T) / sqrt(mean(x^2) + eps): what depends on the whole row comes
// last.
template <class T, bool kPhased>  // kPhased: more than one phase
__global__ void __launch_bounds__(kThreads, kBlocksTogether) stream_gemm_kernel(const StreamGemmArgs a) {
  RONDO_DYN_SHARED(unsigned char, shared);
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4,
            t = lane % 4;  // of a product's result, the lane has rows g and g + 8, columns 2 t and 2 t + 1
  const StreamOutput output = kPhased ? without_rope(a.output) : a.output;
  const Units whole(a, output);
  const bool rope = whole.rope, pairs = whole.pairs, norm = !kPhased && a.input == StreamInput::norm;
  const int tile_shift = pairs ? 2 : 3, per_tile = 1 << tile_shift;

  const Deal blocks{a.units / static_cast<int>(gridDim.x), a.units % static_cast<int>(gridDim.x)};
  const int first = blocks.begin(static_cast<int>(blockIdx.x)),
            count = blocks.count(static_cast<int>(blockIdx.x));
  const int tiles = (count + per_tile - 1) >> tile_shift;
  const Deal units{count / (tiles ? tiles : 1), count % (tiles ? tiles : 1)};
  const int phases = kPhased ? a.phases : 1;
  const int chunks = a.phase_columns / kChunk, items = tiles * chunks;
  const int begin = items * warp / kWarps, end = items * (warp + 1) / kWarps;

  const int stride = a.phase_columns + kPadding, buffer = a.rows * stride;
  unsigned char* const ring = shared + warp * kDepth * kStageBytes;
  T* const activations = reinterpret_cast<T*>(shared + kWarps * kDepth * kStageBytes);
  float* const partial =
      reinterpret_cast<float*>(activations + (phases > 1 ? 2 : 1) * buffer);  // [kWarps + tiles, rows, kTile]
  float* const factors = partial + (kWarps + tiles) * a.rows * kTile;         // [rows]
  Early<T>* const laid_by = reinterpret_cast<Early<T>*>(factors + a.rows + a.rows % 2);  // [kThreads]
  float* const squares = reinterpret_cast<float*>(laid_by + kThreads);                   // [rows, K / 128]

  // The loading end of the ring. A lane copies 16 bytes of rows lane / 16 + 0, 2, 4, 6 of an item. Piece p of
  // row r lies at place p ^ r, so that eight rows' pieces lie in different banks.
  AsyncCopies copies;
  const T* source = nullptr;
  const int second_half =
      pairs ? whole.half * a.K : 4 * a.K;  // elements: stream_gemm_fits() sees that they fit
  int two_units = 2 * a.K;
  int present = 0;  // of the tile's rows
  int load_phase = 0, load_tile = begin / chunks, load_chunk = begin % chunks;
  const auto enter_tile = [&] {
    present = units.count(load_tile) - lane / 16;
    const int unit = first + units.begin(load_tile) + lane / 16, from = whole.first_row(unit);
    if (rope) two_units = (whole.first_row(unit + 2) - from) * a.K;
    source = static_cast<const T*>(a.weight) + static_cast<int64_t>(from) * a.K +
             load_phase * a.phase_columns + load_chunk * kChunk + lane % 16 * 8;
  };
  const auto load_item = [&] { return load_tile * chunks + load_chunk; };
  const int target = lane / 16 * kChunk * 2 + (lane % 16 ^ lane / 16) * 16;
  const auto fetch = [&](int stage) {
    if (load_item() < end) {
      unsigned char* const to = ring + stage * kStageBytes;
      if (present > 0) copies.copy16(to + target, source);
      if (present > 2) copies.copy16(to + 4 * kChunk + (target ^ 32), source + two_units);
      if (present > (pairs ? 0 : 4)) copies.copy16(to + 8 * kChunk + (target ^ 64), source + second_half);
      if (present > (pairs ? 2 : 6))
        copies.copy16(to + 12 * kChunk + (target ^ 96), source + second_half + two_units);
      source += kChunk;
      ++load_chunk;
      if (kPhased && load_item() == end && load_phase + 1 < phases) {
        ++load_phase;
        load_tile = begin / chunks, load_chunk = begin % chunks;
        enter_tile();
      } else if (load_chunk == chunks && load_item() < end) {
        load_chunk = 0;
        ++load_tile;
        enter_tile();
      }
    }
    copies.commit();
  };
  enter_tile();
  if (!kPhased) {
    fetch(0);
    pause(a.pause);
  }
#pragma unroll 1
  for (int stage = kPhased ? 0 : 1; stage < kDepth; ++stage) fetch(stage);

  // Activations are brought in pieces of 8 columns.
  const int pieces = a.phase_columns / 8;
  const auto row_of = [&](int i) { return i / pieces; };
  const auto source_row = [&](int i) {
    return static_cast<int64_t>(norm && a.gather ? a.gather[row_of(i)] : row_of(i)) * a.K;
  };
  Raw8<T> weight = zero_raw8<T>();
  if (norm)
    weight = load_raw8(static_cast<const T*>(a.norm_weight) + static_cast<int>(threadIdx.x) * 8 % a.K);
  const auto output_row = [&](int i) { return (i >> tile_shift) & ((1 << a.log_rows) - 1); };
  const auto output_tile = [&](int i) { return i >> (tile_shift + a.log_rows); };
  const auto output_exists = [&](int i) {
    return output_tile(i) < tiles && output_row(i) < a.rows && i % per_tile < units.count(output_tile(i));
  };
  // What a thread's first output needs besides its sum is fetched early.
  const auto output_unit = [&](int i) { return first + units.begin(output_tile(i)) + i % per_tile; };
  const auto output_rope = [&](int i) { return early_rope<T>(a, whole, output_row(i), output_unit(i)); };
  const int own = static_cast<int>(threadIdx.x);
  const bool writes = !kPhased && output_exists(own);
  wait_for_previous();
  if (rope && writes) laid_by[own] = output_rope(own);
  const auto output_before = [&](int i) { return lies_at(a, output_row(i), output_unit(i)); };
  if (a.output == StreamOutput::add_f32 && writes) laid_by[own].before = output_before(own);

#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < a.rows * pieces; i += kThreads) {
    const int r = row_of(i), k = (i - r * pieces) * 8;
    if (norm) {  // a row has whole halves of warps
      float v[8], w[8], sum = 0;
      load8_fresh(static_cast<const float*>(a.in) + source_row(i) + k, v);
      if (i >= kThreads) weight = load_raw8(static_cast<const T*>(a.norm_weight) + k);
      widen8<T>(weight, w);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        sum += v[j] * v[j];
        v[j] *= w[j];
      }
      *reinterpret_cast<uint4*>(activations + r * stride + k) = narrow8<T>(v);
      sum = half_warp_sum(sum, 0xFFFFu << (lane & 16));
      if (lane % 16 == 0) squares[i / 16] = sum;
    } else {
      *reinterpret_cast<uint4*>(activations + r * stride + k) =
          load_fresh(static_cast<const T*>(a.in) + source_row(i) + k);
    }
  }
  __syncthreads();

  // What a lane names to load_matrices(): row lane % 8 of matrix lane / 8. Of the weights, matrices are
  // pieces 4 j to 4 j + 3, of the activations pieces 4 j, 4 j + 2, 4 j + 1, 4 j + 3: the columns that a
  // step's first and second words need.
  const int matrix = lane / 8, matrix_row = lane % 8;
  const int weights = matrix_row * kChunk * 2 + ((matrix ^ matrix_row) * 16);
  const int fragment =
      (matrix_row < a.rows ? matrix_row : a.rows - 1) * stride + (matrix % 2 * 2 + matrix / 2) * 8;
  int stage = 0;
  for (int phase = 0; phase < phases; ++phase) {
    if (kPhased && phase + 1 < phases)  // these copies end up in the group of the next item
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < a.rows * pieces; i += kThreads)
        copies.copy16(
            activations + (phase + 1) % 2 * buffer + row_of(i) * stride + i % pieces * 8,
            static_cast<const T*>(a.in) + source_row(i) + (phase + 1) * a.phase_columns + i % pieces * 8);

    int tile = begin / chunks, chunk = begin % chunks;
    for (int item = begin; item < end;) {
      const int run = chunks - chunk < end - item ? chunks - chunk : end - item;
      float sum[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
      const T* column = activations + (kPhased ? phase % 2 * buffer : 0) + fragment + chunk * kChunk;
#pragma unroll 1
      for (int i = 0; i < run; ++i) {
        copies.wait<kDepth - 1>();
        __syncwarp();
        uint4 w[4];
        const auto take = [&](int j) {
          w[j] = load_matrices(ring + stage * kStageBytes + (weights ^ (j % 2 * 64)) + j / 2 * 128);
        };
        const auto multiply = [&](int j) {
          const uint4 v = load_matrices(column + 32 * j);
          mma(sum[0], v, make_uint2(w[j].x, w[j].y), static_cast<const T*>(nullptr));
          mma(sum[1], v, make_uint2(w[j].z, w[j].w), static_cast<const T*>(nullptr));
        };
        const auto refill = [&] {
          __syncwarp();  // before the stage is overwritten
          fetch(stage);
          if (++stage == kDepth) stage = 0;
        };
        // The stage is free as soon as its weights are in registers, of which phases leave too few.
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          take(j);
          if (kPhased) multiply(j);
        }
        refill();
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (!kPhased) multiply(j);
        column += kChunk;
      }
      item += run;
      if (g < a.rows) {
        float2* const place =
            reinterpret_cast<float2*>(partial + ((warp + tile) * a.rows + g) * kTile + 2 * t);
        float2 v = make_float2(sum[0][0] + sum[1][2], sum[0][1] + sum[1][3]);
        if (kPhased && phase) v.x += place->x, v.y += place->y;
        *place = v;
      }
      chunk = 0;
      ++tile;
    }
    if (kPhased && phase + 1 < phases) {  // the next phase's activations have landed
      if (end - begin >= kDepth)
        copies.wait<kDepth - 1>();
      else {  // too few items to have closed their group
        copies.commit();
        copies.wait<0>();
      }
      __syncthreads();
    }
  }
  if (norm && warp < a.rows) {
    float square = 0;
    for (int i = lane; i < pieces / 16; i += 32) square += squares[warp * (pieces / 16) + i];
    square = warp_reduce(square, Add());
    if (lane == 0) factors[warp] = rsqrtf(square / static_cast<float>(a.K) + a.eps);
  }
  __syncthreads();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); output_tile(i) < tiles; i += kThreads) {
    if (!output_exists(i)) continue;
    const int n = i % per_tile, r = output_row(i), tile = output_tile(i);
    // Warp w has items from items w / kWarps on, rounded down: who has the tile's first and last item.
    const int from = (kWarps * (tile * chunks + 1) - 1) / items,
              to = (kWarps * (tile * chunks + chunks) - 1) / items;
    float sum = 0, up = 0;
    for (int w = from; w <= to; ++w) {
      if (items < kWarps && items * (w + 1) / kWarps == items * w / kWarps) continue;  // it had no item
      const float* place = partial + ((w + tile) * a.rows + r) * kTile;
      sum += place[n];
      if (pairs) up += place[n + kTile / 2];
    }
    if (norm) {
      sum *= factors[r];
      up *= factors[r];
    }
    Early<T> early{};
    if (!kPhased && i < kThreads) {
      early = laid_by[i];
    } else {
      if (rope) early = output_rope(i);
      if (a.output == StreamOutput::add_f32) early.before = output_before(i);
    }
    write_output<T>(a, output, whole, r, output_unit(i), sum, up, early);
  }
}

size_t shared_bytes(const StreamGemmArgs& a, int grid) {
  const int per_tile = a.units == a.N ? kTile : kTile / 2;
  const int tiles = ((a.units + grid - 1) / grid + per_tile - 1) / per_tile;
  const int buffer = a.rows * (a.phase_columns + kPadding);
  return static_cast<size_t>(kWarps * kDepth * kStageBytes + (a.phases > 1 ? 2 : 1) * buffer * 2 +
                             (kWarps + tiles) * a.rows * kTile * 4 + (a.rows + a.rows % 2) * 4 +
                             kThreads * static_cast<int>(sizeof(Early<__half>)) +
                             (a.input == StreamInput::norm ? a.rows * (a.K / 128) * 4 : 0));
}

}  // namespace

// The launchers.

bool stream_gemm_fits(StreamGemmArgs& a, const Queue& queue) {
  if (a.rows < 1 || a.rows > kMaxRows || a.K % kChunk || static_cast<int64_t>(a.N) * a.K > INT32_MAX)
    return false;
  const int chunks = a.K / kChunk;
  a.pause = pause_of(queue);
  a.units = a.output == StreamOutput::silu_mul || a.output == StreamOutput::rope_append ? a.N / 2 : a.N;
  for (a.log_rows = 0; 1 << a.log_rows < a.rows; ++a.log_rows) {
  }
  const bool whole = a.input == StreamInput::norm || a.output == StreamOutput::rope_append;  // one phase only
  for (int budget : {std::min(kSharedBudget, queue.shared_limit), queue.shared_limit})
    for (a.phases = 1; a.phases <= (whole ? 1 : chunks); ++a.phases) {
      a.phase_columns = chunks / a.phases * kChunk;
      if (chunks % a.phases == 0 && static_cast<int>(shared_bytes(a, queue.multiprocessors)) <= budget)
        return true;
    }
  return false;
}

void enqueue_stream_gemm(DType dtype, const StreamGemmArgs& args, Queue& queue) {
  const size_t bytes = shared_bytes(args, queue.multiprocessors);
  const auto run = [&](auto kernel) { launch_spread(queue, kernel, dim3(kThreads), bytes, args); };
  const auto pick = [&]<class T>(T*) {
    args.phases > 1 ? run(stream_gemm_kernel<T, true>) : run(stream_gemm_kernel<T, false>);
  };
  if (dtype == DType::bf16)
    pick(static_cast<__nv_bfloat16*>(nullptr));
  else
    pick(static_cast<__half*>(nullptr));
}

}  // namespace rondo::cuda
