// The step's matrix products with what comes before them, each in one of its forms: streamed, as one kernel
// that also takes the norm before and what comes after (stream_row.cu, stream_gemm.cu); by tiles, which take
// what comes after (stream_tiles.cu); or composed of RMSNorm and cuBLASLt, where what comes after is the
// caller's.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launchers.h"
#include "kernels/model.h"
#include "kernels/verbs.h"

namespace rondo::cuda {

// out [rows, N] = in W^T (+ bias).
struct Product {
  Verb verb;
  int rows;
  View in;                // T [rows, K]; where there is a norm, what RMSNorm writes
  View norm_weight;       // T [K], or none: `in` is multiplied as it is
  const int32_t* gather;  // which row of the residual stream each row is the norm of; null: its own
  Linear linear;
  View out;  // of the composed form, without the bias
  bool accumulate;
  // What the forms that stream make of it, and where.
  StreamOutput output;
  void* streamed_out;
  const RopeAppendArgs* rope;  // of StreamOutput::rope_append
  bool norm_begun = false;     // `in` and `squares` were left by the product before; see begin_norms()
  View next_norm = {};         // T [N] of the norm of the output that is begun, or none
};

class Products {
 public:
  // `queue` must outlive it.
  Products(DType dtype, const StepBuffers& buffers, float eps, CudaForms forms, Queue& queue);

  // Enqueues it; whether by a form that does all of it. If not, the bias, and what `output` says beyond
  // adding and storing, is left to the caller.
  bool run(const Product& product);

  // Whether the one product begins the norm that the other starts with: both by tiles, up to kBegunRows rows,
  // and x times a norm's weight within T's range.
  bool begin_norms(const Product& one, const Product& other) const;

  // As Ops::forms() and its like have it.
  size_t forms(const Product& product);
  size_t form(const Product& product);
  void choose(const Product& product, size_t form);
  std::string kernels(const Product& product) const;  // of the form that is taken

 private:
  struct Streamed {
    StreamGemmArgs args;
    bool one;         // by stream_row
    bool norm_first;  // by a kernel of its own
  };
  struct Form {
    enum Kind { streamed, tiles, composed } kind;
    size_t algorithm = 0;  // composed: of cuBLASLt's, in the heuristic's order
    bool operator==(const Form&) const = default;
  };
  std::optional<Streamed> streamed(const Product& product) const;
  std::optional<StreamTilesArgs> tiles(const Product& product) const;
  Form unasked(const Product& product) const;
  Form taken(const Product& product) const;
  std::vector<Form> list(const Product& product);  // all there are, the one that is taken unasked first
  void norm(const Product& product);

  DType dtype_;
  StepBuffers buffers_;
  float eps_;
  CudaForms forms_;
  Queue& queue_;
  Gemm gemm_;
  std::map<std::pair<Verb, int>, Form> choices_;  // by verb and rows, where somebody chose
};

}  // namespace rondo::cuda
