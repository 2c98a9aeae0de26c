// The cuBLASLt stand-in: its handle, and the descriptors of matrices, products and preferences.
#include <cstring>
#include <new>

#include "tests/simt/cublaslt_internal.h"

using namespace fake::detail;

struct cublasLtContext {};

namespace {

template <class Opaque, class Init>
cublasStatus_t create(const char* api, Opaque** out, Init init) {
  if (int planted = enter_library_call(api, CUBLAS_STATUS_ALLOC_FAILED)) return cublasStatus_t(planted);
  if (!out) return CUBLAS_STATUS_INVALID_VALUE;
  auto* made = new Opaque{};
  if (cublasStatus_t s = init(made)) {
    delete made;
    return s;
  }
  *out = made;
  std::lock_guard lock(runtime().mutex);
  runtime().library_objects.insert(made);
  return CUBLAS_STATUS_SUCCESS;
}

template <class Opaque>
cublasStatus_t destroy(const char* api, Opaque* object) {
  const int planted = enter_library_call(api, CUBLAS_STATUS_EXECUTION_FAILED);
  {
    std::lock_guard lock(runtime().mutex);
    if (!runtime().library_objects.erase(object)) {
      runtime().note(std::string(api) + " of an object that was destroyed or never created");
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  delete object;
  return cublasStatus_t(planted);
}

template <class T>
cublasStatus_t store(T& field, const void* value, size_t bytes) {
  if (!value || bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

// Attributes that change speed and not meaning: checked for size alone.
template <class T>
cublasStatus_t ignore(const void* value, size_t bytes) {
  T unused;
  return store(unused, value, bytes);
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_UNKNOWN";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices)) return CUBLAS_STATUS_NOT_INITIALIZED;
  return create("cublasLtCreate", handle, [](auto*) { return CUBLAS_STATUS_SUCCESS; });
}
// It waits for the whole device, as its documentation says, and so spoils every capture that is open: seen on
// an H200, where it succeeds all the same.
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  cudaDeviceSynchronize();
  cudaGetLastError();
  return destroy("cublasLtDestroy", handle);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
  if (!layout || size < sizeof(cublasLtMatrixLayoutOpaque_t)) return CUBLAS_STATUS_ALLOC_FAILED;
  new (layout) Layout{kLayoutMagic, type, CUBLASLT_ORDER_COL, 1, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  return create("cublasLtMatrixLayoutCreate", layout, [&](cublasLtMatrixLayout_t l) {
    return cublasLtMatrixLayoutInit_internal(l, sizeof *l, type, rows, cols, ld);
  });
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return destroy("cublasLtMatrixLayoutDestroy", layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  if (int planted = enter_library_call("cublasLtMatrixLayoutSetAttribute", CUBLAS_STATUS_INTERNAL_ERROR))
    return cublasStatus_t(planted);
  Layout* l = layout_of(layout);
  if (!l) return misuse("not a matrix layout");
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return store(l->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return store(l->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return store(l->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return store(l->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD: return store(l->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return store(l->batch_count, value, bytes);
    default: return misuse("a matrix layout attribute that is not modelled");
  }
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
  if (!desc || size < sizeof(cublasLtMatmulDescOpaque_t)) return CUBLAS_STATUS_ALLOC_FAILED;
  new (desc) Product{kProductMagic,
                     compute,
                     scale,
                     kTypeOfD,
                     CUBLASLT_POINTER_MODE_HOST,
                     CUBLAS_OP_N,
                     CUBLAS_OP_N,
                     CUBLASLT_EPILOGUE_DEFAULT,
                     nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return create("cublasLtMatmulDescCreate", desc, [&](cublasLtMatmulDesc_t d) {
    return cublasLtMatmulDescInit_internal(d, sizeof *d, compute, scale);
  });
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return destroy("cublasLtMatmulDescDestroy", desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  if (int planted = enter_library_call("cublasLtMatmulDescSetAttribute", CUBLAS_STATUS_INTERNAL_ERROR))
    return cublasStatus_t(planted);
  Product* p = product_of(desc);
  if (!p) return misuse("not a product's descriptor");
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return store(p->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return store(p->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return store(p->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA: return store(p->transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return store(p->transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return store(p->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return store(p->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return store(p->bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: return ignore<int8_t>(value, bytes);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET: return ignore<int32_t>(value, bytes);
    default: return misuse("a product's attribute that is not modelled");
  }
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size) {
  if (!preference || size < sizeof(cublasLtMatmulPreferenceOpaque_t)) return CUBLAS_STATUS_ALLOC_FAILED;
  new (preference) Preference{kPreferenceMagic, {256, 256, 256, 256}, 0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return create("cublasLtMatmulPreferenceCreate", preference, [](cublasLtMatmulPreference_t p) {
    return cublasLtMatmulPreferenceInit_internal(p, sizeof *p);
  });
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return destroy("cublasLtMatmulPreferenceDestroy", preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (int planted = enter_library_call("cublasLtMatmulPreferenceSetAttribute", CUBLAS_STATUS_INTERNAL_ERROR))
    return cublasStatus_t(planted);
  Preference* p = preference_of(preference);
  if (!p) return misuse("not a preference");
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return store(p->max_workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return store(p->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return store(p->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return store(p->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return store(p->alignment[3], value, bytes);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return ignore<uint32_t>(value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT: return ignore<float>(value, bytes);
    case CUBLASLT_MATMUL_PREF_IMPL_MASK: return ignore<uint64_t>(value, bytes);
    default: return misuse("a preference's attribute that is not modelled");
  }
}

}  // extern "C"
