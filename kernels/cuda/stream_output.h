// Where the outputs of the streaming products go, and which rows of W belong to one.
#pragma once

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/rotate.h"

namespace rondo::cuda {

// What the kernel before wrote: past the L1, which may hold what lay there earlier.
__device__ __forceinline__ uint4 load_fresh(const void* from) {
  return __ldcg(static_cast<const uint4*>(from));
}
__device__ __forceinline__ void load8_fresh(const float* from, float (&v)[8]) {
  const Raw8<float> raw{{load_fresh(from), load_fresh(from + 4)}};
  widen8<float>(raw, v);
}

// n things dealt out evenly: the first `more` parts get one more than the others.
struct Deal {
  int each;
  int more;

  __device__ __forceinline__ int begin(int part) const { return part * each + (part < more ? part : more); }
  __device__ __forceinline__ int count(int part) const { return each + (part < more ? 1 : 0); }
};

// A unit is a row of W, or a pair of rows: a gate and an up row, or the two elements that a rotation mixes.
struct Units {
  bool rope;
  bool pairs;
  int half;  // rows from a pair's first to its second

  __device__ __forceinline__ Units(const StreamGemmArgs& a, bool may_rope)
      : rope(may_rope && a.output == StreamOutput::rope_append),
        pairs(rope || a.output == StreamOutput::silu_mul),
        half(rope ? a.rope.head_dim / 2 : a.units) {}

  __device__ __forceinline__ int first_row(int unit) const { return rope ? unit + unit / half * half : unit; }
};

// The angle that a unit of a rotation turns by in row r of the step; none for v.
__device__ __forceinline__ Angle unit_angle(const StreamGemmArgs& a, const Units& units, int r, int unit) {
  if (unit / units.half >= a.rope.heads + a.rope.kv_heads) return {1.0f, 0.0f};
  const Row row = a.rope.rows[r];
  return angle(row_rope(a.rope.rope, row, a.rope.slots, a.rope.head_dim), row.position, unit % units.half,
               a.rope.head_dim);
}

// Writes row r's output of a unit, whose sums are `sum` and, of a pair's second row, `up`. `laid_by`: the
// unit's angle; or, as its cosine, what lies at an output that is to be added to.
template <class T>
__device__ __forceinline__ void write_output(const StreamGemmArgs& a, const Units& units, int r, int unit,
                                             float sum, float up, Angle laid_by) {
  const int64_t at = static_cast<int64_t>(r) * a.units + unit;
  if (a.bias) {
    const T* const bias = static_cast<const T*>(a.bias) + units.first_row(unit);
    sum += static_cast<float>(bias[0]);
    if (units.pairs) up += static_cast<float>(bias[units.half]);
  }
  switch (a.output) {
    case StreamOutput::store: static_cast<T*>(a.out)[at] = static_cast<T>(sum); break;
    case StreamOutput::store_f32: static_cast<float*>(a.out)[at] = sum; break;
    case StreamOutput::add_f32: static_cast<float*>(a.out)[at] = laid_by.cosine + sum; break;
    case StreamOutput::silu_mul:
      static_cast<T*>(a.out)[at] = static_cast<T>(sum / (1.0f + expf(-sum)) * up);
      break;
    case StreamOutput::rope_append: {
      if (!units.rope) break;
      rotate(laid_by, sum, up);
      const Row token = a.rope.rows[r];
      const int head = unit / units.half, kv_head = (head - a.rope.heads) % a.rope.kv_heads;
      T* place =
          static_cast<T*>(a.rope.q) + (static_cast<int64_t>(r) * a.rope.heads + head) * a.rope.head_dim;
      if (head >= a.rope.heads) {
        if (token.slot == 0)
          break;  // padding: nobody reads the scrap page, and all such rows have one place there
        place = static_cast<T*>(head < a.rope.heads + a.rope.kv_heads ? a.rope.k_pages : a.rope.v_pages) +
                page_place(a.rope.map, token, kv_head, a.rope.kv_heads) * a.rope.head_dim;
      }
      place[unit % units.half] = static_cast<T>(sum);
      place[unit % units.half + units.half] = static_cast<T>(up);
      break;
    }
  }
}

}  // namespace rondo::cuda
