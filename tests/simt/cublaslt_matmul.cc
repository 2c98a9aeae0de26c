// A stand-in for libcublasLt, for what a decode step asks of it: D = alpha op(A) op(B) + beta C (+ bias) in
// fp32, fp16 and bf16, without batches. Sums are taken in double, so results differ from the real ones by
// less than fp32's rounding. Products are queued on the stand-in runtime's streams and can be captured. What
// the real library leaves undefined is an error status here, and is noted in fake::misuse(): pointers outside
// device memory, alignment below what the heuristic was told, a product without a heuristic's algorithm or
// with one made for another product.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <array>
#include <cstring>

#include "tests/simt/cublaslt_internal.h"

using namespace fake::detail;

namespace {

// The workspace that the first algorithm of a heuristic wants where the preference allows it; the second
// wants none.
constexpr size_t kWorkspaceBytes = 64 * 1024;
constexpr size_t kWorkspaceAlignment = 16;

size_t element_bytes(cudaDataType type) {
  switch (type) {
    case CUDA_R_32F: return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    default: return 0;
  }
}

struct Operand {
  const Layout* layout;
  bool transposed;
  uint64_t rows() const { return transposed ? layout->cols : layout->rows; }
  uint64_t cols() const { return transposed ? layout->rows : layout->cols; }
  // Distance in elements between neighbours in a column and in a row of op(X).
  uint64_t row_step() const {
    return (layout->order == CUBLASLT_ORDER_COL) != transposed ? 1 : uint64_t(layout->ld);
  }
  uint64_t col_step() const {
    return (layout->order == CUBLASLT_ORDER_COL) != transposed ? uint64_t(layout->ld) : 1;
  }
};

struct Problem {
  const Product* product;
  Operand a, b, c, d;
};

cublasStatus_t check_layout(const Layout& l) {
  if (l.rows == 0 || l.cols == 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (l.order != CUBLASLT_ORDER_COL && l.order != CUBLASLT_ORDER_ROW) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (l.batch_count != 1 || !element_bytes(l.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const uint64_t least = l.order == CUBLASLT_ORDER_COL ? l.rows : l.cols;
  return l.ld < 0 || uint64_t(l.ld) < least ? misuse("leading dimension below the matrix's extent")
                                            : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_problem(const Problem& p) {
  for (const Operand* o : {&p.a, &p.b, &p.c, &p.d})
    if (cublasStatus_t s = check_layout(*o->layout)) return s;
  const Product& q = *p.product;
  if (q.scale != CUDA_R_32F || q.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (q.compute) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
    case CUBLAS_COMPUTE_32F_FAST_16F:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
    case CUBLAS_COMPUTE_32F_FAST_TF32: break;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const cudaDataType ab = p.a.layout->type, cd = p.d.layout->type;
  if (p.b.layout->type != ab || p.c.layout->type != cd || (cd != ab && cd != CUDA_R_32F))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p.a.rows() != p.d.rows() || p.b.cols() != p.d.cols() || p.a.cols() != p.b.rows() ||
      p.c.rows() != p.d.rows() || p.c.cols() != p.d.cols() || p.c.layout->order != p.d.layout->order)
    return misuse("shapes of A, B, C and D do not fit together");
  if (q.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
  if (q.epilogue != CUBLASLT_EPILOGUE_BIAS || p.d.layout->order != CUBLASLT_ORDER_COL)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return q.bias_type == kTypeOfD || q.bias_type == cd ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool read_problem(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                  cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, Problem& out) {
  const Product* product = product_of(desc);
  const Layout *la = layout_of(a), *lb = layout_of(b), *lc = layout_of(c), *ld = layout_of(d);
  if (!product || !la || !lb || !lc || !ld) return false;
  out = {product,
         {la, product->transa != CUBLAS_OP_N},
         {lb, product->transb != CUBLAS_OP_N},
         {lc, false},
         {ld, false}};
  return true;
}

// What an algorithm was chosen for. FNV-1a over everything but the pointers.
uint64_t fingerprint(const Problem& p) {
  uint64_t h = 0xcbf29ce484222325ull;
  auto mix = [&](uint64_t v) { h = (h ^ v) * 0x100000001b3ull; };
  for (const Operand* o : {&p.a, &p.b, &p.c, &p.d})
    for (uint64_t v : {uint64_t(o->layout->type), uint64_t(o->layout->order), o->layout->rows,
                       o->layout->cols, uint64_t(o->layout->ld), uint64_t(o->transposed)})
      mix(v);
  mix(uint64_t(p.product->compute));
  mix(p.product->epilogue);
  return h;
}

bool on_device(const void* address, uint64_t bytes) {
  auto block = find_block(address);
  if (!address || block == runtime().blocks.end() || !block->second.on_device) return false;
  return bytes <= block->second.bytes - size_t(static_cast<const char*>(address) - block->first);
}

bool matrix_on_device(const void* address, const Layout& l) {
  const bool by_column = l.order == CUBLASLT_ORDER_COL;
  const uint64_t lines = by_column ? l.cols : l.rows, length = by_column ? l.rows : l.cols;
  return on_device(address, ((lines - 1) * uint64_t(l.ld) + length) * element_bytes(l.type));
}

double element(const void* base, uint64_t index, cudaDataType type) {
  switch (type) {
    case CUDA_R_16BF: return double(__bfloat162float(static_cast<const __nv_bfloat16*>(base)[index]));
    case CUDA_R_16F: return double(__half2float(static_cast<const __half*>(base)[index]));
    default: return double(static_cast<const float*>(base)[index]);
  }
}

void set_element(void* base, uint64_t index, cudaDataType type, double value) {
  const float rounded = static_cast<float>(value);
  switch (type) {
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(base)[index] = __float2bfloat16(rounded); break;
    case CUDA_R_16F: static_cast<__half*>(base)[index] = __float2half(rounded); break;
    default: static_cast<float*>(base)[index] = rounded;
  }
}

// One queued product: everything is copied from the descriptors, which may be destroyed before it runs.
struct Work {
  uint64_t m, n, k;
  cudaDataType ab, cd;
  std::array<uint64_t, 2> a_step, b_step, c_step, d_step;  // to the next row, to the next column
  const void *a, *b, *c, *bias;
  void *d, *workspace;
  uint64_t workspace_bytes;
  float alpha, beta;

  void run() const {
    if (workspace_bytes)
      std::memset(workspace, 0xFF, workspace_bytes);  // a shared workspace is scratch: nothing survives in it
    std::vector<double> rows(m * k), column(k);
    for (uint64_t i = 0; i < m; ++i)
      for (uint64_t l = 0; l < k; ++l) rows[i * k + l] = element(a, i * a_step[0] + l * a_step[1], ab);
    for (uint64_t j = 0; j < n; ++j) {
      for (uint64_t l = 0; l < k; ++l) column[l] = element(b, l * b_step[0] + j * b_step[1], ab);
      for (uint64_t i = 0; i < m; ++i) {
        const double *x = &rows[i * k], *y = column.data();
        double sum = 0;
        for (uint64_t l = 0; l < k; ++l) sum += x[l] * y[l];
        double value = double(alpha) * sum;
        if (beta != 0.0f) value += double(beta) * element(c, i * c_step[0] + j * c_step[1], cd);
        if (bias) value += element(bias, i, cd);
        set_element(d, i * d_step[0] + j * d_step[1], cd, value);
      }
    }
  }
};

uint32_t log2_of(uint32_t alignment) {
  uint32_t bits = 0;
  while (bits < 8 && (2u << bits) <= alignment) ++bits;
  return bits;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* returned) {
  if (int planted = enter_library_call("cublasLtMatmulAlgoGetHeuristic", CUBLAS_STATUS_INTERNAL_ERROR))
    return cublasStatus_t(planted);
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  Problem problem;
  const Preference* p = preference_of(preference);
  if (!p || requested < 1 || !results || !returned || !read_problem(desc, a, b, c, d, problem))
    return misuse("heuristic asked with a null or destroyed argument");
  *returned = 0;
  if (cublasStatus_t s = check_problem(problem)) return s;
  Algorithm algorithm{kAlgorithmMagic, 0, fingerprint(problem), 0};
  for (size_t i = 0; i < 4; ++i) algorithm.alignment_bits |= log2_of(p->alignment[i]) << 8 * i;
  for (uint64_t workspace : {uint64_t(kWorkspaceBytes), uint64_t(0)}) {
    if (workspace > p->max_workspace || *returned == requested) continue;
    algorithm.workspace = workspace;
    cublasLtMatmulHeuristicResult_t& result = results[(*returned)++];
    result = {};
    std::memcpy(&result.algo, &algorithm, sizeof algorithm);
    result.workspaceSize = workspace;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1.0f;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  const int planted = enter_library_call("cublasLtMatmul", CUBLAS_STATUS_EXECUTION_FAILED);
  std::lock_guard lock(runtime().mutex);
  CUstream_st* s = find_stream(stream);
  if (planted) {
    if (s) spoil(s);
    return cublasStatus_t(planted);
  }
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  Problem p;
  if (!s || !alpha || !beta || !a || !b || !d ||
      !read_problem(desc, a_layout, b_layout, c_layout, d_layout, p))
    return misuse("product with a null or destroyed argument");
  if (cublasStatus_t status = check_problem(p)) return status;

  Algorithm chosen{};
  if (algo) std::memcpy(&chosen, algo, sizeof chosen);
  if (chosen.magic != kAlgorithmMagic) return misuse("product without an algorithm from the heuristic");
  if (chosen.problem != fingerprint(p))
    return misuse("product with an algorithm that was chosen for another product");
  if (chosen.workspace && (workspace_bytes < chosen.workspace || !on_device(workspace, chosen.workspace)))
    return misuse("workspace missing, too small or not in device memory");
  if (chosen.workspace && reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment)
    return misuse("workspace not aligned to 16 bytes");

  Work work{};
  std::memcpy(&work.alpha, alpha, sizeof work.alpha);
  std::memcpy(&work.beta, beta, sizeof work.beta);
  const void* const matrices[] = {a, b, work.beta != 0.0f ? c : nullptr, d};
  const Layout* const layouts[] = {p.a.layout, p.b.layout, p.c.layout, p.d.layout};
  for (size_t i = 0; i < 4; ++i) {
    if (i == 2 && work.beta == 0.0f) continue;  // C is not read
    if (!matrix_on_device(matrices[i], *layouts[i])) return misuse("a matrix reaches outside device memory");
    if (reinterpret_cast<uintptr_t>(matrices[i]) % (1u << (chosen.alignment_bits >> 8 * i & 0xFF)))
      return misuse("a matrix is aligned to less than the preference said");
  }
  if (work.beta != 0.0f && c == d && p.c.layout->ld != p.d.layout->ld)
    return misuse("C and D share memory with different leading dimensions");
  if (d == a || d == b) return misuse("D is an input of its own product");
  work.bias = p.product->epilogue == CUBLASLT_EPILOGUE_BIAS ? p.product->bias : nullptr;
  if (p.product->epilogue == CUBLASLT_EPILOGUE_BIAS &&
      !on_device(work.bias, p.d.rows() * element_bytes(p.d.layout->type)))
    return misuse("bias missing or outside device memory");

  work.m = p.d.rows();
  work.n = p.d.cols();
  work.k = p.a.cols();
  work.ab = p.a.layout->type;
  work.cd = p.d.layout->type;
  work.a_step = {p.a.row_step(), p.a.col_step()};
  work.b_step = {p.b.row_step(), p.b.col_step()};
  work.c_step = {p.c.row_step(), p.c.col_step()};
  work.d_step = {p.d.row_step(), p.d.col_step()};
  work.a = a;
  work.b = b;
  work.c = matrices[2];
  work.d = d;
  work.workspace = workspace;
  work.workspace_bytes = chosen.workspace;

  auto operation = std::make_shared<Operation>();
  operation->type = cudaGraphNodeTypeKernel;
  operation->work = [work] { work.run(); };
  const std::pair<const void*, const char*> named[] = {{a, "A"},
                                                       {b, "B"},
                                                       {work.c, "C"},
                                                       {d, "D"},
                                                       {work.bias, "bias"},
                                                       {chosen.workspace ? workspace : nullptr, "workspace"}};
  for (auto& [address, name] : named)
    if (address) operation->pointers.push_back({address, std::string("cublasLtMatmul ") + name});
  return submit(s, std::move(operation)) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
