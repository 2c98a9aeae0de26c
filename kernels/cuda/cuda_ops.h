// The CUDA backend of the seven verbs.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/ops.h"
#include "kernels/read.h"

namespace rondo {

// The composed form: RMSNorm, cuBLASLt GEMM, RoPE + append, split-K attention, SiLU-mul, sampling: one kernel file each.
// GEMM plans are made the first time a shape is seen and kept, so that a captured step finds them made.
std::unique_ptr<Ops> make_cuda_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model, cudaStream_t stream);

// On the calling thread's device, whose stream it is.
std::unique_ptr<Reader> make_cuda_reader(cudaStream_t stream);

}  // namespace rondo
