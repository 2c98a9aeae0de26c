#include "kernels/cuda/gemm.h"

#include <cuda_runtime_api.h>

#include <string>

#include "buffers/cuda_check.h"
#include "buffers/error.h"

namespace rondo::cuda {
namespace {

// What Layout promises of every buffer and 8 elements promise within one.
constexpr uint32_t kAlignment = 16;
// Of the heuristic's, to choose from: on an H200 none behind the fifth was ever the fastest.
constexpr int kAlgorithms = 6;

const char* status_name(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR: return "CUBLAS_STATUS_LICENSE_ERROR";
    default: return "unknown cuBLAS status";
  }
}

cudaDataType cuda_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::f16: return CUDA_R_16F;
    case DType::bf16: return CUDA_R_16BF;
    default:
      throw Error(
          ErrorKind::InvalidArgument,
          std::string("matrix product: expected elements of f32, f16 or bf16, found ") + dtype_name(dtype));
  }
}

}  // namespace

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  // cuBLAS does not say why it failed: a device that is lost answers every call with the reason, this
  // harmless one too.
  size_t free = 0, total = 0;
  const cudaError_t device = cudaMemGetInfo(&free, &total);
  if (is_sticky(device)) check(device, what);
  cudaGetLastError();  // left behind by cuBLAS's own calls
  throw Error(
      status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorKind::OutOfMemory : ErrorKind::InvalidArgument,
      std::string(what) + ": " + status_name(status) + " (" + std::to_string(static_cast<int>(status)) + ")");
}

Gemm::Gemm(View workspace, cudaStream_t stream) : workspace_(workspace), stream_(stream) {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  handle_.reset(handle);
}

// Row-major out = in W^T is, read column-major (each matrix as its own transpose), out^T = W in^T: A is the
// weight's memory, [K, N] column-major and transposed, B the input's, [K, rows].
Gemm::Plan Gemm::make_plan(const Key& key) const {
  const auto [rows, N, K, in_type, out_type, accumulate] = key;
  Plan plan;
  cublasLtMatmulDesc_t product = nullptr;
  check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  plan.product.reset(product);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
        "cublasLtMatmulDescSetAttribute");

  const auto layout = [](DType type, int64_t down, int64_t across) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, cuda_type(type), static_cast<uint64_t>(down),
                                     static_cast<uint64_t>(across), down),
          "cublasLtMatrixLayoutCreate");
    return made;
  };
  plan.weight.reset(layout(in_type, K, N));
  plan.in.reset(layout(in_type, K, rows));
  plan.out.reset(layout(out_type, N, rows));

  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference(made);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_ ? workspace_.bytes() : uint64_t{0});
  // Split-K sums may be gathered in fp32 in the workspace, in a fixed order; not in the output's own, shorter
  // type.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    prefer(attribute, kAlignment);

  plan.algorithms.resize(kAlgorithms);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_.get(), product, plan.weight.get(), plan.in.get(), plan.out.get(), plan.out.get(),
      preference.get(), kAlgorithms, plan.algorithms.data(), &count);
  plan.algorithms.resize(static_cast<size_t>(count));
  std::erase_if(plan.algorithms, [](const auto& found) { return found.state != CUBLAS_STATUS_SUCCESS; });
  const std::string shape = "matrix product [" + std::to_string(rows) + ", " + std::to_string(K) + "] x [" +
                            std::to_string(N) + ", " + std::to_string(K) + "]^T of " + dtype_name(in_type) +
                            " to " + dtype_name(out_type);
  check(status, ("cublasLtMatmulAlgoGetHeuristic for the " + shape).c_str());
  if (plan.algorithms.empty())
    throw Error(ErrorKind::InvalidArgument,
                shape + ": expected cuBLASLt to have an algorithm, found none within a workspace of " +
                    std::to_string(workspace_ ? workspace_.bytes() : 0) + " bytes");
  return plan;
}

const Gemm::Plan& Gemm::plan(const Product& product) {
  const View &in = product.in, &weight = product.weight;
  if (in.dtype != weight.dtype)
    throw Error(ErrorKind::InvalidArgument,
                std::string("matrix product: expected an input of the weight's type, ") +
                    dtype_name(weight.dtype) + ", found " + dtype_name(in.dtype));
  const Key key{product.rows, weight.shape[0],   weight.shape[1],
                in.dtype,     product.out.dtype, product.accumulate};
  auto it = plans_.find(key);
  if (it == plans_.end()) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream_, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone)
      throw Error(ErrorKind::Misuse,
                  "matrix product " + weight.shape.text() + " at " + std::to_string(product.rows) +
                      " rows: expected its plan to be made before the step is captured, found none; run the "
                      "step once eagerly");
    it = plans_.emplace(key, make_plan(key)).first;
  }
  return it->second;
}

void Gemm::multiply(const Product& product, size_t algorithm) {
  const Plan& found = plan(product);
  const cublasLtMatmulHeuristicResult_t& chosen = found.algorithms.at(algorithm);
  const float one = 1, beta = product.accumulate ? 1.0f : 0.0f;
  const cublasStatus_t status = cublasLtMatmul(
      handle_.get(), found.product.get(), &one, product.weight.data, found.weight.get(), product.in.data,
      found.in.get(), &beta, product.out.data, found.out.get(), product.out.data, found.out.get(),
      &chosen.algo, workspace_.data, chosen.workspaceSize, stream_);
  if (status != CUBLAS_STATUS_SUCCESS) {  // it does not say so where a capture was spoiled
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream_, &capture) == cudaSuccess &&
        capture == cudaStreamCaptureStatusInvalidated)
      check(cudaErrorStreamCaptureInvalidated, "cublasLtMatmul");
  }
  check(status, "cublasLtMatmul");
}

}  // namespace rondo::cuda
