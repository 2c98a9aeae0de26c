// How fast a GPU can be read, in GB/s: the denominator of every "% of the ceiling". Grid-stride 16-byte loads
// over a buffer many times the L2, grid 16 x multiprocessors, 512 threads; the best of several runs. Prints
// one number.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

namespace {

__global__ void fill(uint4* data, size_t n) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    const auto s = static_cast<unsigned>(i) * 2654435761u;
    data[i] = make_uint4(s, s ^ 0x9e3779b9u, s * 3u, ~s);
  }
}

// `found` is written only for a value that does not occur, so that the loads cannot be dropped.
__global__ void read_all(const uint4* data, size_t n, unsigned* found) {
  unsigned sum = 0;
#pragma unroll 8
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < n;
       i += gridDim.x * static_cast<size_t>(blockDim.x)) {
    const uint4 v = __ldcs(data + i);
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0xdeadbeefu) *found = sum;
}

int fail(const char* what, cudaError_t status) {
  std::fprintf(stderr, "read_ceiling: %s: %s\n", what, cudaGetErrorString(status));
  return 2;
}

}  // namespace

int main() {
  constexpr size_t kBytes = size_t{4} << 30;
  cudaDeviceProp properties;
  if (auto status = cudaGetDeviceProperties(&properties, 0)) return fail("device 0", status);
  uint4* data = nullptr;
  unsigned* found = nullptr;
  if (auto status = cudaMalloc(&data, kBytes)) return fail("4 GiB", status);
  if (auto status = cudaMalloc(&found, sizeof(unsigned))) return fail("4 bytes", status);
  const int grid = 16 * properties.multiProcessorCount;
  fill<<<grid, 512>>>(data, kBytes / 16);
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  float best = 1e30f;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(start);
    read_all<<<grid, 512>>>(data, kBytes / 16, found);
    cudaEventRecord(stop);
    if (auto status = cudaEventSynchronize(stop)) return fail("read", status);
    float ms = 0;
    cudaEventElapsedTime(&ms, start, stop);
    best = std::min(best, ms);
  }
  std::printf("%.1f\n", static_cast<double>(kBytes) / best / 1e6);
  return 0;
}
