#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launchers.h"

namespace rondo {
namespace {

class CudaLoopEnd : public LoopEnd {
 public:
  CudaLoopEnd(const StepDims& dims, const StepBuffers& buffers, const LoopBuffers& loop, cudaStream_t stream)
      : queue_{stream, cuda::Order::after, 0, 0} {
    args_.rows = buffers.rows.as<Row>();
    args_.logit_rows = buffers.logit_rows.as<const int32_t>();
    args_.sampled = buffers.sampled.as<const Sampled>();
    args_.top = buffers.top.as<const TopToken>();
    args_.control = loop.control();
    args_.slots = loop.slots();
    args_.mail = &loop.mail();
    args_.mail_sampled = loop.sampled(0);
    args_.mail_top = loop.top(0);
    args_.logit_rows_capacity = dims.max_logit_rows;
    cuda::prepare_loop_end();
  }

  void enqueue(uint64_t condition) override {
    cuda::LoopEndArgs args = args_;
    args.condition = condition;
    cuda::enqueue_loop_end(args, queue_);
  }

 private:
  cuda::Queue queue_;
  cuda::LoopEndArgs args_{};
};

}  // namespace

std::unique_ptr<LoopEnd> make_cuda_loop_end(const StepDims& dims, const StepBuffers& buffers,
                                            const LoopBuffers& loop, cudaStream_t stream) {
  return std::make_unique<CudaLoopEnd>(dims, buffers, loop, stream);
}

}  // namespace rondo
