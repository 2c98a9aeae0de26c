// What the kernels need.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int kMinChunk = 64;  // positions below which a split is not worth its merge
constexpr int kMaxSplits = 64;

// Which positions a row attends to, and how they are cut: `chunk` each, the last split's fewer. Both kernels
// compute it from the row, so that the grid can stay what the bucket and the capacity made it.
struct Span {
  int64_t begin;
  int64_t end;
  int64_t chunk;
  int splits;  // that have a position; 0: nobody asks for this row
};

__device__ __forceinline__ Span span_of(const AttentionArgs& a, int64_t r) {
  const Row row = a.rows[r];
  // Padding is of the scrap slot. A row that belongs to a tile which started before it is attended for by
  // blocks of its own.
  if (row.run == 0 && row.slot == 0) return {0, 0, 0, 0};
  const int64_t end = row.position + int64_t{1};
  const int64_t begin = a.sliding_window > 0 && end > a.sliding_window ? end - a.sliding_window : 0;
  int64_t chunk = (end - begin + a.splits - 1) / a.splits;
  if (chunk < kMinChunk) chunk = kMinChunk;
  return {begin, end, chunk, static_cast<int>((end - begin + chunk - 1) / chunk)};
}

// The state of an online softmax over some positions: the largest score, the sum of 2^(score - m), and the
// values weighted likewise (8 of a head's dimensions). Scores are in units of log 2.
struct Softmax {
  float m;
  float l;
  float o[8];
};

// -inf - -inf is NaN; a state without a position, or a score of -inf, has weight 0 against any finite
// reference.
__device__ __forceinline__ float reference(float m) { return m == -INFINITY ? 0.0f : m; }

__device__ __forceinline__ void merge_with_lane(Softmax& s, int offset) {
  const float m = __shfl_xor_sync(kFullWarp, s.m, offset), l = __shfl_xor_sync(kFullWarp, s.l, offset);
  const float top = fmaxf(s.m, m), at = reference(top), mine = exp2f(s.m - at), theirs = exp2f(m - at);
  s.m = top;
  s.l = s.l * mine + l * theirs;
#pragma unroll
  for (int d = 0; d < 8; ++d) s.o[d] = s.o[d] * mine + __shfl_xor_sync(kFullWarp, s.o[d], offset) * theirs;
}

// The kernels.
//
// o = softmax(q k^T / sqrt(head_dim)) v, split over positions (Milakov and Gimelshein, "Online normalizer
// calculation for softmax"; Dao et al., "Flash-Decoding for long-context inference"). q, o [R, Q]; K and V
// pages [pages, kv_heads, page_size, head_dim]; a position's page is page_tables[slot][position / page_size].
//
// First kernel. Grid [kv_heads x head groups, S, R], block 128. A block takes G query heads of one K/V head
// over one chunk of positions, so that K and V are read once for all G. `lanes` (a power of two, at least
// head_dim / 8) neighbouring lanes take one position, 8 dimensions each; a warp takes 32 / lanes positions at
// a time, and kUnroll such steps are in flight. The partial results are merged over lanes, then over warps in
// shared memory. A row that needs one split only gets its o here; otherwise partial_o [R, S, heads, head_dim]
// and partial_ml [R, S, heads, 2] (maximum, sum) are written.
template <class T, int G>
__global__ void __launch_bounds__(32 * kWarps, G == 4 ? 3 : 4)
    attention_kernel(const AttentionArgs a, const int lanes) {
  constexpr int kUnroll = sizeof(T) == 2 ? 4 : 2;
  RONDO_SHARED(warp_o, float[kWarps][G][kMaxHeadDim]);
  RONDO_SHARED(warp_ml, float[kWarps][G][2]);
  const int64_t r = blockIdx.z, D = a.head_dim;
  const int split = static_cast<int>(blockIdx.y);
  const Span span = span_of(a, r);
  if (split >= span.splits) return;  // the whole block

  const int group = a.heads / a.kv_heads, blocks_per_kv_head = (group + G - 1) / G;
  const int kv_head = static_cast<int>(blockIdx.x) / blocks_per_kv_head;
  const int first_in_group = static_cast<int>(blockIdx.x) % blocks_per_kv_head * G;
  const int first_head = kv_head * group + first_in_group;
  const int live_heads = group - first_in_group < G ? group - first_in_group : G;

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int per_warp = 32 / lanes, sub = lane / lanes, dim = lane % lanes * 8;
  const bool active = dim < D;

  const float scale = 1.44269504f / sqrtf(static_cast<float>(D));  // log2(e): scores are in units of log 2
  float q[G][8];
  Softmax state[G];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    state[g].m = -INFINITY;
    state[g].l = 0;
#pragma unroll
    for (int d = 0; d < 8; ++d) q[g][d] = state[g].o[d] = 0;
    if (active && g < live_heads)
      load8(static_cast<const T*>(a.q) + (r * a.heads + first_head + g) * D + dim, q[g]);
#pragma unroll
    for (int d = 0; d < 8; ++d) q[g][d] *= scale;
  }

  const int32_t* table = a.map.page_tables + a.rows[r].slot * a.map.pages_per_slot;
  const int64_t begin = span.begin + split * span.chunk;
  const int64_t end = begin + span.chunk < span.end ? begin + span.chunk : span.end;
  const int64_t in_page = (int64_t{1} << a.map.page_shift) - 1;

  for (int64_t base = begin + warp * per_warp * kUnroll; base < end; base += kWarps * per_warp * kUnroll) {
    Raw8<T> k[kUnroll], v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t p = base + u * per_warp + sub;
      k[u] = v[u] = zero_raw8<T>();
      if (active && p < end) {
        const int64_t page = table[p >> a.map.page_shift];
        const int64_t at = (((page * a.kv_heads + kv_head) << a.map.page_shift) + (p & in_page)) * D + dim;
        k[u] = load_raw8(static_cast<const T*>(a.k_pages) + at);
        v[u] = load_raw8(static_cast<const T*>(a.v_pages) + at);
      }
    }
    float score[kUnroll][G];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float key[8];
      widen8<T>(k[u], key);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float s = 0;
#pragma unroll
        for (int d = 0; d < 8; ++d) s += q[g][d] * key[d];
        score[u][g] = s;
      }
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int g = 0; g < G; ++g) score[u][g] += __shfl_xor_sync(kFullWarp, score[u][g], offset);

#pragma unroll
    for (int g = 0; g < G; ++g) {
      float top = state[g].m;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (base + u * per_warp + sub >= end) score[u][g] = -INFINITY;
        top = fmaxf(top, score[u][g]);
      }
      const float at = reference(top), keep = exp2f(state[g].m - at);
      state[g].m = top;
      state[g].l *= keep;
#pragma unroll
      for (int d = 0; d < 8; ++d) state[g].o[d] *= keep;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        score[u][g] = exp2f(score[u][g] - at);
        state[g].l += score[u][g];
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float value[8];
      widen8<T>(v[u], value);
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int d = 0; d < 8; ++d) state[g].o[d] += score[u][g] * value[d];
    }
  }

  for (int offset = lanes; offset < 32; offset *= 2)
#pragma unroll
    for (int g = 0; g < G; ++g) merge_with_lane(state[g], offset);

#pragma unroll
  for (int g = 0; g < G; ++g) {
    if (lane == 0) {
      warp_ml[warp][g][0] = state[g].m;
      warp_ml[warp][g][1] = state[g].l;
    }
    if (sub == 0 && active) store8(&warp_o[warp][g][dim], state[g].o);
  }
  __syncthreads();

  const int64_t partial = (r * a.splits + split) * a.heads + first_head;
  for (int i = static_cast<int>(threadIdx.x); i < live_heads * a.head_dim; i += 32 * kWarps) {
    const int g = i / a.head_dim, d = i % a.head_dim;
    float m = -INFINITY, l = 0, o = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) m = fmaxf(m, warp_ml[w][g][0]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(warp_ml[w][g][0] - reference(m));
      l += weight * warp_ml[w][g][1];
      o += weight * warp_o[w][g][d];
    }
    if (span.splits == 1) {
      static_cast<T*>(a.o)[(r * a.heads + first_head + g) * D + d] = static_cast<T>(o / l);
    } else {
      a.partial_o[(partial + g) * D + d] = o;
      if (d == 0) {
        a.partial_ml[(partial + g) * 2] = m;
        a.partial_ml[(partial + g) * 2 + 1] = l;
      }
    }
  }
}

// Second kernel: o[r][h] = sum_s w_s o_s / sum_s w_s l_s, w_s = 2^(m_s - max m), over the splits that had a
// position. Grid [ceil(heads / 4), R], block 128: a warp per head, 4 neighbouring dimensions a lane and turn.
// Lane s computes w_s and w_(s + 32).
template <class T>
__global__ void __launch_bounds__(32 * kWarps) merge_kernel(const AttentionArgs a) {
  const int head = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = blockIdx.y, D = a.head_dim;
  const int splits = span_of(a, r).splits;
  if (head >= a.heads || splits <= 1) return;  // whole warps

  const int64_t first = r * a.splits * a.heads + head;  // split s lies s * heads behind it
  float m[2], w[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int s = lane + 32 * i;
    m[i] = s < splits ? a.partial_ml[(first + static_cast<int64_t>(s) * a.heads) * 2] : -INFINITY;
  }
  const float top = warp_reduce(fmaxf(m[0], m[1]), [](float x, float y) { return fmaxf(x, y); });
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int s = lane + 32 * i;
    w[i] = exp2f(m[i] - reference(top));
    if (s < splits) sum += w[i] * a.partial_ml[(first + static_cast<int64_t>(s) * a.heads) * 2 + 1];
  }
  sum = warp_reduce(sum, Add());

  for (int64_t base = 0; base < D; base += 128) {  // all lanes go round together: they exchange weights
    const int64_t d = base + lane * 4;
    float o[4] = {0, 0, 0, 0};
    for (int s = 0; s < splits; ++s) {
      const float weight = __shfl_sync(kFullWarp, s < 32 ? w[0] : w[1], s % 32);
      if (d < D) {
        float v[4];
        load4(a.partial_o + (first + static_cast<int64_t>(s) * a.heads) * D + d, v);
#pragma unroll
        for (int j = 0; j < 4; ++j) o[j] += weight * v[j];
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) o[j] /= sum;
    if (d < D) store4(static_cast<T*>(a.o) + (r * a.heads + head) * D + d, o);
  }
}

template <class T, int G>
void enqueue_partial(const AttentionArgs& args, int rows, int lanes, cudaStream_t stream) {
  const int group = args.heads / args.kv_heads;
  const dim3 grid(static_cast<unsigned>(args.kv_heads * ((group + G - 1) / G)),
                  static_cast<unsigned>(args.splits), static_cast<unsigned>(rows));
  launch(attention_kernel<T, G>, grid, dim3(32 * kWarps), 0, stream, args, lanes);
}

}  // namespace

// The launcher.

void enqueue_attention(DType dtype, const AttentionArgs& args, int rows, cudaStream_t stream) {
  if (args.head_dim % 8 || args.head_dim > kMaxHeadDim || args.splits > kMaxSplits)
    throw Error(ErrorKind::InvalidArgument,
                "attention: expected a head_dim that is a multiple of 8 up to 256 and at most 64 splits, "
                "found head_dim " +
                    std::to_string(args.head_dim) + " and " + std::to_string(args.splits) + " splits");
  int lanes = 1;
  while (lanes * 8 < args.head_dim) lanes *= 2;
  const int group = args.heads / args.kv_heads;
  dispatch(dtype, "attention", [&]<class T>(T*) {
    if (group == 1)
      enqueue_partial<T, 1>(args, rows, lanes, stream);
    else if (group == 2)
      enqueue_partial<T, 2>(args, rows, lanes, stream);
    else
      enqueue_partial<T, 4>(args, rows, lanes, stream);
    if (args.splits > 1) {
      const dim3 grid(static_cast<unsigned>((args.heads + kWarps - 1) / kWarps), static_cast<unsigned>(rows));
      launch(merge_kernel<T>, grid, dim3(32 * kWarps), 0, stream, args);
    }
  });
}

}  // namespace rondo::cuda
