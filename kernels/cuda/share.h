// How work is dealt out to blocks and warps.
#pragma once

#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

// n things dealt out evenly: the first `more` parts get one more than the others.
struct Deal {
  int each;
  int more;

  __device__ __forceinline__ int begin(int part) const { return part * each + (part < more ? part : more); }
  __device__ __forceinline__ int count(int part) const { return each + (part < more ? 1 : 0); }
};

// n / d, given d's reciprocal, n below 2^22: n + 1/2 is further from a multiple of d than rounding moves it.
// A division takes ten times as many instructions, and kernels start with these.
__device__ __forceinline__ int quotient(int n, float reciprocal) {
  return static_cast<int>((static_cast<float>(n) + 0.5f) * reciprocal);
}

// Of a block, in bytes: two fit on a multiprocessor, this kernel's and the next one's.
constexpr int kSharedBudget = 112 << 10;

// A block of a kernel that overlaps is there when the last but one has ended: just then the kernel before it
// asks for its activations, and what is asked for first comes first. So such a block asks for a part of the
// weights that it can hold, and for the others so many cycles later; 700 to 1400 are equally good.
constexpr int kPause = 1000;
inline int pause_of(const Queue& queue) { return queue.order == Order::early ? kPause : 0; }

}  // namespace rondo::cuda
