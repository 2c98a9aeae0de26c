// What the kernel needs.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/stream_output.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
// Chunks in flight per warp where two blocks fit on a multiprocessor; else one less.
constexpr int kMostDepth = 3;
constexpr int kChunk = 1024;  // columns of a bulk copy; a row's last one may have fewer
constexpr int kSlab = 256;    // columns that two products take

// Blocks whose registers must fit on a multiprocessor together: kernels overlap from Hopper on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksTogether = 1;
#else
constexpr int kBlocksTogether = 2;
#endif

// Eight activations of a part as a lane holds them on the 16 side: of row i the first four, of row i + 8 the
// others, so that what lies in shared memory goes to the product as it is.
__device__ __forceinline__ uint4 as_16_side(uint4 v) { return make_uint4(v.x, v.z, v.y, v.w); }

// The kernel.
//
// out = f(in W^T), W [N, K], for one row, at the speed at which W can be read: each row of W lies in one
// piece, so it comes by bulk copies of kChunk columns, and a block's rows one behind the other. Grid: a block
// per multiprocessor, of 16 warps; a block takes an even share of the units, and its warps their chunks in
// turn. Each warp has a ring of `depth` chunks in flight, and fills it before it waits for the kernel before:
// weights depend on nobody.
//
// Products are mma.m16n8k16, sums fp32. A row of W has no seven others beside it here, so the 8 side is eight
// parts of the row, 32 neighbouring columns each, 256 in all; rows i and i + 8 of the 16 side are the
// activations of part i's columns. What part i of the one side and part j of the other give is wanted where
// i = j alone: the sum over the results' diagonals is that of the 256 columns. A sum per chunk goes to shared
// memory, and they are added in the order of the columns: the same input gives the same bits.
//
// norm: RMSNorm(x) W^T = ((x * norm_weight) W^T) / sqrt(mean(x^2) + eps): what depends on the whole row comes
// last.
//
// Each instruction that a multiprocessor has not run lately costs some 10 ns, more than most loads here. So
// all outputs share one instance, whose code is still there from the product before; rope_append's is too
// long for that, and is attention's at one row.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksTogether) stream_row_kernel(const StreamGemmArgs a) {
  RONDO_DYN_SHARED(unsigned char, shared);
  let_next_start();
  // By a shuffle, so that the compiler knows it to be the same for the whole warp.
  const int warp = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 32, 0),
            lane = static_cast<int>(threadIdx.x) % 32;
  const StreamOutput output = without_rope(a.output);
  const Units units(a, output);
  const bool norm = a.input == StreamInput::norm;

  const Deal blocks{a.each, a.more};
  const int first = blocks.begin(static_cast<int>(blockIdx.x)),
            count = blocks.count(static_cast<int>(blockIdx.x));
  const int per_row = a.per_row, chunks = (units.pairs ? 2 * count : count) * per_row;
  const auto rows_in = [&](int n) { return n * a.rows_per_chunk >> 16; };  // n / per_row, up to kWarps

  T* const ring = reinterpret_cast<T*>(shared) + warp * a.depth * kChunk;
  T* const activations = reinterpret_cast<T*>(shared) + kWarps * a.depth * kChunk;  // [K]
  Landing* const landings = reinterpret_cast<Landing*>(activations + a.K) + warp * a.depth;
  float* const squares = reinterpret_cast<float*>(landings + (kWarps - warp) * a.depth);  // [kWarps]
  float* const factor = squares + kWarps;                                                 // [1]
  float* const partial = factor + 1;  // [rows of W, per_row]

  // The loading end of the ring. Rows of W in turn: all first ones of the block's pairs, then all second
  // ones. What changes from chunk to chunk is kept and added to: a product a chunk would be waited for.
  const int first_column = warp - rows_in(warp) * per_row;
  int load_chunk = warp, load_row = rows_in(warp), load_column = first_column;
  const T* source =
      static_cast<const T*>(a.weight) + static_cast<int64_t>(first + load_row) * a.K + load_column * kChunk;
  bool second = !units.pairs;  // whether `source` has gone on to the second rows
  const auto fetch = [&](T* slot, Landing* landing) {
    if (load_chunk >= chunks) return;
    if (!second && load_row >= count) {
      second = true;
      source += static_cast<int64_t>(units.half - count) * a.K;
    }
    if (lane == 0) {
      const int columns = load_column == a.short_column ? a.short_columns : kChunk;
      copy_bulk(slot, source, static_cast<uint32_t>(columns * static_cast<int>(sizeof(T))), landing);
    }
    load_chunk += kWarps;
    load_row += a.rows_on;
    load_column += a.columns_on;
    source += a.step;
    if (load_column >= per_row) load_column -= per_row, ++load_row, source += a.next_row;
  };
  if (lane == 0) {
    for (int stage = 0; stage < a.depth; ++stage) prepare_landing(landings + stage);
    prepare_landings_done();
  }
  __syncwarp();
  fetch(ring, landings);
#pragma unroll 1
  for (int stage = 1; stage < a.depth && load_chunk < chunks; ++stage) {
    pause(a.pause, a.asleep);
    fetch(ring + stage * kChunk, landings + stage);
  }

  // What a thread's first output needs besides its sum is fetched early: what no kernel of this step writes
  // is there already.
  const int own = static_cast<int>(threadIdx.x);
  Early<T> early{};
  Raw8<T> weight = zero_raw8<T>();
  if (norm && own < a.K / 8) weight = load_raw8(static_cast<const T*>(a.norm_weight) + own * 8);
  wait_for_previous();
  if (output == StreamOutput::add_f32 && own < count) early.before = lies_at(a, 0, first + own);

  float square = 0;
  if (norm) {
    const float* const x =
        static_cast<const float*>(a.in) + static_cast<int64_t>(a.gather ? a.gather[0] : 0) * a.K;
#pragma unroll 1
    for (int i = own; i < a.K / 8; i += kThreads) {
      float v[8], w[8];
      load8_fresh(x + i * 8, v);
      if (i != own) weight = load_raw8(static_cast<const T*>(a.norm_weight) + i * 8);
      widen8<T>(weight, w);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        square += v[j] * v[j];
        v[j] *= w[j];
      }
      reinterpret_cast<uint4*>(activations)[i] = as_16_side(narrow8<T>(v));
    }
  } else {
    constexpr int kTogether = 4;  // loads in flight
    const uint4* const x = static_cast<const uint4*>(a.in);
#pragma unroll 1
    for (int base = own; base < a.K / 8; base += kTogether * kThreads) {
      uint4 v[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
        if (const int i = base + j * kThreads; i < a.K / 8) v[j] = as_16_side(load_fresh(x + i));
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
        if (const int i = base + j * kThreads; i < a.K / 8) reinterpret_cast<uint4*>(activations)[i] = v[j];
    }
  }
  if (norm) {
    square = warp_reduce(square, Add());
    if (lane == 0) squares[warp] = square;
  }
  __syncthreads();

  // Lane (g, t) has columns 8 t to 8 t + 7 of part g: k may be dealt out in any way that both sides share. Of
  // the two products of 256 columns one is of each part's first four columns, in rows 0 to 7 of its result,
  // the other of the last four, in rows 8 to 15.
  //
  // A warp's way through a chunk is what counts when a kernel begins and ends, for then the chunks are there:
  // products go into two sums, not one behind the other, and the lanes' parts of a chunk's sum are added up
  // between the products of the next one.
  const T* const type = nullptr;
  const auto add_up = [](float v, int turn) {
    return v + __shfl_xor_sync(kFullWarp, v, turn == 0 ? 4 : turn == 1 ? 9 : 18);
  };
  T* slot = ring;
  Landing* landing = landings;
  int parity = 0, column = first_column;
  float before = 0;  // the lane's part of the sum of the chunk before
#pragma unroll 1
  for (int chunk = warp; chunk < chunks; chunk += kWarps) {
    const uint4* const w = reinterpret_cast<const uint4*>(slot) + lane;
    const uint4* const x = reinterpret_cast<const uint4*>(activations + column * kChunk) + lane;
    float sum[2][2][4] = {};
    const auto multiply = [&](float(&to)[2][4], const uint4& v, const uint4& u) {
      mma(to[0], v, make_uint2(u.x, u.y), type);
      mma(to[1], v, make_uint2(u.z, u.w), type);
    };
    if (column != a.short_column) {
      constexpr int kSlabs = kChunk / kSlab;
      uint4 v[kSlabs], u[kSlabs];
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) v[i] = x[32 * i];
      wait_landed(landing, parity);
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) u[i] = w[32 * i];
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) {
        multiply(sum[i % 2], v[i], u[i]);
        if (i < 3) before = add_up(before, i);
      }
    } else {
      wait_landed(landing, parity);
#pragma unroll 1
      for (int i = 0; i < a.short_columns / kSlab; ++i) multiply(sum[0], x[32 * i], w[32 * i]);
#pragma unroll
      for (int i = 0; i < 3; ++i) before = add_up(before, i);
    }
    __syncwarp();  // before the slot is overwritten
    fetch(slot, landing);
    slot += kChunk, ++landing;
    if (slot == ring + a.depth * kChunk) slot = ring, landing = landings, parity ^= 1;
    if (lane == 0 && chunk != warp) partial[chunk - kWarps] = before;
    // Lane (g, g / 2) has element (g, g) of the one and (g + 8, g) of the other.
    before = lane / 4 % 2 ? sum[0][0][1] + sum[1][0][1] + (sum[0][1][3] + sum[1][1][3])
                          : sum[0][0][0] + sum[1][0][0] + (sum[0][1][2] + sum[1][1][2]);
    column += a.columns_on;
    if (column >= per_row) column -= per_row;
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) before = add_up(before, i);
  if (lane == 0 && warp < chunks) partial[warp + (chunks - 1 - warp) / kWarps * kWarps] = before;
  // By the warp that has the fewest chunks.
  if (norm && warp == kWarps - 1) {
    const float sum = warp_reduce(lane < kWarps ? squares[lane] : 0.0f, Add());
    if (lane == 0) *factor = rsqrtf(sum / static_cast<float>(a.K) + a.eps);
  }
  __syncthreads();

  const float scale = norm ? *factor : 1.0f;
#pragma unroll 1
  for (int i = own; i < count; i += kThreads) {
    // Loads of a few sums at a time: one after the other they would take longer than all else here.
    const auto sum_of = [&](const float* sums) {
      float sum = 0;
#pragma unroll 4
      for (int c = 0; c < per_row; ++c) sum += sums[c];
      return sum * scale;
    };
    const float sum = sum_of(partial + i * per_row),
                up = units.pairs ? sum_of(partial + (count + i) * per_row) : 0.0f;
    const int unit = first + i;
    if (i != own && output == StreamOutput::add_f32) early.before = lies_at(a, 0, unit);
    write_output<T>(a, output, units, 0, unit, sum, up, early);
  }
}

int rows_of_w(const StreamGemmArgs& a) { return (a.each + (a.more ? 1 : 0)) * (a.units == a.N ? 1 : 2); }

size_t shared_bytes(const StreamGemmArgs& a) {
  return static_cast<size_t>(kWarps * a.depth * (kChunk * 2 + 8) + a.K * 2 + kWarps * 4 + 4 +
                             rows_of_w(a) * a.per_row * 4);
}

}  // namespace

// The launchers.

bool stream_row_fits(StreamGemmArgs& a, const Queue& queue) {
  if (!queue.bulk_copies || a.rows != 1 || a.K % kSlab || a.output == StreamOutput::rope_append) return false;
  a.units = a.output == StreamOutput::silu_mul ? a.N / 2 : a.N;
  a.pause = pause_of(queue);
  a.each = a.units / queue.multiprocessors;
  a.more = a.units % queue.multiprocessors;
  a.per_row = (a.K + kChunk - 1) / kChunk;
  a.rows_per_chunk = (65536 + a.per_row - 1) / a.per_row;
  a.rows_on = kWarps / a.per_row;
  a.columns_on = kWarps % a.per_row;
  a.step = a.rows_on * a.K + a.columns_on * kChunk;
  a.next_row = a.K - a.per_row * kChunk;
  a.short_columns = a.K % kChunk;
  a.short_column = a.short_columns ? a.per_row - 1 : -1;
  a.depth = kMostDepth;
  if (shared_bytes(a) > kSharedBudget) --a.depth;
  // Where a block's ring holds all of its weights, as in all products of 0.6B but the LM head, whose steps
  // are 2 to 3 % shorter so; elsewhere steps were up to 1 % longer.
  a.asleep = rows_of_w(a) * a.per_row <= kWarps * a.depth;
  return shared_bytes(a) <= static_cast<size_t>(queue.shared_limit);
}

void enqueue_stream_row(DType dtype, const StreamGemmArgs& args, Queue& queue) {
  const auto pick = [&]<class T>(T*) {
    launch_spread(queue, stream_row_kernel<T>, dim3(kThreads), shared_bytes(args), args);
  };
  if (dtype == DType::bf16)
    pick(static_cast<__nv_bfloat16*>(nullptr));
  else
    pick(static_cast<__half*>(nullptr));
}

}  // namespace rondo::cuda
