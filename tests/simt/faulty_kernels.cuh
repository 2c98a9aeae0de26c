// Kernels with one planted fault each (kFaulty), and without it. in: 1024 floats; out: 1024 floats, zeroed.
#pragma once

#include "kernels/cuda/dialect.h"
#include "tests/simt/sample_kernels.cuh"

namespace faulty {

using simt_samples::kAllLanes;
using simt_samples::warp_sum;

// ---- races between a block's threads

// out[block] = the sum of 256 values. Fault: no barrier between writing and reading the warps' parts.
template <bool kFaulty>
__global__ void sum_without_barrier(float* out, const float* in) {
  RONDO_SHARED(parts, float[8]);
  const float sum = warp_sum(in[blockIdx.x * 256 + threadIdx.x]);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  if (!kFaulty) __syncthreads();
  if (threadIdx.x < 32) {
    const float total = warp_sum(threadIdx.x < 8 ? parts[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
  }
}

// Fault: a shared buffer is written again while others may still read it.
template <bool kFaulty>
__global__ void reuse_without_barrier(float* out, const float* in) {
  RONDO_SHARED(buffer, float[256]);
  float sum = 0.0f;
  for (int round = 0; round < 4; ++round) {
    buffer[threadIdx.x] = in[round * 256 + threadIdx.x];
    __syncthreads();
    sum += buffer[(threadIdx.x + 37) % 256];
    if (!kFaulty) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// Fault: lanes of one warp exchange through shared memory without __syncwarp().
template <bool kFaulty>
__global__ void exchange_without_syncwarp(float* out, const float* in) {
  RONDO_SHARED(buffer, float[32]);
  buffer[threadIdx.x] = in[threadIdx.x];
  if (!kFaulty) __syncwarp();
  out[threadIdx.x] = buffer[31 - threadIdx.x];
}

// Fault: a sum that is not atomic.
template <bool kFaulty>
__global__ void sum_without_atomics(float* out, const float* in) {
  RONDO_SHARED(sum, float);
  if (threadIdx.x == 0) sum = 0.0f;
  __syncthreads();
  if (kFaulty)
    sum += in[threadIdx.x];
  else
    atomicAdd(&sum, in[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) out[0] = sum;
}

// ---- between blocks

// Fault: four blocks write the same addresses.
template <bool kFaulty>
__global__ void blocks_overwrite(float* out, const float* in) {
  out[kFaulty ? threadIdx.x : blockIdx.x * 256 + threadIdx.x] = in[blockIdx.x * 256 + threadIdx.x];
}

// ---- memory

// Fault: one past a static shared array.
template <bool kFaulty>
__global__ void past_static_shared(float* out, const float* in) {
  RONDO_SHARED(buffer, float[32]);
  float* const elements = buffer;
  elements[threadIdx.x + (kFaulty ? 1 : 0)] = in[threadIdx.x];
  __syncthreads();
  if (!kFaulty) out[threadIdx.x] = buffer[threadIdx.x];
}

// Fault: in the launch, which gives 4 bytes too little.
template <bool>
__global__ void reverse_in_dynamic_shared(float* out, const float* in) {
  RONDO_DYN_SHARED(float, buffer);
  buffer[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = buffer[255 - threadIdx.x];
}

// Fault: reads shared memory that nobody wrote.
template <bool kFaulty>
__global__ void read_unwritten_shared(float* out, const float* in) {
  RONDO_SHARED(buffer, float[256]);
  if (threadIdx.x < (kFaulty ? 255 : 256)) buffer[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = buffer[255 - threadIdx.x];
}

// Fault: a 16-byte load from an address aligned to 4.
template <bool kFaulty>
__global__ void misaligned_load(float* out, const float* in) {
  const float4 four = *reinterpret_cast<const float4*>(in + (kFaulty ? 1 : 0));
  out[threadIdx.x] = four.x + four.w;
}

// Fault: an asynchronous copy of 16 bytes from an address aligned to 4.
template <bool kFaulty>
__global__ void misaligned_async_copy(float* out, const float* in) {
  RONDO_SHARED(buffer, float4[32]);
  rondo::cuda::AsyncCopies copies;
  copies.copy16(&buffer[threadIdx.x], in + 4 * threadIdx.x + (kFaulty ? 1 : 0));
  copies.commit();
  copies.wait<0>();
  out[threadIdx.x] = buffer[threadIdx.x].x;
}

// Fault: rows of 16-bit elements that begin 2 bytes askew.
template <bool kFaulty>
__global__ void misaligned_matrix_row(float* out, const float* in) {
  RONDO_SHARED(rows, uint4[33]);
  rows[threadIdx.x] = make_uint4(unsigned(in[threadIdx.x]), 0, 0, 0);
  __syncwarp();
  const char* const row = reinterpret_cast<const char*>(&rows[threadIdx.x]) + (kFaulty ? 2 : 0);
  out[threadIdx.x] = float(rondo::cuda::load_matrices(row).x & 0xff);
}

// Fault: one past the input.
template <bool kFaulty>
__global__ void past_global(float* out, const float* in) {
  out[threadIdx.x] = in[threadIdx.x * 4 + (kFaulty && threadIdx.x == 255 ? 4 : 0)];
}

// ---- divergence

// Fault: a barrier that some threads never reach.
template <bool kFaulty>
__global__ void leave_before_barrier(float* out, const float* in) {
  if (kFaulty && threadIdx.x >= 200) return;
  out[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
}

// Fault: the threads of a block wait at two different barriers.
template <bool kFaulty>
__global__ void two_barriers(float* out, const float* in) {
  if (kFaulty && threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

// Fault: a full-mask shuffle after some lanes have left.
template <bool kFaulty>
__global__ void shuffle_after_exit(float* out, const float* in) {
  if (kFaulty && threadIdx.x >= 20) return;
  out[threadIdx.x] = warp_sum(in[threadIdx.x]);
}

// Fault: half of a warp shuffles while the other half votes.
template <bool kFaulty>
__global__ void two_collectives(float* out, const float* in) {
  float v = in[threadIdx.x];
  if (!kFaulty)
    v = warp_sum(v);
  else if (threadIdx.x < 16)
    v = __shfl_down_sync(kAllLanes, v, 1);
  else
    v = float(__ballot_sync(kAllLanes, v > 0.0f));
  out[threadIdx.x] = v;
}

// Fault: a collective by lanes that its mask leaves out.
template <bool kFaulty>
__global__ void mask_without_caller(float* out, const float* in) {
  out[threadIdx.x] = __shfl_sync(kFaulty ? 0x0000ffffu : kAllLanes, in[threadIdx.x], 0);
}

// Fault: a word of a block that comes later. Blocks run in ascending order.
template <bool kFaulty>
__global__ void word_of_another_block(float* out, const float* in) {
  auto* const words = reinterpret_cast<float2*>(out);
  const unsigned other = kFaulty ? blockIdx.x + 1 : blockIdx.x - 1;
  rondo::cuda::store_words(words + blockIdx.x, make_float2(in[blockIdx.x], 1.0f));
  if (other >= gridDim.x) return;
  while (rondo::cuda::load_words(words + other).y == 0.0f) rondo::cuda::wait_for_other_block();
}

// ---- other ends

template <bool kFaulty>
__global__ void give_up(float* out, const float* in) {
  if (kFaulty && threadIdx.x == 3) __trap();
  out[threadIdx.x] = in[threadIdx.x];
}

// Fault: more static shared memory than a block has.
template <bool kFaulty>
__global__ void too_much_static_shared(float* out, const float* in) {
  RONDO_SHARED(buffer, float[kFaulty ? 12 * 1024 + 1 : 32]);
  buffer[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = buffer[threadIdx.x];
}

}  // namespace faulty
