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

}  // namespace rondo::cuda
