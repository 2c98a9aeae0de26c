// Conditional nodes that loop: what the runtime's documentation says of them. Like cuda_conformance_test.cc
// it runs on the stand-in and, built with nvcc, on a real GPU.
#include <gtest/gtest.h>

#include "tests/simt/conformance.h"

namespace {

using namespace conformance;

// Adds one, and goes on until x is `end`.
__global__ void count_to(float* x, float end, cudaGraphConditionalHandle condition) {
  if (threadIdx.x == 0) {
    x[0] += 1.0f;
    rondo::cuda::set_condition(condition, x[0] < end);
  }
}

__global__ void tell(uint32_t* told, float* x, uint32_t* wanted) {
  if (threadIdx.x == 0) {
    told[1] = static_cast<uint32_t>(x[0]);
    __threadfence_system();
    rondo::cuda::store_for_host(told, told[0] + 1);
    x[0] += static_cast<float>(rondo::cuda::load_from_host(wanted));
  }
}

cudaError_t add_loop(cudaGraph_t graph, cudaGraphConditionalHandle condition, unsigned size,
                     cudaGraph_t* body = nullptr) {
  cudaGraphNodeParams params{};
  params.type = cudaGraphNodeTypeConditional;
  params.conditional.handle = condition;
  params.conditional.type = cudaGraphCondTypeWhile;
  params.conditional.size = size;
  cudaGraphNode_t node = nullptr;
#if CUDART_VERSION >= 13000
  const cudaError_t status = cudaGraphAddNode(&node, graph, nullptr, nullptr, 0, &params);
#else
  const cudaError_t status = cudaGraphAddNode(&node, graph, nullptr, 0, &params);
#endif
  if (status == cudaSuccess && body) *body = params.conditional.phGraph_out[0];
  return status;
}

class Loop : public Cuda {
 protected:
  void SetUp() override {
    Cuda::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(cudaGraphCreate(&graph_, 0), cudaSuccess);
  }
  void TearDown() override {
    if (graph_) {
      EXPECT_EQ(cudaGraphDestroy(graph_), cudaSuccess);
    }
    Cuda::TearDown();
  }

  cudaGraphConditionalHandle handle(unsigned at_launch, unsigned flags = cudaGraphCondAssignDefault) {
    cudaGraphConditionalHandle condition = 0;
    EXPECT_EQ(cudaGraphConditionalHandleCreate(&condition, graph_, at_launch, flags), cudaSuccess);
    return condition;
  }
  void capture_into(cudaGraph_t body, const std::function<void()>& record) {
    EXPECT_EQ(
        cudaStreamBeginCaptureToGraph(stream, body, nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal),
        cudaSuccess);
    record();
    cudaGraph_t same = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &same), cudaSuccess);
    EXPECT_EQ(same, body);
  }

  cudaGraph_t graph_ = nullptr;
};

TEST_F(Loop, RunsItsBodyUntilAKernelClearsTheConditionAtEveryLaunch) {
  const Floats x(32);
  x.zero();
  const auto condition = handle(1);
  cudaGraph_t body = nullptr;
  ASSERT_EQ(add_loop(graph_, condition, 1, &body), cudaSuccess);
  float end = 5;
  capture_into(body, [&] { launch(count_to, dim3(1), dim3(32), 0, stream, x.data, end, condition); });
  size_t nodes = 0;
  EXPECT_EQ(cudaGraphGetNodes(body, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 1u);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph_, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphUpload(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 5);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);  // the condition is 1 again
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 6);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
}

TEST_F(Loop, DoesNotRunItsBodyWhereTheConditionIsZeroAtLaunch) {
  const Floats x(32);
  x.zero();
  const auto condition = handle(0);
  cudaGraph_t body = nullptr;
  ASSERT_EQ(add_loop(graph_, condition, 1, &body), cudaSuccess);
  capture_into(body, [&] { launch(count_to, dim3(1), dim3(32), 0, stream, x.data, 5.0f, condition); });
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph_, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 0);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
}

// The host watches pinned memory and an event while the loop runs, and is heard.
TEST_F(Loop, TalksWithTheHostWhileItRuns) {
  const Floats x(32);
  x.zero();
  uint32_t* words = nullptr;  // told twice, wanted
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&words), 3 * sizeof(uint32_t)), cudaSuccess);
  words[0] = words[1] = words[2] = 0;
  const auto condition = handle(1);
  cudaGraph_t body = nullptr;
  ASSERT_EQ(add_loop(graph_, condition, 1, &body), cudaSuccess);
  const float end = 1e6f;  // further than it gets
  capture_into(body, [&] {
    launch(count_to, dim3(1), dim3(32), 0, stream, x.data, end, condition);
    launch(tell, dim3(1), dim3(32), 0, stream, words, x.data, words + 2);
  });
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph_, 0), cudaSuccess);
  {
    const Event done(cudaEventDisableTiming);
    EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(done.get, stream), cudaSuccess);
    cudaError_t status = cudaErrorNotReady;
    uint32_t seen = 0;
    while (status == cudaErrorNotReady) {
      seen = *static_cast<volatile uint32_t*>(words);
      if (seen >= 3) *static_cast<volatile uint32_t*>(words + 2) = 1000000;
      status = cudaEventQuery(done.get);
    }
    EXPECT_EQ(status, cudaSuccess);
    EXPECT_GE(words[0], 3u);
  }
  cudaGetLastError();
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(words), cudaSuccess);
}

TEST_F(Loop, RefusesWhatItsDocumentationRefuses) {
  cudaGraphConditionalHandle condition = 0;
  EXPECT_EQ(cudaGraphConditionalHandleCreate(&condition, graph_, 1, 2), cudaErrorInvalidValue);
  condition = handle(1);
  EXPECT_EQ(add_loop(graph_, condition, 2), cudaErrorInvalidValue);  // two bodies
  cudaGraph_t other = nullptr;
  EXPECT_EQ(cudaGraphCreate(&other, 0), cudaSuccess);
  EXPECT_EQ(add_loop(other, condition, 1), cudaErrorInvalidValue);  // another graph's condition
  EXPECT_EQ(cudaGraphDestroy(other), cudaSuccess);
  EXPECT_EQ(add_loop(graph_, condition, 1), cudaSuccess);
  EXPECT_EQ(add_loop(graph_, condition, 1), cudaErrorInvalidValue);  // the condition is the first node's
  cudaGetLastError();
}

#ifdef RONDO_ON_STAND_IN  // driver 580 ended the process here, in one of the calls or when the graph was
                          // destroyed
TEST_F(Loop, ACaptureIntoABodyThatIsSpoiledLeavesTheStreamUsable) {
  cudaGraph_t body = nullptr;
  ASSERT_EQ(add_loop(graph_, handle(1), 1, &body), cudaSuccess);
  EXPECT_EQ(
      cudaStreamBeginCaptureToGraph(stream, body, nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal),
      cudaSuccess);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
  cudaGraph_t same = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &same), cudaErrorStreamCaptureInvalidated);
  graph_ = nullptr;  // it went with the capture
  cudaGetLastError();
  const Floats x(32);
  x.zero();
  launch(add_one, dim3(1), dim3(32), 0, stream, x.data);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x.first(), 1);
}
#endif

}  // namespace
