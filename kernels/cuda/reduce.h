// Sums and maxima over a warp or a block, in an order that depends on the block's size only: the same input
// gives the same bits. All threads get the result. Blocks are of whole warps, 1024 threads at most.
#pragma once

#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

constexpr unsigned kFullWarp = 0xFFFFFFFFu;

struct Add {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};

template <class V, class Op>
__device__ __forceinline__ V warp_reduce(V value, Op op) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// The sum over a half of a warp, whose lanes the mask names: 0 to 15 or 16 to 31.
__device__ __forceinline__ float half_warp_sum(float value, unsigned half) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(half, value, offset);
  return value;
}

// Every thread of the block must call it. `scratch`, one value per warp, is shared memory of the caller's and
// free for other use when the call returns. `op` must be commutative; `identity` is its neutral value.
template <class V, class Op>
__device__ __forceinline__ V block_reduce(V value, V* scratch, V identity, Op op) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = warp_reduce(value, op);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < warps ? scratch[lane] : identity, op);
  __syncthreads();
  return value;
}

}  // namespace rondo::cuda
