// The CUDA backend of the seven verbs.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/loop_end.h"
#include "kernels/ops.h"
#include "kernels/read.h"

namespace rondo {

// Which kernels a verb is made of. Both forms of a product round alike but add in another order.
struct CudaForms {
  // For up to 64 rows: products that stream the weights, with what comes after, and for few rows the norm
  // before, in one kernel (stream_row.cu, stream_gemm.cu, stream_tiles.cu). false: the composed form for all
  // rows: RMSNorm, cuBLASLt, RoPE + append, SiLU-mul.
  bool streamed = true;
  // Kernels start before the one before has ended, where the GPU can (programmatic dependent launch). Changes
  // no bit.
  bool early = true;
};

// cuBLASLt plans are made the first time a shape is seen and kept, so that a captured step finds them made.
std::unique_ptr<Ops> make_cuda_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                   cudaStream_t stream, CudaForms forms = {});

// `loop` must outlive it.
std::unique_ptr<LoopEnd> make_cuda_loop_end(const StepDims& dims, const StepBuffers& buffers,
                                            const LoopBuffers& loop, cudaStream_t stream);

// On the calling thread's device, whose stream it is.
std::unique_ptr<Reader> make_cuda_reader(cudaStream_t stream);

}  // namespace rondo
