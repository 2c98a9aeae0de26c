// What the kernels need.
#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/reduce.h"

namespace rondo::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxHeadDim = 256;
constexpr int kMinChunk = 64;  // positions below which a split is not worth its merge
constexpr int kMaxSplits = 64;
constexpr int kLaneWords = 16;  // of 16 bytes, that a lane has in flight

// Which positions a row attends to, and how they are cut: `chunk` each, the last split's fewer. Both kernels
// compute it from the row, so that the grid can stay what the bucket and the capacity made it.
struct Span {
  int begin;
  int end;
  int chunk;
  int splits;  // that have a position; 0: nobody asks for this row
};

__device__ __forceinline__ Span span_of(const AttentionArgs& a, int64_t r) {
  const Row row = a.rows[r];
  // Padding is of the scrap slot. A row that belongs to a tile which started before it is attended for by
  // blocks of its own.
  if (row.run == 0 && row.slot == 0) return {0, 0, 0, 0};
  const int end = row.position + 1;
  const int begin =
      a.sliding_window > 0 && end > a.sliding_window ? end - static_cast<int>(a.sliding_window) : 0;
  int chunk = (end - begin + a.splits - 1) / a.splits;
  if (chunk < kMinChunk) chunk = kMinChunk;
  return {begin, end, chunk, (end - begin + chunk - 1) / chunk};
}

// The first position of row r's sequence that this step writes: the pages hold all before it.
__device__ __forceinline__ int first_position_of_step(const AttentionArgs& a, int64_t r) {
  if (!a.look_ahead) return 0;
  const Row row = a.rows[r];
  int first = row.position;
  for (int other = 0; other < a.rows_in_step; ++other) {
    const Row o = a.rows[other];
    if (o.slot == row.slot && o.position < first) first = o.position;
  }
  return first;
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

// One item of the first kernel, below. `waited`: whether the kernel before is known to have ended.
template <class T, int G>
__device__ __forceinline__ void attend_item(const AttentionArgs& a, const int lanes, const int64_t r,
                                            const int split, const int head_group, const Span& span,
                                            uint4* ring, float* warp_ml, float* warp_o, bool& waited) {
  constexpr int kUnroll = 8 / static_cast<int>(sizeof(T)) / (G < 4 ? 1 : 2);
  constexpr int kWords = static_cast<int>(sizeof(Raw8<T>) / sizeof(uint4));
  constexpr int kStages = kLaneWords / (2 * kWords * kUnroll);
  const int64_t D = a.head_dim;
  const int group = a.heads / a.kv_heads, blocks_per_kv_head = (group + G - 1) / G;
  const int kv_head = head_group / blocks_per_kv_head;
  const int first_in_group = head_group % blocks_per_kv_head * G;
  const int first_head = kv_head * group + first_in_group;
  const int live_heads = group - first_in_group < G ? group - first_in_group : G;

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int per_warp = 32 / lanes, sub = lane / lanes, dim = lane % lanes * 8;
  const bool active = dim < D;

  const int32_t* table = a.map.page_tables + a.rows[r].slot * a.map.pages_per_slot;
  const int begin = span.begin + split * span.chunk;
  const int end = begin + span.chunk < span.end ? begin + span.chunk : span.end;
  const int in_page = (1 << a.map.page_shift) - 1;

  // A lane's own ring: it copies what it will read itself, so that no barrier is needed.
  AsyncCopies copies;
  uint4* const own = ring + warp * kLaneWords * 32 + lane;
  const auto place = [&](int stage, int u, int which) {
    return own + ((stage * kUnroll + u) * 2 + which) * kWords * 32;
  };
  const auto fetch = [&](int stage, int base, int from, int to) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int p = base + u * per_warp + sub;
      if (!active || p < from || p >= to) continue;
      const int64_t page = table[p >> a.map.page_shift];
      const int64_t at = (((page * a.kv_heads + kv_head) << a.map.page_shift) + (p & in_page)) * D + dim;
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        copies.copy16(place(stage, u, 0) + 32 * i, static_cast<const T*>(a.k_pages) + at + 8 / kWords * i);
        copies.copy16(place(stage, u, 1) + 32 * i, static_cast<const T*>(a.v_pages) + at + 8 / kWords * i);
      }
    }
  };
  const auto taken = [&](int stage, int u, int which) {
    Raw8<T> raw;
#pragma unroll
    for (int i = 0; i < kWords; ++i) raw.words[i] = place(stage, u, which)[32 * i];
    return raw;
  };

  // What earlier steps wrote need not wait for the kernel before; what this step wrote must.
  const int step = kWarps * per_warp * kUnroll, old = first_position_of_step(a, r);
  int base = begin + warp * per_warp * kUnroll;
#pragma unroll 1
  for (int stage = 0; stage < kStages; ++stage) fetch(stage, base + stage * step, 0, end < old ? end : old);
  if (!waited) wait_for_previous();
  waited = true;
#pragma unroll 1
  for (int stage = 0; stage < kStages; ++stage) fetch(stage, base + stage * step, old, end);
  copies.commit();

  const float scale = 1.44269504f / sqrtf(static_cast<float>(D));  // log2(e): scores are in units of log 2
  Raw8<T> q[G];  // as it lies in memory: half the registers of fp32
  Softmax state[G];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    state[g].m = -INFINITY;
    state[g].l = 0;
#pragma unroll
    for (int d = 0; d < 8; ++d) state[g].o[d] = 0;
    q[g] = zero_raw8<T>();
    if (active && g < live_heads)
      q[g] = load_raw8(static_cast<const T*>(a.q) + (r * a.heads + first_head + g) * D + dim);
  }

  copies.wait<0>();
  for (int stage = 0; base < end; stage = stage + 1 == kStages ? 0 : stage + 1) {
    copies.wait<kStages - 1>();
    // A position that is not there has weight 0, and its place in the ring anything at all.
    const auto exists = [&](int u) { return active && base + u * per_warp + sub < end; };
    float score[kUnroll][G];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float key[8];
      widen8<T>(exists(u) ? taken(stage, u, 0) : zero_raw8<T>(), key);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float query[8], s = 0;
        widen8<T>(q[g], query);
#pragma unroll
        for (int d = 0; d < 8; ++d) s += query[d] * key[d];
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
        score[u][g] = base + u * per_warp + sub < end ? score[u][g] * scale : -INFINITY;
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
      widen8<T>(exists(u) ? taken(stage, u, 1) : zero_raw8<T>(), value);
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int d = 0; d < 8; ++d) state[g].o[d] += score[u][g] * value[d];
    }
    fetch(stage, base + kStages * step, 0, end);
    copies.commit();
    base += step;
  }

  for (int offset = lanes; offset < 32; offset *= 2)
#pragma unroll
    for (int g = 0; g < G; ++g) merge_with_lane(state[g], offset);

#pragma unroll
  for (int g = 0; g < G; ++g) {
    if (lane == 0) {
      warp_ml[(warp * G + g) * 2] = state[g].m;
      warp_ml[(warp * G + g) * 2 + 1] = state[g].l;
    }
    if (sub == 0 && active) store8(&warp_o[(warp * G + g) * D + dim], state[g].o);
  }
  __syncthreads();

  const int64_t partial = (r * a.capacity + split) * a.heads + first_head;
  for (int i = static_cast<int>(threadIdx.x); i < live_heads * a.head_dim; i += 32 * kWarps) {
    const int g = i / a.head_dim, d = i % a.head_dim;
    float m = -INFINITY, l = 0, o = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) m = fmaxf(m, warp_ml[(w * G + g) * 2]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = exp2f(warp_ml[(w * G + g) * 2] - reference(m));
      l += weight * warp_ml[(w * G + g) * 2 + 1];
      o += weight * warp_o[(w * G + g) * D + d];
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
  __syncthreads();  // before the next item's results
}

// The kernels, for any type and head_dim; attention_tiles.cu has a faster form for most.
//
// o = softmax(q k^T / sqrt(head_dim)) v, split over positions (Milakov and Gimelshein, "Online normalizer
// calculation for softmax"; Dao et al., "Flash-Decoding for long-context inference"). q, o [R, Q]; K and V
// pages [pages, kv_heads, page_size, head_dim]; a position's page is page_tables[slot][position / page_size].
//
// First kernel. A block per multiprocessor, of 256 threads, takes items (row, split, head group) in turn. An
// item is G query heads of one K/V head over one chunk of positions, so that K and V are read once for all G.
// `lanes` (a power of two, at least head_dim / 8) neighbouring lanes take one position, 8 dimensions each; a
// warp takes 32 / lanes positions at a time, and what it will read next is on its way into shared memory. The
// partial results are merged over lanes, then over warps in shared memory. A row that needs one split only
// gets its o here; otherwise partial_o [R, S, heads, head_dim] and partial_ml [R, S, heads, 2] (maximum, sum)
// are written.
template <class T, int G>
__global__ void __launch_bounds__(32 * kWarps, 2) attention_kernel(const AttentionArgs a, const int lanes) {
  RONDO_DYN_SHARED(uint4, ring);  // [kWarps, kLaneWords, 32]
  float* const warp_ml = reinterpret_cast<float*>(ring + kWarps * kLaneWords * 32);  // [kWarps, G, 2]
  float* const warp_o = warp_ml + kWarps * G * 2;                                    // [kWarps, G, head_dim]
  let_next_start();
  const int group = a.heads / a.kv_heads, blocks_per_kv_head = (group + G - 1) / G;
  const int per_split = a.kv_heads * blocks_per_kv_head, items = a.rows_in_step * a.splits * per_split;
  bool waited = false;
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) {
    const int r = item / per_split / a.splits, split = item / per_split % a.splits;
    const Span span = span_of(a, r);
    if (split >= span.splits) continue;
    attend_item<T, G>(a, lanes, r, split, item % per_split, span, ring, warp_ml, warp_o, waited);
  }
  if (!waited) wait_for_previous();  // nobody may take this kernel for done before the one before it is
}

// Second kernel: o[r][h] = sum_s w_s o_s / sum_s w_s l_s, w_s = 2^(m_s - max m), over the splits that had a
// position. A block per multiprocessor, of 256 threads, takes heads of rows in turn. Warp w adds up splits w,
// w + 8, ..., 4 neighbouring dimensions a lane and turn, so that all loads are in flight at once; the warps'
// sums are added in their order. Lane s computes w_s and w_(s + 32).
template <class T>
__global__ void __launch_bounds__(32 * kWarps) merge_kernel(const AttentionArgs a) {
  RONDO_SHARED(sums, float[kWarps][kMaxHeadDim]);
  let_next_start();
  wait_for_previous();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t D = a.head_dim;
  for (int task = static_cast<int>(blockIdx.x); task < a.rows_in_step * a.heads;
       task += static_cast<int>(gridDim.x)) {
    const int64_t r = task / a.heads;
    const int head = task % a.heads;
    const int splits = span_of(a, r).splits;
    if (splits <= 1) continue;

    const int64_t first = r * a.capacity * a.heads + head;  // split s lies s * heads behind it
    float m[2], l[2], w[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t s = lane + 32 * i, at = (first + s * a.heads) * 2;
      m[i] = s < splits ? a.partial_ml[at] : -INFINITY;
      l[i] = s < splits ? a.partial_ml[at + 1] : 0.0f;
    }
    const float top = warp_reduce(fmaxf(m[0], m[1]), [](float x, float y) { return fmaxf(x, y); });
#pragma unroll
    for (int i = 0; i < 2; ++i) w[i] = exp2f(m[i] - reference(top));
    const float sum = warp_reduce(w[0] * l[0] + w[1] * l[1], Add());

    for (int64_t base = 0; base < D; base += 128) {  // all lanes go round together: they exchange weights
      const int64_t d = base + lane * 4;
      float o[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < kMaxSplits / kWarps; ++i) {
        const int s = warp + i * kWarps;
        if (s >= splits) break;
        const float weight = __shfl_sync(kFullWarp, s < 32 ? w[0] : w[1], s % 32);
        if (d < D) {
          float v[4];
          load4(a.partial_o + (first + static_cast<int64_t>(s) * a.heads) * D + d, v);
#pragma unroll
          for (int j = 0; j < 4; ++j) o[j] += weight * v[j];
        }
      }
      if (d < D) store4(&sums[warp][d], o);
    }
    __syncthreads();
    for (int d = static_cast<int>(threadIdx.x); d < a.head_dim; d += 32 * kWarps) {
      float o = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) o += sums[i][d];
      static_cast<T*>(a.o)[(r * a.heads + head) * D + d] = static_cast<T>(o / sum);
    }
    __syncthreads();  // before the next task's sums
  }
}

template <class T, int G>
void enqueue_partial(const AttentionArgs& args, int lanes, Queue& queue) {
  const auto bytes =
      static_cast<size_t>(kWarps) *
      (kLaneWords * 32 * sizeof(uint4) + static_cast<size_t>(G * (args.head_dim + 2)) * sizeof(float));
  if (args.look_ahead)
    return launch_spread(queue, attention_kernel<T, G>, dim3(32 * kWarps), bytes, args, lanes);
  // Many rows are work enough for two blocks on each multiprocessor.
  allow_shared(attention_kernel<T, G>, queue.shared_limit);
  launch(queue, attention_kernel<T, G>, dim3(static_cast<unsigned>(2 * queue.multiprocessors)),
         dim3(32 * kWarps), bytes, args, lanes);
}

}  // namespace

// The launcher.

const char* attention_kernels(DType dtype, const AttentionArgs& args) {
  return attention_tiles_fit(dtype, args.head_dim) ? "attention_tiles" : "attention + merge";
}

void enqueue_attention(DType dtype, const AttentionArgs& asked, Queue& queue) {
  AttentionArgs args = asked;
  if (args.head_dim % 8 || args.head_dim > kMaxHeadDim || args.capacity > kMaxSplits)
    throw Error(
        ErrorKind::InvalidArgument,
        "attention: expected a head_dim that is a multiple of 8 up to 256 and at most 64 splits, found "
        "head_dim " +
            std::to_string(args.head_dim) + " and " + std::to_string(args.capacity) + " splits");
  if (attention_tiles_fit(dtype, args.head_dim)) return enqueue_attention_tiles(dtype, args, queue);
  int lanes = 1;
  while (lanes * 8 < args.head_dim) lanes *= 2;
  const int group = args.heads / args.kv_heads, G = group >= 3 ? 4 : group;
  // One item for each block where there are few; where there are many, smaller ones, so that the last are not
  // waited for.
  const int units = args.rows_in_step * args.kv_heads * ((group + G - 1) / G), blocks = queue.multiprocessors;
  const int wanted = units <= blocks ? blocks / units : 4 * blocks / units;
  args.splits = wanted < 1 ? 1 : wanted < args.capacity ? wanted : args.capacity;
  dispatch(dtype, "attention", [&]<class T>(T*) {
    if (group == 1)
      enqueue_partial<T, 1>(args, lanes, queue);
    else if (group == 2)
      enqueue_partial<T, 2>(args, lanes, queue);
    else
      enqueue_partial<T, 4>(args, lanes, queue);
    if (args.splits > 1) launch_spread(queue, merge_kernel<T>, dim3(32 * kWarps), 0, args);
  });
}

}  // namespace rondo::cuda
