// Where the outputs of the streaming products go, and which rows of W belong to one.
#pragma once

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/load.h"
#include "kernels/cuda/rotate.h"
#include "kernels/cuda/share.h"

namespace rondo::cuda {

// What the kernel before wrote: past the L1, which may hold what lay there earlier.
__device__ __forceinline__ uint4 load_fresh(const void* from) {
  return __ldcg(static_cast<const uint4*>(from));
}
__device__ __forceinline__ void load8_fresh(const float* from, float (&v)[8]) {
  const Raw8<float> raw{{load_fresh(from), load_fresh(from + 4)}};
  widen8<float>(raw, v);
}

// The output as an instance sees it that is not used for rope_append: its code is left out.
__device__ __forceinline__ StreamOutput without_rope(StreamOutput output) {
  return output == StreamOutput::rope_append ? StreamOutput::store : output;
}

// A unit is a row of W, or a pair of rows: a gate and an up row, or the two elements that a rotation mixes.
struct Units {
  bool rope;
  bool pairs;
  int half;  // rows from a pair's first to its second

  __device__ __forceinline__ Units(const StreamGemmArgs& a, StreamOutput output)
      : rope(output == StreamOutput::rope_append),
        pairs(rope || output == StreamOutput::silu_mul),
        half(rope ? a.rope.head_dim / 2 : a.units) {}

  __device__ __forceinline__ int first_row(int unit) const { return rope ? unit + unit / half * half : unit; }
};

// What an output needs besides its sums, of what the kernels before wrote: fetched while the weights are on
// their way.
template <class T>
struct Early {
  union {
    Angle angle;   // rope_append: that the unit turns by; none for v
    float before;  // add_f32: what is added to
  };
  T* place;  // rope_append: of the head that the unit is in; null: nobody reads it
};

template <class T>
__device__ __forceinline__ Early<T> early_rope(const StreamGemmArgs& a, const Units& units, int r, int unit) {
  const int head = unit / units.half;
  Early<T> early{{Angle{1.0f, 0.0f}}, head_at<T>(a.rope, r, head, load_place(a.rope, r))};
  if (head < a.rope.heads + a.rope.kv_heads) early.angle = load_angle(a.rope, r, unit % units.half);
  return early;
}

__device__ __forceinline__ float lies_at(const StreamGemmArgs& a, int r, int unit) {
  return __ldcg(static_cast<const float*>(a.out) + static_cast<int64_t>(r) * a.units + unit);
}

// Writes row r's output of a unit, whose sums are `sum` and, of a pair's second row, `up`.
template <class T>
__device__ __forceinline__ void write_output(const StreamGemmArgs& a, StreamOutput output, const Units& units,
                                             int r, int unit, float sum, float up, const Early<T>& early) {
  const int64_t at = static_cast<int64_t>(r) * a.units + unit;
  if (a.bias) {
    const T* const bias = static_cast<const T*>(a.bias) + units.first_row(unit);
    sum += static_cast<float>(bias[0]);
    if (units.pairs) up += static_cast<float>(bias[units.half]);
  }
  switch (output) {
    case StreamOutput::store: static_cast<T*>(a.out)[at] = static_cast<T>(sum); break;
    case StreamOutput::store_f32: static_cast<float*>(a.out)[at] = sum; break;
    case StreamOutput::add_f32: static_cast<float*>(a.out)[at] = early.before + sum; break;
    case StreamOutput::silu_mul:
      // A division and an exponential of some units in the last place of fp32: T has 16 bits fewer.
      static_cast<T*>(a.out)[at] = static_cast<T>(__fdividef(sum, 1.0f + __expf(-sum)) * up);
      break;
    case StreamOutput::rope_append:
      if (!early.place) break;
      rotate(early.angle, sum, up);
      early.place[unit % units.half] = static_cast<T>(sum);
      early.place[unit % units.half + units.half] = static_cast<T>(up);
      break;
  }
}

}  // namespace rondo::cuda
