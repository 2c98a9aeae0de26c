// The state of the cuBLASLt stand-in's descriptors, shared by its two files.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>

#include "tests/simt/cudart_internal.h"

namespace fake::detail {

// The state lives in the opaque structs themselves, so that descriptors made by the Init functions work too.
struct Layout {
  uint32_t magic;
  cudaDataType type;
  int32_t order, batch_count;
  uint64_t rows, cols;
  int64_t ld;
};
struct Product {
  uint32_t magic;
  cublasComputeType_t compute;
  cudaDataType scale;
  int32_t bias_type, pointer_mode, transa, transb;
  uint32_t epilogue;
  const void* bias;
};
struct Preference {
  uint32_t magic;
  std::array<uint32_t, 4> alignment;  // of A, B, C, D
  uint64_t max_workspace;
};
struct Algorithm {
  uint32_t magic;
  uint32_t alignment_bits;  // log2 of A's, B's, C's and D's, a byte each
  uint64_t problem, workspace;
};
constexpr uint32_t kLayoutMagic = 0x4C41594F, kProductMagic = 0x50524F44, kPreferenceMagic = 0x50524546,
                   kAlgorithmMagic = 0x414C474F;
constexpr int32_t kTypeOfD = -1;  // the bias's, until set

template <class State, class Opaque>
State* state_of(Opaque* opaque, uint32_t magic) {
  static_assert(sizeof(State) <= sizeof(Opaque) && std::is_trivially_copyable_v<State>);
  auto* state = reinterpret_cast<State*>(opaque);
  return state && state->magic == magic ? state : nullptr;
}
inline Layout* layout_of(cublasLtMatrixLayout_t l) { return state_of<Layout>(l, kLayoutMagic); }
inline Product* product_of(cublasLtMatmulDesc_t d) { return state_of<Product>(d, kProductMagic); }
inline Preference* preference_of(cublasLtMatmulPreference_t p) {
  return state_of<Preference>(p, kPreferenceMagic);
}

// Notes what the real library leaves undefined, and is the status to return.
inline cublasStatus_t misuse(const char* what) {
  std::lock_guard lock(runtime().mutex);
  runtime().note(std::string("cuBLASLt: ") + what);
  return CUBLAS_STATUS_INVALID_VALUE;
}

}  // namespace fake::detail
