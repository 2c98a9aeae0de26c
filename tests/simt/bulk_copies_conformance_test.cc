// Bulk copies and their landings mean on the executor what they mean on a GPU: this file runs on both, like
// cuda_conformance_test.cc. GPUs older than Hopper have none.
#include <gtest/gtest.h>

#include <vector>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;
using rondo::cuda::copy_bulk;
using rondo::cuda::Landing;
using rondo::cuda::prepare_landing;
using rondo::cuda::prepare_landings_done;
using rondo::cuda::wait_landed;

class BulkCopies : public Cuda {
 protected:
  void SetUp() override {
    Cuda::SetUp();
    if (IsSkipped()) return;
    int major = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    if (major < 9) GTEST_SKIP() << "a GPU of compute capability " << major << ".x has no bulk copies";
  }
  // 0, 1, 2 ... on the device.
  static void count_up(const Floats& to, size_t n) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = float(i);
    ASSERT_EQ(cudaMemcpy(to.data, values.data(), n * sizeof(float), cudaMemcpyHostToDevice), cudaSuccess);
  }
  static std::vector<float> read(const Floats& from, size_t n) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<float> values(n);
    EXPECT_EQ(cudaMemcpy(values.data(), from.data, n * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }
};

constexpr int kTile = 64, kPlaces = 3;

// out[block][t] = the sum of the block's `tiles` tiles, position t; blocks of 64 threads. Tiles go through
// three places in dynamic shared memory; a landing is used as often as it takes, its parity alternates.
__global__ void sum_tiles(float* out, const float* in, int tiles) {
  RONDO_SHARED(landings, Landing[kPlaces]);
  RONDO_DYN_SHARED(float, places);
  const int t = int(threadIdx.x);
  const float* const own = in + size_t(blockIdx.x) * tiles * kTile;
  const auto start = [&](int tile) {
    if (tile < tiles)
      copy_bulk(places + tile % kPlaces * kTile, own + tile * kTile, kTile * sizeof(float),
                &landings[tile % kPlaces]);
  };
  if (t == 0) {
    for (int i = 0; i < kPlaces; ++i) prepare_landing(&landings[i]);
    prepare_landings_done();
    for (int tile = 0; tile < kPlaces; ++tile) start(tile);
  }
  __syncthreads();
  float sum = 0.0f;
  for (int tile = 0; tile < tiles; ++tile) {
    wait_landed(&landings[tile % kPlaces], tile / kPlaces % 2);
    sum += places[tile % kPlaces * kTile + t];
    __syncthreads();
    if (t == 0) start(tile + kPlaces);
  }
  out[blockIdx.x * kTile + t] = sum;
}

TEST_F(BulkCopies, StreamThroughARing) {
  constexpr int kTiles = 14, kBlocks = 2;
  constexpr size_t n = kTiles * kBlocks * kTile;
  const Floats in(n), out(kBlocks * kTile);
  count_up(in, n);
  launch(sum_tiles, dim3(kBlocks), dim3(kTile), kPlaces * kTile * sizeof(float), stream, out.data,
         static_cast<const float*>(in.data), kTiles);
  const auto sums = read(out, kBlocks * kTile);
  for (int block = 0; block < kBlocks; ++block)
    for (int t = 0; t < kTile; ++t) {
      float expected = 0;  // whole numbers: exact
      for (int tile = 0; tile < kTiles; ++tile) expected += float((block * kTiles + tile) * kTile + t);
      ASSERT_EQ(sums[size_t(block * kTile + t)], expected) << block << " " << t;
    }
}

// The first warp waits for a copy that the second starts, and the other way round: whoever comes first, one
// waits before the copy was started.
__global__ void exchange(float* out, const float* in) {
  RONDO_SHARED(landings, Landing[2]);
  RONDO_SHARED(places, float4[2 * 8]);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    prepare_landing(&landings[0]);
    prepare_landing(&landings[1]);
    prepare_landings_done();
  }
  __syncthreads();
  if (warp == 1) wait_landed(&landings[1], 0);
  if (lane == 0) copy_bulk(places + (1 - warp) * 8, in + (1 - warp) * 32, 128, &landings[1 - warp]);
  if (warp == 0) wait_landed(&landings[0], 0);
  out[threadIdx.x] = reinterpret_cast<const float*>(places)[threadIdx.x];
}

TEST_F(BulkCopies, MayBeWaitedForBeforeTheyAreStarted) {
  const Floats in(64), out(64);
  count_up(in, 64);
  launch(exchange, dim3(1), dim3(64), 0, stream, out.data, static_cast<const float*>(in.data));
  const auto values = read(out, 64);
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(values[i], float(i));
}

// 16 bytes and most of a block's shared memory; a use that some wait for again after it has landed.
__global__ void sizes(float* out, const float* in, int large) {
  RONDO_SHARED(landings, Landing[2]);
  RONDO_SHARED(small, float4);
  RONDO_DYN_SHARED(float, place);
  if (threadIdx.x == 0) {
    prepare_landing(&landings[0]);
    prepare_landing(&landings[1]);
    prepare_landings_done();
    copy_bulk(&small, in + 4, 16, &landings[0]);
    copy_bulk(place, in, unsigned(large) * sizeof(float), &landings[1]);
  }
  __syncthreads();
  wait_landed(&landings[0], 0);
  wait_landed(&landings[1], 0);
  wait_landed(&landings[0], 0);
  if (threadIdx.x == 0) out[large] = small.x + small.y + small.z + small.w;
  for (int i = int(threadIdx.x); i < large; i += int(blockDim.x)) out[i] = place[i];
}

TEST_F(BulkCopies, TakeFrom16BytesToAWholeBlocksMemory) {
  constexpr size_t kLarge = 40 * 1024 / sizeof(float);
  const Floats in(kLarge), out(kLarge + 1);
  count_up(in, kLarge);
  launch(sizes, dim3(1), dim3(128), kLarge * sizeof(float), stream, out.data,
         static_cast<const float*>(in.data), int(kLarge));
  const auto values = read(out, kLarge + 1);
  for (size_t i = 0; i < kLarge; ++i) ASSERT_EQ(values[i], float(i));
  EXPECT_EQ(values[kLarge], 4.0f + 5 + 6 + 7);
}

}  // namespace
