// Built-in variables, shuffles, votes, atomics and arithmetic mean on the executor what they mean on a GPU:
// this file runs on both, like cuda_conformance_test.cc. One warp, unless a test says otherwise.
#include <gtest/gtest.h>

#include <climits>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;

constexpr unsigned kAll = 0xffffffffu;
constexpr int kLanes = 32;

template <class T>
class Output {
 public:
  explicit Output(size_t n, int fill = 0) : n_(n) {
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemset(p, fill, n * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    data = static_cast<T*>(p);
  }
  ~Output() { EXPECT_EQ(cudaFree(data), cudaSuccess); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  std::vector<T> read() const {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<T> values(n_);
    EXPECT_EQ(cudaMemcpy(values.data(), data, n_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }
  T* data = nullptr;

 private:
  size_t n_;
};

// A kernel's ints, `per_thread` for each of `threads` threads in turn.
template <class Kernel>
std::vector<int> ints(Kernel kernel, dim3 grid, dim3 block, size_t count) {
  Output<int> out(count);
  launch(kernel, grid, block, 0, nullptr, out.data);
  return out.read();
}

__global__ void indices(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = int(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x +
                                      10000 * blockIdx.y + 100000 * blockIdx.z);
}

TEST_F(Cuda, IndicesCountInThreeDimensions) {
  const dim3 grid(2, 3, 2), block(3, 2, 4);
  const auto out = ints(indices, grid, block, 12 * 24);
  size_t i = 0;
  for (int bz = 0; bz < 2; ++bz)
    for (int by = 0; by < 3; ++by)
      for (int bx = 0; bx < 2; ++bx)
        for (int tz = 0; tz < 4; ++tz)
          for (int ty = 0; ty < 2; ++ty)
            for (int tx = 0; tx < 3; ++tx, ++i)
              ASSERT_EQ(out[i], tx + 10 * ty + 100 * tz + 1000 * bx + 10000 * by + 100000 * bz);
}

__global__ void shuffles(int* out) {
  const int lane = int(threadIdx.x), value = 100 + lane;
  int* mine = out + lane * 8;
  mine[0] = __shfl_sync(kAll, value, 5);
  mine[1] = __shfl_sync(kAll, value, 35);  // modulo the width
  mine[2] = __shfl_sync(kAll, value, 3, 8);
  mine[3] = __shfl_xor_sync(kAll, value, 17);
  mine[4] =
      __shfl_xor_sync(kAll, value, 8, 8);  // would leave the segment upwards: own value; downwards: allowed
  mine[5] = __shfl_up_sync(kAll, value, 3);
  mine[6] = __shfl_down_sync(kAll, value, 3, 16);
  mine[7] = int(__shfl_sync(kAll, 1LL << lane, 31) >> 24);  // 8 bytes
}

TEST_F(Cuda, ShufflesReadTheLaneTheyName) {
  const auto out = ints(shuffles, dim3(1), dim3(kLanes), kLanes * 8);
  for (int lane = 0; lane < kLanes; ++lane) {
    SCOPED_TRACE(lane);
    const int* mine = &out[size_t(lane) * 8];
    EXPECT_EQ(mine[0], 105);
    EXPECT_EQ(mine[1], 103);
    EXPECT_EQ(mine[2], 100 + lane / 8 * 8 + 3);
    EXPECT_EQ(mine[3], 100 + (lane ^ 17));
    EXPECT_EQ(mine[4], 100 + ((lane ^ 8) / 8 > lane / 8 ? lane : lane ^ 8));
    EXPECT_EQ(mine[5], 100 + (lane < 3 ? lane : lane - 3));
    EXPECT_EQ(mine[6], 100 + (lane % 16 + 3 >= 16 ? lane : lane + 3));
    EXPECT_EQ(mine[7], 128);
  }
}

__global__ void half_warps(int* out) {
  const int lane = int(threadIdx.x);
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int sum = lane;
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
  out[lane] = sum;
}

TEST_F(Cuda, HalvesOfAWarpShuffleByThemselves) {
  const auto out = ints(half_warps, dim3(1), dim3(kLanes), kLanes);
  for (int lane = 0; lane < kLanes; ++lane) EXPECT_EQ(out[size_t(lane)], lane < 16 ? 120 : 376);
}

__global__ void votes(int* out) {
  const int lane = int(threadIdx.x);
  int* mine = out + lane * 8;
  mine[0] = int(__ballot_sync(kAll, lane % 3 == 0));
  mine[1] = __any_sync(kAll, lane == 7);
  mine[2] = __any_sync(kAll, lane == 99);
  mine[3] = __all_sync(kAll, lane < 32);
  mine[4] = __all_sync(kAll, lane != 7);
  mine[5] = int(__match_any_sync(kAll, lane / 4));
  mine[6] = int(__match_any_sync(kAll, lane % 2 ? 1.5f : -2.0f));
  mine[7] = 0;
}

TEST_F(Cuda, VotesCountEveryLane) {
  const auto out = ints(votes, dim3(1), dim3(kLanes), kLanes * 8);
  for (int lane = 0; lane < kLanes; ++lane) {
    SCOPED_TRACE(lane);
    const int* mine = &out[size_t(lane) * 8];
    EXPECT_EQ(unsigned(mine[0]), 0x49249249u);
    EXPECT_EQ(mine[1], 1);
    EXPECT_EQ(mine[2], 0);
    EXPECT_EQ(mine[3], 1);
    EXPECT_EQ(mine[4], 0);
    EXPECT_EQ(unsigned(mine[5]), 0xfu << lane / 4 * 4);
    EXPECT_EQ(unsigned(mine[6]), lane % 2 ? 0xaaaaaaaau : 0x55555555u);
  }
}

__global__ void reductions(int* out) {
  const int lane = int(threadIdx.x);
  int* mine = out + lane * 8;
  mine[0] = __reduce_add_sync(kAll, lane - 10);
  mine[1] = __reduce_min_sync(kAll, lane - 10);
  mine[2] = __reduce_max_sync(kAll, lane - 40);
  mine[3] = int(__reduce_min_sync(kAll, unsigned(lane - 10)));
  mine[4] = int(__reduce_max_sync(kAll, unsigned(lane - 10)));
  mine[5] = int(__reduce_and_sync(kAll, unsigned(lane) | 0x100u));
  mine[6] = int(__reduce_or_sync(kAll, unsigned(lane)));
  mine[7] = int(__reduce_xor_sync(kAll, 1u << lane));
}

TEST_F(Cuda, WarpReductionsKnowSignedFromUnsigned) {
  const auto out = ints(reductions, dim3(1), dim3(kLanes), kLanes * 8);
  for (int lane = 0; lane < kLanes; ++lane) {
    SCOPED_TRACE(lane);
    const std::vector<int> mine(&out[size_t(lane) * 8], &out[size_t(lane) * 8] + 8);
    EXPECT_EQ(mine, (std::vector<int>{176, -10, -9, 0, -1, 0x100, 31, -1}));
  }
}

// Element (matrix m, row r, column c) is 64 m + 8 r + c. ldmatrix wants shared memory.
__global__ void matrices(int* out) {
  RONDO_SHARED(rows, uint4[kLanes]);
  const unsigned lane = threadIdx.x, first = 8 * lane;
  const auto pair = [&](unsigned i) { return (first + i) | (first + i + 1) << 16; };
  rows[lane] = make_uint4(pair(0), pair(2), pair(4), pair(6));
  __syncwarp();
  const uint4 words = rondo::cuda::load_matrices(&rows[lane]),
              turned = rondo::cuda::load_matrices_transposed(&rows[lane]);
  int* mine = out + lane * 8;
  mine[0] = int(words.x), mine[1] = int(words.y), mine[2] = int(words.z), mine[3] = int(words.w);
  mine[4] = int(turned.x), mine[5] = int(turned.y), mine[6] = int(turned.z), mine[7] = int(turned.w);
}

TEST_F(Cuda, MatricesLoadByRowsOrTransposed) {
  const auto out = ints(matrices, dim3(1), dim3(kLanes), kLanes * 8);
  const auto element = [](int m, int row, int column) { return 64 * m + 8 * row + column; };
  for (int lane = 0; lane < kLanes; ++lane)
    for (int m = 0; m < 4; ++m) {
      const int g = lane / 4, t = lane % 4;
      EXPECT_EQ(out[size_t(lane * 8 + m)], element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16);
      EXPECT_EQ(out[size_t(lane * 8 + 4 + m)], element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16);
    }
}

__global__ void barriers(int* out) {
  const int t = int(threadIdx.x);
  int* mine = out + t * 3;
  mine[0] = __syncthreads_count(t % 3 == 0);
  mine[1] = __syncthreads_or(t == 95);
  mine[2] = __syncthreads_and(t != 95);
}

TEST_F(Cuda, BarriersCountPredicatesOverTheBlock) {
  const auto out = ints(barriers, dim3(1), dim3(96), 96 * 3);
  for (size_t t = 0; t < 96; ++t) {
    EXPECT_EQ(out[t * 3], 32);
    EXPECT_NE(out[t * 3 + 1], 0);
    EXPECT_EQ(out[t * 3 + 2], 0);
  }
}

__global__ void atomics(int* out) {
  const int t = int(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(out + 0, t);
  atomicSub(out + 1, 1);
  atomicMin(out + 2, -t);
  atomicMax(out + 3, t);
  atomicOr(reinterpret_cast<unsigned*>(out + 4), 1u << t % 32);
  atomicAnd(reinterpret_cast<unsigned*>(out + 5), ~(1u << t % 32));
  atomicXor(out + 6, 1 << t % 8);
  if (atomicExch(out + 7, 1) == 0) atomicAdd(out + 8, 1);  // one thread finds the zero
  if (atomicCAS(out + 9, 0, t + 1) == 0) atomicAdd(out + 10, 1);
  atomicAdd(reinterpret_cast<unsigned long long*>(out + 12), 1ull << 32);
  atomicAdd(reinterpret_cast<float*>(out + 14), 0.5f);
}

TEST_F(Cuda, AtomicsLoseNothing) {
  Output<int> out(16);
  const int all_set = -1;
  ASSERT_EQ(cudaMemcpy(out.data + 5, &all_set, 4, cudaMemcpyHostToDevice), cudaSuccess);
  launch(atomics, dim3(4), dim3(64), 0, nullptr, out.data);
  const auto v = out.read();
  EXPECT_EQ(v[0], 255 * 128);
  EXPECT_EQ(v[1], -256);
  EXPECT_EQ(v[2], -255);
  EXPECT_EQ(v[3], 255);
  EXPECT_EQ(v[4], -1);
  EXPECT_EQ(v[5], 0);
  EXPECT_EQ(v[6], 0);  // each bit an even number of times
  EXPECT_EQ(v[8], 1);
  EXPECT_GE(v[9], 1);
  EXPECT_EQ(v[10], 1);
  EXPECT_EQ(v[13], 256);
  float half_sum = 0;
  memcpy(&half_sum, &v[14], sizeof half_sum);
  EXPECT_EQ(half_sum, 128.0f);
}

__global__ void bits(int* out, unsigned x) {
  out[0] = __popc(x);
  out[1] = __clz(int(x));
  out[2] = __ffs(int(x));
  out[3] = int(__brev(x));
  out[4] = int(__umulhi(x, 0x80000000u));
  out[5] = __clz(0);
  out[6] = __ffs(0);
  out[7] = __popcll((static_cast<unsigned long long>(x) << 32) | x);
  out[8] = __clzll(static_cast<long long>(x));
  out[9] = __float_as_int(__uint_as_float(x));
  out[10] = int(__float_as_uint(1.0f));
  out[11] = int(__umul64hi(static_cast<unsigned long long>(x) << 32, 1ull << 32));
}

TEST_F(Cuda, BitsAreCountedAlike) {
  Output<int> out(12);
  launch(bits, dim3(1), dim3(1), 0, nullptr, out.data, 0x00f00010u);
  EXPECT_EQ(out.read(), (std::vector<int>{5, 8, 5, 0x08000f00, 0x00780008, 32, 0, 10, 40, 0x00f00010,
                                          0x3f800000, 0x00f00010}));
}

__global__ void extremes(float* out, float nan, int minus_one, unsigned two) {
  out[0] = fminf(nan, 1.0f);
  out[1] = min(1.0f, nan);
  out[2] = max(nan, -3.0f);
  out[3] = fmaxf(-0.5f, -1.5f);
  out[4] = float(min(minus_one, 2));
  out[5] = float(max(2u, two));
  out[6] = __saturatef(nan);
  out[7] = __saturatef(1.5f);
}

TEST_F(Cuda, TheSmallerOfANumberAndNaNIsTheNumber) {
  Output<float> out(8);
  launch(extremes, dim3(1), dim3(1), 0, nullptr, out.data, NAN, -1, 2u);
  EXPECT_EQ(out.read(), (std::vector<float>{1, 1, -3, -0.5f, -1, 2, 0, 1}));
}

// Exact operations agree to the bit; library functions to a few units in the last place, approximations to
// 2^-20.
__global__ void arithmetic(float* out, float x, float y) {
  out[0] = __fmul_rn(x, y);
  out[1] = __fadd_rn(x, y);
  out[2] = fmaf(x, y, -x);
  out[3] = __fdiv_rn(x, y);
  out[4] = __fsqrt_rn(x);
  out[5] = expf(x);
  out[6] = logf(x);
  out[7] = rsqrtf(x);
  out[8] = log1pf(y);
  sincosf(x, out + 9, out + 10);
  out[11] = __expf(x);
  out[12] = __logf(x);
  out[13] = __fdividef(x, y);
  out[14] = __bfloat162float(__float2bfloat16(x));
  out[15] = __half2float(__float2half(y));
}

TEST_F(Cuda, ArithmeticAgrees) {
  Output<float> out(16);
  const float x = 1.7f, y = 0.3f;
  launch(arithmetic, dim3(1), dim3(1), 0, nullptr, out.data, x, y);
  const auto v = out.read();
  EXPECT_EQ(v[0], x * y);
  EXPECT_EQ(v[1], x + y);
  EXPECT_EQ(v[2], std::fma(x, y, -x));
  EXPECT_EQ(v[3], x / y);
  EXPECT_EQ(v[4], std::sqrt(x));
  const auto near = [](float found, double expected, double relative) {
    EXPECT_NEAR(found, expected, relative * std::fabs(expected));
  };
  near(v[5], std::exp(double(x)), 0x1p-21);
  near(v[6], std::log(double(x)), 0x1p-21);
  near(v[7], 1 / std::sqrt(double(x)), 0x1p-21);
  near(v[8], std::log1p(double(y)), 0x1p-21);
  near(v[9], std::sin(double(x)), 0x1p-21);
  near(v[10], std::cos(double(x)), 0x1p-21);
  near(v[11], std::exp(double(x)), 0x1p-20);
  near(v[12], std::log(double(x)), 0x1p-20);
  near(v[13], double(x) / double(y), 0x1p-20);
  EXPECT_EQ(v[14], 1.703125f);
  EXPECT_EQ(v[15], 0.300048828125f);
}

__global__ void shared_kinds(int* out) {
  RONDO_SHARED(values, int[64]);
  RONDO_SHARED(total, int);
  RONDO_DYN_SHARED(int, dynamic);
  const int t = int(threadIdx.x);
  if (t == 0) total = 0;
  values[t] = t;
  dynamic[t] = 1000 * int(blockIdx.x);
  __syncthreads();
  atomicAdd(&total, values[63 - t]);
  __syncthreads();
  out[blockIdx.x * 64 + t] = total + values[63 - t] + dynamic[63 - t];
}

TEST_F(Cuda, SharedVariablesBelongToTheirBlock) {
  Output<int> out(3 * 64);
  launch(shared_kinds, dim3(3), dim3(64), 64 * sizeof(int), nullptr, out.data);
  const auto v = out.read();
  for (int block = 0; block < 3; ++block)
    for (int t = 0; t < 64; ++t) ASSERT_EQ(v[size_t(block * 64 + t)], 2016 + 63 - t + 1000 * block);
}

}  // namespace
