// Tiles, landings of several arrivals and products of a warpgroup mean on the executor what they mean on a
// GPU: this file runs on both, like cuda_conformance_test.cc. GPUs other than Hopper have none.
#include <gtest/gtest.h>

#include <vector>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;
using rondo::cuda::arrive;
using rondo::cuda::copy_tile;
using rondo::cuda::expect_bytes;
using rondo::cuda::Landing;
using rondo::cuda::make_tile_map;
using rondo::cuda::prepare_landing;
using rondo::cuda::prepare_landings_done;
using rondo::cuda::TileMap;
using rondo::cuda::TileProduct;
using rondo::cuda::wait_landed;

constexpr int kWidth = 64, kRowBytes = 128;  // of a piece
constexpr int kConsumers = 8, kPipelineThreads = 32 * (kConsumers + 1), kProductThreads = 128;

// Element k of piece p of a tile.
template <class T>
__device__ T element(const unsigned char* tile, int p, int k) {
  const unsigned char* const place = tile + p * kRowBytes + (k / 8 ^ p % 8) * 16;
  return reinterpret_cast<const T*>(place)[k % 8];
}

// Static shared memory might move the tiles from their multiple of 1024, so the landings lie behind them.
__device__ Landing* landings_behind(unsigned char* tiles, int bytes) {
  return reinterpret_cast<Landing*>(tiles + bytes);
}

// ---- tiles, as they lie in shared memory

struct OneTile {
  TileMap map;
  int corner[4];
  int pieces;  // of the box
};

// out[r][k] = element k of the tile's piece r, of numbers.
__global__ void __launch_bounds__(RONDO_TILE_THREADS(kProductThreads))
    unfold(float* out, const RONDO_GRID_CONSTANT OneTile a) {
  RONDO_TILE_SHARED(tile);
  Landing* const landing = landings_behind(tile, a.pieces * kRowBytes);
  if (threadIdx.x == 0) {
    prepare_landing(landing);
    prepare_landings_done();
    expect_bytes(landing, unsigned(a.pieces * kRowBytes));
    copy_tile(tile, a.map, a.corner[0], a.corner[1], a.corner[2], a.corner[3], landing, false);
  }
  __syncthreads();
  wait_landed(landing, 0);
  for (int i = int(threadIdx.x); i < a.pieces * kWidth; i += int(blockDim.x))
    out[i] = float(element<unsigned short>(tile, i / kWidth, i % kWidth));
}

class Tiles : public Cuda {
 protected:
  void SetUp() override {
    Cuda::SetUp();
    if (IsSkipped()) return;
    int major = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    if (major < 9) GTEST_SKIP() << "a GPU of compute capability " << major << ".x has no tiles";
    if (!rondo::cuda::compiled_for_tiles(unfold)) GTEST_SKIP() << "kernels were not compiled for tiles";
  }
  static std::vector<float> read(const Floats& from, size_t n) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<float> values(n);
    EXPECT_EQ(cudaMemcpy(values.data(), from.data, n * sizeof(float), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }
  std::vector<float> unfolded(const TileMap& map, const int (&corner)[4], int pieces) {
    const size_t n = size_t(pieces * kWidth);
    const Floats out(n);
    const OneTile tile{map, {corner[0], corner[1], corner[2], corner[3]}, pieces};
    launch(unfold, dim3(1), dim3(kProductThreads), size_t(pieces * kRowBytes) + sizeof(Landing), stream,
           out.data, tile);
    return read(out, n);
  }
};

// Elements of 16 bits in device memory.
template <class T>
struct Elements {
  explicit Elements(const std::vector<T>& values) : memory((values.size() + 1) / 2) {
    EXPECT_EQ(cudaMemcpy(memory.data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  Floats memory;
};

// 1, 2, 3 ... and round, never 0.
std::vector<unsigned short> numbered(size_t n) {
  std::vector<unsigned short> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<unsigned short>(1 + i % 65521);
  return values;
}

TEST_F(Tiles, OutsideTheArrayAreZeros) {
  constexpr int kAcross = 3, kRows = 11, kColumns = kAcross * kWidth, kStride = kColumns + 8, kBoxRows = 16;
  const auto values = numbered(kStride * kRows);
  const Elements<unsigned short> in(values);
  constexpr int64_t kLine = kStride * 2;
  const TileMap map = make_tile_map(in.memory.data, {kRows, kAcross, 1, 1},
                                    {kLine, kRowBytes, kLine * kRows, kLine * kRows}, {kBoxRows, 2, 1, 1});
  const int corners[][2] = {{0, 0}, {3, 1}, {9, 2}, {-2, -1}, {16, 0}, {0, 3}, {10, 1}};
  for (const auto& c : corners) {
    const auto tile = unfolded(map, {c[0], c[1], 0, 0}, 2 * kBoxRows);
    for (int i = 0; i < 2 * kBoxRows * kWidth; ++i) {
      const int y = c[0] + i / kWidth % kBoxRows, x = (c[1] + i / kWidth / kBoxRows) * kWidth + i % kWidth;
      const bool inside = x >= 0 && x < kColumns && y >= 0 && y < kRows;
      ASSERT_EQ(tile[size_t(i)], inside ? float(values[size_t(y * kStride + x)]) : 0.0f)
          << c[0] << "," << c[1] << " " << x << "," << y;
    }
  }
}

// Eight rows of a matrix's first half, the eight of its second half that belong to them, the next eight ...;
// of each eight, two chunks of columns one after the other.
TEST_F(Tiles, InterleaveTwoHalvesOfAMatrix) {
  constexpr int kAcross = 4, kHalf = 56, kColumns = kAcross * kWidth, kPieces = 8 * 2 * 2 * 4;
  const auto values = numbered(kColumns * kHalf * 2);
  const Elements<unsigned short> in(values);
  constexpr int64_t kLine = kColumns * 2;
  const TileMap map = make_tile_map(in.memory.data, {8, kAcross, 2, kHalf / 8},
                                    {kLine, kRowBytes, kLine * kHalf, kLine * 8}, {8, 2, 2, 4});
  for (const int first : {0, 4}) {  // the second box ends behind the array
    const auto tile = unfolded(map, {0, 2, 0, first}, kPieces);
    for (int i = 0; i < kPieces * kWidth; ++i) {
      const int p = i / kWidth, chunk = 2 + p / 8 % 2, half = p / 16 % 2, row = (first + p / 32) * 8 + p % 8;
      const size_t at = size_t((half * kHalf + row) * kColumns + chunk * kWidth + i % kWidth);
      ASSERT_EQ(tile[size_t(i)], row < kHalf ? float(values[at]) : 0.0f) << p << " " << i % kWidth;
    }
  }
}

bool refused(const void* base, const int64_t (&size)[4], const int64_t (&stride)[4], const int (&box)[4]) {
  try {
    make_tile_map(base, size, stride, box);
  } catch (const rondo::Error& e) {
    return e.kind() == rondo::ErrorKind::InvalidArgument;
  }
  return false;
}

TEST_F(Tiles, MapsThatTheDriverRefuses) {
  const Floats memory(1024);
  char* const base = reinterpret_cast<char*>(memory.data);
  constexpr int64_t kTooFar = int64_t{1} << 40, kTooMany = (int64_t{1} << 32) + 1;
  EXPECT_FALSE(refused(base, {8, 1, 1, 1}, {128, 1024, 1024, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base + 8, {8, 1, 1, 1}, {128, 1024, 1024, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 1, 1, 1}, {136, 1024, 1024, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 1, 1, 1}, {128, 1024, kTooFar, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 0, 1, 1}, {128, 1024, 1024, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 1, kTooMany, 1}, {128, 1024, 1024, 1024}, {8, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 1, 1, 1}, {128, 1024, 1024, 1024}, {0, 1, 1, 1}));
  EXPECT_TRUE(refused(base, {8, 1, 1, 1}, {128, 1024, 1024, 1024}, {257, 1, 1, 1}));
}

// ---- a ring that one thread fills and several warps empty

constexpr int kStages = 3, kLargeRows = 64, kSmallRows = 8;
constexpr int kStageBytes = (kLargeRows + kSmallRows) * kRowBytes;

struct Stream {
  TileMap large, small;
  int steps;
};

// out[block][t] = the sum over steps s of element t % 64 of piece t / 64 of tiles (block, s) of both maps,
// the second one's times 2. A stage takes two copies, of which the second is started after all stages' first,
// and is released by one arrival of each warp.
__global__ void __launch_bounds__(RONDO_TILE_THREADS(kPipelineThreads))
    sum_stream(float* out, const RONDO_GRID_CONSTANT Stream a) {
  RONDO_TILE_SHARED(ring);
  Landing* const landed = landings_behind(ring, kStages * kStageBytes);
  Landing* const released = landed + kStages;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, block = int(blockIdx.x);
  const auto start_large = [&](int step) {
    const int stage = step % kStages;
    expect_bytes(&landed[stage], kStageBytes);
    copy_tile(ring + stage * kStageBytes, a.large, block * kLargeRows, step, 0, 0, &landed[stage], false);
  };
  const auto start_small = [&](int step) {
    const int stage = step % kStages;
    copy_tile(ring + stage * kStageBytes + kLargeRows * kRowBytes, a.small, 0, step, 0, 0, &landed[stage],
              true);
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      prepare_landing(&landed[i]);
      prepare_landing(&released[i], kConsumers);
    }
    prepare_landings_done();
  }
  __syncthreads();
  if (warp == kConsumers) {
    if (lane == 0) {
      for (int step = 0; step < kStages; ++step) start_large(step);
      for (int step = 0; step < kStages; ++step) start_small(step);
      for (int step = kStages; step < a.steps; ++step) {
        wait_landed(&released[step % kStages], step / kStages % 2 ^ 1);
        start_large(step);
        start_small(step);
      }
    }
    __syncwarp();
    return;
  }
  const int t = int(threadIdx.x);
  float sum = 0.0f;
  for (int step = 0; step < a.steps; ++step) {
    const int stage = step % kStages;
    const unsigned char* const tiles = ring + stage * kStageBytes;
    wait_landed(&landed[stage], step / kStages % 2);
    sum += float(element<unsigned short>(tiles, t / kWidth, t % kWidth));
    sum += 2.0f * float(element<unsigned short>(tiles + kLargeRows * kRowBytes, t / kWidth, t % kWidth));
    __syncwarp();
    if (lane == 0) arrive(&released[stage]);
  }
  out[block * kConsumers * 32 + t] = sum;
}

TEST_F(Tiles, StreamThroughARingThatWarpsRelease) {
  constexpr int kSteps = 11, kBlocks = 2, kColumns = kSteps * kWidth, kOutputs = kConsumers * 32;
  const auto large = numbered(kColumns * kLargeRows * kBlocks), small = numbered(kColumns * kSmallRows);
  const Elements<unsigned short> large_memory(large), small_memory(small);
  const Floats out(kOutputs * kBlocks);
  constexpr int64_t kLine = kColumns * 2;
  Stream a{};
  a.large = make_tile_map(large_memory.memory.data, {kLargeRows * kBlocks, kSteps, 1, 1},
                          {kLine, kRowBytes, kLine, kLine}, {kLargeRows, 1, 1, 1});
  a.small = make_tile_map(small_memory.memory.data, {kSmallRows, kSteps, 1, 1},
                          {kLine, kRowBytes, kLine, kLine}, {kSmallRows, 1, 1, 1});
  a.steps = kSteps;
  launch(sum_stream, dim3(kBlocks), dim3(kPipelineThreads), kStages * (kStageBytes + 2 * sizeof(Landing)),
         stream, out.data, a);
  const auto sums = read(out, kOutputs * kBlocks);
  for (int i = 0; i < kOutputs * kBlocks; ++i) {
    const int row = i % kOutputs / kWidth, block = i / kOutputs;
    float expected = 0;  // whole numbers below 2^24: exact
    for (int step = 0; step < kSteps; ++step) {
      const int column = step * kWidth + i % kWidth;
      expected += float(large[size_t((block * kLargeRows + row) * kColumns + column)]);
      expected += 2.0f * float(small[size_t(row * kColumns + column)]);
    }
    ASSERT_EQ(sums[size_t(i)], expected) << i;
  }
}

// Arrivals alone: the last warp goes on when the three others have written, each round anew.
__global__ void count(float* out, int rounds) {
  RONDO_SHARED(written, Landing);
  RONDO_SHARED(taken, Landing);
  RONDO_SHARED(values, float[3]);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    prepare_landing(&written, 3);
    prepare_landing(&taken);
    prepare_landings_done();
  }
  __syncthreads();
  if (lane == 0) {
    float sum = 0.0f;
    for (int round = 0; round < rounds; ++round) {
      if (warp < 3) {
        values[warp] = float(round * (warp + 1));
        arrive(&written);
        wait_landed(&taken, round % 2);
      } else {
        wait_landed(&written, round % 2);
        sum += values[0] + values[1] + values[2];
        arrive(&taken);
      }
    }
    if (warp == 3) out[0] = sum;
  }
  __syncwarp();
}

TEST_F(Tiles, LandingsCountArrivalsWithoutBytes) {
  const Floats out(1);
  launch(count, dim3(1), dim3(128), 0, stream, out.data, 7);
  EXPECT_EQ(read(out, 1)[0], float((1 + 2 + 3) * (0 + 1 + 2 + 3 + 4 + 5 + 6)));
}

// ---- products

constexpr int kChunks = 2;  // of a step, of 64 columns each

struct Factors {
  TileMap a, b;
  int steps;
};

// out (128 x N) = A (128 x 128 steps) B^T (N x 128 steps), by two warpgroups. A comes in groups of eight
// rows, each group's chunks one after the other, B as chunks of N rows.
template <class T, int N>
__global__ void __launch_bounds__(RONDO_TILE_THREADS(2 * kProductThreads))
    multiply(float* out, const RONDO_GRID_CONSTANT Factors f) {
  RONDO_TILE_SHARED(tiles);
  constexpr int kA = kChunks * 128 * kRowBytes, kStep = kA + kChunks * N * kRowBytes;
  Landing* const landing = landings_behind(tiles, f.steps * kStep);
  const int group = int(threadIdx.x) / kProductThreads;
  if (threadIdx.x == 0) {
    prepare_landing(landing);
    prepare_landings_done();
    expect_bytes(landing, unsigned(f.steps * kStep));
    for (int step = 0; step < f.steps; ++step) {
      copy_tile(tiles + step * kStep, f.a, 0, step * kChunks, 0, 0, landing, false);
      copy_tile(tiles + step * kStep + kA, f.b, 0, step * kChunks, 0, 0, landing, true);
    }
  }
  __syncthreads();
  wait_landed(landing, 0);
  TileProduct<T, N> product;
  product.clear();
  const auto start = [&](int step) {
    const unsigned char* const a = tiles + step * kStep + group * kA / 2;
    const unsigned char* const b = tiles + step * kStep + kA;
    for (int c = 0; c < kChunks; ++c) product.start(a + c * 1024, b + c * N * kRowBytes, kChunks * 1024);
  };
  start(0);
  product.wait();
  for (int step = 1; step < f.steps; ++step) start(step);
  product.wait();
  const int w = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, q = int(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < N / 2; ++i)
    out[(16 * w + g + 8 * (i / 2 % 2)) * N + i / 4 * 8 + 2 * q + i % 2] = product.sum[i];
}

int small_number(int i) { return (i * 7 + i / 64 * 5) % 17 - 8; }

template <class T, int N>
void expect_products(cudaStream_t stream) {
  constexpr int kSteps = 3, kDepth = kSteps * kChunks * kWidth, kRows = 128;
  constexpr int64_t kLine = kDepth * 2;
  const auto elements = [](int n, int from) {
    std::vector<T> values;
    for (int i = 0; i < n; ++i) values.push_back(T(float(small_number(from + i))));
    return values;
  };
  const Elements<T> a(elements(kRows * kDepth, 0)), b(elements(N * kDepth, 31));
  const Floats out(kRows * N);
  Factors f{};
  f.a = make_tile_map(a.memory.data, {8, kDepth / kWidth, 1, kRows / 8}, {kLine, kRowBytes, kLine, kLine * 8},
                      {8, kChunks, 1, kRows / 8});
  f.b = make_tile_map(b.memory.data, {N, kDepth / kWidth, 1, 1}, {kLine, kRowBytes, kLine, kLine},
                      {N, kChunks, 1, 1});
  f.steps = kSteps;
  const int bytes = kSteps * kChunks * (kRows + N) * kRowBytes + int(sizeof(Landing));
  rondo::cuda::allow_shared(multiply<T, N>, bytes);
  launch(multiply<T, N>, dim3(1), dim3(2 * kProductThreads), size_t(bytes), stream, out.data, f);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<float> found(kRows * N);
  EXPECT_EQ(cudaMemcpy(found.data(), out.data, out.bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < N; ++n) {
      int expected = 0;
      for (int k = 0; k < kDepth; ++k)
        expected += small_number(m * kDepth + k) * small_number(31 + n * kDepth + k);
      ASSERT_EQ(found[size_t(m * N + n)], float(expected)) << N << ": " << m << " " << n;
    }
}

TEST_F(Tiles, MultiplyBf16) {
  expect_products<__nv_bfloat16, 8>(stream);
  expect_products<__nv_bfloat16, 16>(stream);
  expect_products<__nv_bfloat16, 32>(stream);
  expect_products<__nv_bfloat16, 64>(stream);
}
TEST_F(Tiles, MultiplyFp16) {
  expect_products<__half, 8>(stream);
  expect_products<__half, 16>(stream);
  expect_products<__half, 32>(stream);
  expect_products<__half, 64>(stream);
}

}  // namespace
