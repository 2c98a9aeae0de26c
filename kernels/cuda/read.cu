// What the kernel needs.
#include <algorithm>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/dialect.h"

namespace rondo {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 16;
constexpr int64_t kTurn = 8;  // loads that a thread has in flight

// The kernel.
//
// Reads n 16-byte words at `data`, each once. Grid 16 x multiprocessors, block 512, neighbouring threads
// neighbouring words. `sink` is written only for a sum that does not occur, so that the loads cannot be
// dropped.
__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* data, int64_t n, uint32_t* sink) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    const uint4 v = data[i];
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0xdeadbeefu) *sink = sum;
}

// The launcher.

class CudaReader final : public Reader {
 public:
  explicit CudaReader(cudaStream_t stream) : stream_(stream) {
    int device = 0;
    cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    cuda::check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device),
                "cudaDeviceGetAttribute");
  }

  void read(const void* data, uint64_t bytes, uint32_t* sink) override {
    const auto n = static_cast<int64_t>(bytes / sizeof(uint4));
    const int64_t useful = std::max<int64_t>(1, (n + kThreads * kTurn - 1) / (kThreads * kTurn));
    const int64_t grid = std::min<int64_t>(useful, kBlocksPerMultiprocessor * multiprocessors_);
    cuda::launch(read_kernel, dim3(static_cast<unsigned>(grid)), dim3(kThreads), 0, stream_,
                 static_cast<const uint4*>(data), n, sink);
  }

 private:
  cudaStream_t stream_;
  int multiprocessors_ = 0;
};

}  // namespace

std::unique_ptr<Reader> make_cuda_reader(cudaStream_t stream) { return std::make_unique<CudaReader>(stream); }

}  // namespace rondo
