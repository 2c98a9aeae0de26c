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
constexpr int kChunk = 1024;  // columns of a bulk copy; a row's last one may have fewer
constexpr int kSlab = 256;    // columns that two products take
constexpr int kDepth = 2;     // chunks in flight per warp

// Blocks whose registers must fit on a multiprocessor together: kernels overlap from Hopper on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksTogether = 1;
#else
constexpr int kBlocksTogether = 2;
#endif

// The kernel.
//
// out = f(in W^T), W [N, K], for one row, at the speed at which W can be read: each row of W lies in one
// piece, so it comes by bulk copies of kChunk columns, and a block's rows one behind the other. Grid: a block
// per multiprocessor, of 16 warps; a block takes an even share of the units, and its warps their chunks in
// turn. Each warp has a ring of kDepth chunks in flight, and fills it before it waits for the kernel before:
// weights depend on nobody.
//
// Products are mma.m16n8k16, sums fp32. A row of W has no seven others beside it here, so the 8 side is eight
// parts of the row, 32 neighbouring columns each, 256 in all; row i of the 16 side is the activations of part
// i's columns. What part i of the one side and part j of the other give is wanted where i = j alone: the sum
// over the result's diagonal is that of the 256 columns. A sum per chunk goes to shared memory, and they are
// added in the order of the columns: the same input gives the same bits.
//
// norm: RMSNorm(x) W^T = ((x * norm_weight) W^T) / sqrt(mean(x^2) + eps): what depends on the whole row comes
// last.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksTogether) stream_row_kernel(const StreamGemmArgs a) {
  RONDO_DYN_SHARED(unsigned char, shared);
  let_next_start();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Units units(a, true);
  const bool norm = a.input == StreamInput::norm;

  const Deal blocks{a.units / static_cast<int>(gridDim.x), a.units % static_cast<int>(gridDim.x)};
  const int first = blocks.begin(static_cast<int>(blockIdx.x)),
            count = blocks.count(static_cast<int>(blockIdx.x));
  const int per_row = (a.K + kChunk - 1) / kChunk, chunks = (units.pairs ? 2 * count : count) * per_row;

  T* const ring = reinterpret_cast<T*>(shared) + warp * kDepth * kChunk;
  T* const activations = reinterpret_cast<T*>(shared) + kWarps * kDepth * kChunk;  // [K]
  Landing* const landings = reinterpret_cast<Landing*>(activations + a.K) + warp * kDepth;
  float* const squares = reinterpret_cast<float*>(landings + (kWarps - warp) * kDepth);  // [kWarps]
  float* const partial = squares + kWarps;  // [rows of W, per_row]

  // The loading end of the ring. Rows of W in turn: all first ones of the block's pairs, then all second
  // ones.
  int load_chunk = warp, load_row = warp / per_row, load_column = warp % per_row;
  const auto fetch = [&](int stage) {
    if (load_chunk >= chunks) return;
    const bool second = load_row >= count;
    const int row = units.first_row(first + load_row - (second ? count : 0)) + (second ? units.half : 0);
    if (lane == 0) {
      const int column = load_column * kChunk, columns = a.K - column < kChunk ? a.K - column : kChunk;
      copy_bulk(ring + stage * kChunk,
                static_cast<const T*>(a.weight) + static_cast<int64_t>(row) * a.K + column,
                static_cast<uint32_t>(columns * static_cast<int>(sizeof(T))), landings + stage);
    }
    load_chunk += kWarps;
    for (load_column += kWarps; load_column >= per_row; load_column -= per_row) ++load_row;
  };
  if (lane == 0) {
    for (int stage = 0; stage < kDepth; ++stage) prepare_landing(landings + stage);
    prepare_landings_done();
  }
  __syncwarp();
#pragma unroll
  for (int stage = 0; stage < kDepth; ++stage) fetch(stage);

  // What a thread's first output needs besides its sum is fetched early: angles and norm weights are there
  // already.
  const int own = static_cast<int>(threadIdx.x);
  Angle laid_by{0, 0};
  if (units.rope && own < count) laid_by = unit_angle(a, units, 0, first + own);
  Raw8<T> weight = zero_raw8<T>();
  if (norm && own < a.K / 8) weight = load_raw8(static_cast<const T*>(a.norm_weight) + own * 8);
  wait_for_previous();
  const auto lies_at = [&](int unit) { return Angle{__ldcg(static_cast<const float*>(a.out) + unit), 0}; };
  if (a.output == StreamOutput::add_f32 && own < count) laid_by = lies_at(first + own);

  float square = 0;
  const int64_t source = static_cast<int64_t>(norm && a.gather ? a.gather[0] : 0) * a.K;
#pragma unroll 1
  for (int i = own; i < a.K / 8; i += kThreads) {
    uint4* const to = reinterpret_cast<uint4*>(activations) + i;
    if (!norm) {
      *to = load_fresh(static_cast<const T*>(a.in) + i * 8);
      continue;
    }
    float v[8], w[8];
    load8_fresh(static_cast<const float*>(a.in) + source + i * 8, v);
    if (i != own) weight = load_raw8(static_cast<const T*>(a.norm_weight) + i * 8);
    widen8<T>(weight, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      square += v[j] * v[j];
      v[j] *= w[j];
    }
    *to = narrow8<T>(v);
  }
  if (norm) {
    square = warp_reduce(square, Add());
    if (lane == 0) squares[warp] = square;
  }
  __syncthreads();

  // Lane (g, t) has columns 8 t to 8 t + 7 of part g: k may be dealt out in any way that both sides share.
  int stage = 0, parity = 0, column = warp % per_row;
#pragma unroll 1
  for (int chunk = warp; chunk < chunks; chunk += kWarps) {
    wait_landed(landings + stage, parity);
    const uint4* const w = reinterpret_cast<const uint4*>(ring + stage * kChunk) + lane;
    const uint4* const x = reinterpret_cast<const uint4*>(activations + column * kChunk) + lane;
    const int slabs = (a.K - column * kChunk < kChunk ? a.K - column * kChunk : kChunk) / kSlab;
    uint4 taken[kChunk / kSlab];
#pragma unroll
    for (int i = 0; i < kChunk / kSlab; ++i)
      if (i < slabs) taken[i] = w[32 * i];
    __syncwarp();  // before the stage is overwritten
    fetch(stage);
    if (++stage == kDepth) stage = 0, parity ^= 1;
    float sum[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
    for (int i = 0; i < kChunk / kSlab; ++i) {
      if (i >= slabs) break;
      const uint4 v = x[32 * i];
      const T* const type = nullptr;
      mma(sum[0], make_uint4(v.x, 0, v.y, 0), make_uint2(taken[i].x, taken[i].y), type);
      mma(sum[1], make_uint4(v.z, 0, v.w, 0), make_uint2(taken[i].z, taken[i].w), type);
    }
    // Lane (g, g / 2) has element (g, g); lane 0 adds those up.
    float v = lane / 4 % 2 ? sum[0][1] + sum[1][1] : sum[0][0] + sum[1][0];
    v += __shfl_xor_sync(kFullWarp, v, 4);
    v += __shfl_xor_sync(kFullWarp, v, 9);
    v += __shfl_xor_sync(kFullWarp, v, 18);
    if (lane == 0) partial[chunk] = v;
    for (column += kWarps; column >= per_row;) column -= per_row;
  }
  __syncthreads();

  float factor = 1;
  if (norm) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += squares[w];
    factor = rsqrtf(sum / static_cast<float>(a.K) + a.eps);
  }
#pragma unroll 1
  for (int i = own; i < count; i += kThreads) {
    const float* const sums = partial + i * per_row;
    float sum = 0, up = 0;
    for (int c = 0; c < per_row; ++c) sum += sums[c];
    if (units.pairs)
      for (int c = 0; c < per_row; ++c) up += sums[count * per_row + c];
    const int unit = first + i;
    if (i != own && units.rope) laid_by = unit_angle(a, units, 0, unit);
    if (i != own && a.output == StreamOutput::add_f32) laid_by = lies_at(unit);
    write_output<T>(a, units, 0, unit, sum * factor, up * factor, laid_by);
  }
}

size_t shared_bytes(const StreamGemmArgs& a, int grid) {
  const int rows_of_w = (a.units + grid - 1) / grid * (a.units == a.N ? 1 : 2);
  return static_cast<size_t>(kWarps * kDepth * kChunk * 2 + a.K * 2 + kWarps * kDepth * 8 + kWarps * 4 +
                             rows_of_w * ((a.K + kChunk - 1) / kChunk) * 4);
}

}  // namespace

// The launchers.

bool stream_row_fits(StreamGemmArgs& a, const Queue& queue) {
  if (!queue.bulk_copies || a.rows != 1 || a.K % kSlab) return false;
  a.units = a.output == StreamOutput::silu_mul || a.output == StreamOutput::rope_append ? a.N / 2 : a.N;
  return shared_bytes(a, queue.multiprocessors) <= static_cast<size_t>(queue.shared_limit);
}

void enqueue_stream_row(DType dtype, const StreamGemmArgs& args, Queue& queue) {
  const auto run = [&](auto kernel) {
    launch_spread(queue, kernel, dim3(kThreads), shared_bytes(args, queue.multiprocessors), args);
  };
  if (dtype == DType::bf16)
    run(stream_row_kernel<__nv_bfloat16>);
  else
    run(stream_row_kernel<__half>);
}

}  // namespace rondo::cuda
