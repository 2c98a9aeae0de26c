// Matrix products by cuBLASLt, each shape planned once: the algorithms that the library's heuristic names are
// asked for the first time a shape is seen and kept, so that an eager step and a replayed one run the same
// kernels, bit for bit.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

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
  // data are aligned to 16 bytes. `algorithm`: the heuristic's own order, its first choice is 0. Misuse for a
  // shape that was not seen before, while the stream is being captured.
  struct Product {
    View in, weight, out;
    int64_t rows;
    bool accumulate;
  };
  void multiply(const Product& product, size_t algorithm = 0);
  // How many algorithms there are for it, at least one.
  size_t algorithms(const Product& product) { return plan(product).algorithms.size(); }

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
    std::vector<cublasLtMatmulHeuristicResult_t> algorithms;  // those that the device can run
  };
  using Key =
      std::tuple<int64_t, int64_t, int64_t, DType, DType, bool>;  // rows, N, K, type in, type out, accumulate

  Plan make_plan(const Key& key) const;
  const Plan& plan(const Product& product);

  View workspace_;
  cudaStream_t stream_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<Key, Plan> plans_;
};

}  // namespace rondo::cuda
