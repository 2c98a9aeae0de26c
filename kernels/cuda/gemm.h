// Matrix products by cuBLASLt, each shape planned once: the algorithm is chosen by the library's heuristic
// the first time a shape is seen and kept, so that an eager step and a replayed one run the same kernels, bit
// for bit.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <type_traits>

#include "buffers/view.h"

namespace rondo::cuda {

// Throws Error: OutOfMemory, DeviceLost where the device itself is gone, InvalidArgument otherwise.
void check(cublasStatus_t status, const char* what);

class Gemm {
 public:
  // `workspace` (u8, on the device) bounds what an algorithm may use, and is what it uses: products on one
  // stream share it.
  Gemm(View workspace, cudaStream_t stream);

  // out [rows, N] (+)= in [rows, K] weight^T, weight [N, K]; sums in fp32 (without TF32). `in` and `weight`
  // are of one type, f32, f16 or bf16; `out` is of that type or f32. Accumulating adds to what is there. All
  // data are aligned to 16 bytes. Misuse for a shape that was not seen before, while the stream is being
  // captured.
  void multiply(const View& in, const View& weight, const View& out, int64_t rows, bool accumulate);

  size_t plans() const { return plans_.size(); }

 private:
  template <auto destroy>
  struct Destroy {
    template <class T>
    void operator()(T* object) const {
      destroy(object);
    }
  };
  template <class Handle, auto destroy>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

  struct Plan {
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
    Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> weight, in, out;
    cublasLtMatmulAlgo_t algorithm{};
    size_t workspace_bytes = 0;
  };
  using Key =
      std::tuple<int64_t, int64_t, int64_t, DType, DType, bool>;  // rows, N, K, type in, type out, accumulate

  Plan make_plan(const Key& key) const;

  View workspace_;
  cudaStream_t stream_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<Key, Plan> plans_;
};

}  // namespace rondo::cuda
