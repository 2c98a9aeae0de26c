#include "graphs/cuda_capture.h"

#include <algorithm>
#include <chrono>

#include "buffers/cuda_check.h"
#include "buffers/error.h"

namespace rondo {
namespace {

using cuda::check;
using cuda::release;

class Stopwatch {
 public:
  // Milliseconds since the last call, or since it was made.
  double lap() {
    const auto now = Clock::now();
    const double ms = std::chrono::duration<double, std::milli>(now - start_).count();
    start_ = now;
    return ms;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (graph_) release(cudaGraphDestroy(graph_));
  }
  Graph(const Graph&) = delete;  // one owner
  Graph& operator=(const Graph&) = delete;

  cudaGraph_t get() const { return graph_; }
  cudaGraph_t* out() { return &graph_; }
  void abandon() { graph_ = nullptr; }

 private:
  cudaGraph_t graph_ = nullptr;
};

// A graph of one node that runs its body while the condition is not 0, which it is at every launch.
class Loop {
 public:
  Loop() {
    check(cudaGraphCreate(graph_.out(), 0), "cudaGraphCreate");
    check(cudaGraphConditionalHandleCreate(&condition_, graph_.get(), 1, cudaGraphCondAssignDefault),
          "cudaGraphConditionalHandleCreate");
    cudaGraphNodeParams params{};
    params.type = cudaGraphNodeTypeConditional;
    params.conditional.handle = condition_;
    params.conditional.type = cudaGraphCondTypeWhile;
    params.conditional.size = 1;
    cudaGraphNode_t node = nullptr;
#if CUDART_VERSION >= 13000
    check(cudaGraphAddNode(&node, graph_.get(), nullptr, nullptr, 0, &params), "cudaGraphAddNode of a loop");
#else
    check(cudaGraphAddNode(&node, graph_.get(), nullptr, 0, &params), "cudaGraphAddNode of a loop");
#endif
    body_ = params.conditional.phGraph_out[0];
  }

  const Graph& graph() const { return graph_; }
  cudaGraph_t body() const { return body_; }  // the node's
  uint64_t condition() const { return condition_; }
  // After a capture into the body that was spoiled: driver 580 ended the process where the graph was
  // destroyed after that. It is not touched again.
  void abandon() { graph_.abandon(); }

 private:
  Graph graph_;
  cudaGraphConditionalHandle condition_ = 0;
  cudaGraph_t body_ = nullptr;
};

// While it lives the thread is refused what a capture of its own must not hold, although CudaDevice::enter()
// lets it do what others' captures mind.
class Strict {
 public:
  Strict() : found_(cuda::exchange_capture_mode(cudaStreamCaptureModeThreadLocal)) {}
  ~Strict() { cuda::restore_capture_mode(found_); }
  Strict(const Strict&) = delete;  // ends once
  Strict& operator=(const Strict&) = delete;

 private:
  int found_;
};

// A capture that is open from construction to end(), or to the end of the scope: whatever happens, the stream
// is usable again.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    open_ = true;
  }
  // Into the body of a loop, which stays the loop's.
  Capture(cudaStream_t stream, Loop& loop) : stream_(stream), into_(&loop) {
    check(cudaStreamBeginCaptureToGraph(stream_, loop.body(), nullptr, nullptr, 0,
                                        cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCaptureToGraph");
    open_ = true;
  }
  ~Capture() {
    if (!open_) return;
    cudaGraph_t dropped = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream_, &dropped);
    if (into_) {
      if (status != cudaSuccess) into_->abandon();
    } else if (dropped) {
      release(cudaGraphDestroy(dropped));
    }
    release(status);
  }
  Capture(const Capture&) = delete;  // it stands for the stream's one capture
  Capture& operator=(const Capture&) = delete;

  void end(Graph& graph) {
    open_ = false;
    check(cudaStreamEndCapture(stream_, graph.out()), "cudaStreamEndCapture, after the step was captured");
  }
  void end() {
    open_ = false;
    cudaGraph_t body = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream_, &body);
    if (status != cudaSuccess) into_->abandon();
    check(status, "cudaStreamEndCapture, after a loop's body was captured");
  }

 private:
  const Strict strict_;
  cudaStream_t stream_;
  Loop* into_ = nullptr;
  bool open_ = false;
};

class CudaRecording : public Recording {
 public:
  CudaRecording(CudaDevice& device, const Graph& graph) : device_(device) {
    check(cudaGraphInstantiate(&exec_, graph.get(), 0), "cudaGraphInstantiate");
  }
  ~CudaRecording() override {
    if (exec_) release(cudaGraphExecDestroy(exec_));
  }

  void upload() { check(cudaGraphUpload(exec_, device_.stream()), "cudaGraphUpload"); }
  void launch() override { check(cudaGraphLaunch(exec_, device_.stream()), "cudaGraphLaunch"); }

 private:
  CudaDevice& device_;
  cudaGraphExec_t exec_ = nullptr;
};

class CudaRecorder : public Recorder {
 public:
  explicit CudaRecorder(CudaDevice& device) : device_(device) {}

  std::unique_ptr<Recording> record(const std::function<void()>& step, RecordingCost& cost) override {
    const Range range(device_, "capture");
    Graph graph;
    Stopwatch watch;
    capture(step, graph);
    const double capture_ms = watch.lap();
    return instantiate(graph, graph.get(), capture_ms, cost);
  }

  std::unique_ptr<Recording> record_loop(const std::function<void(uint64_t)>& body,
                                         RecordingCost& cost) override {
    const Range range(device_, "capture of a loop");
    refuse_within_another();
    Stopwatch watch;
    Loop loop;
    {
      Capture open(device_.stream(), loop);
      body(loop.condition());
      open.end();
    }
    const double capture_ms = watch.lap();
    return instantiate(loop.graph(), loop.body(), capture_ms, cost);
  }

  void draw(const std::function<void()>& step, const std::string& path) override {
    Graph graph;
    capture(step, graph);
    check(cudaGraphDebugDotPrint(graph.get(), path.c_str(), cudaGraphDebugDotFlagsKernelNodeParams),
          ("cudaGraphDebugDotPrint to " + path).c_str());
  }

 private:
  // `counted`: the graph whose nodes are told.
  std::unique_ptr<Recording> instantiate(const Graph& graph, cudaGraph_t counted, double capture_ms,
                                         RecordingCost& cost) {
    RecordingCost found;
    found.capture_ms = capture_ms;
    size_t nodes = 0;
    check(cudaGraphGetNodes(counted, nullptr, &nodes), "cudaGraphGetNodes");
    found.nodes = static_cast<int64_t>(nodes);

    Stopwatch watch;
    const uint64_t free_before = device_.free_bytes();
    watch.lap();
    auto recording = std::make_unique<CudaRecording>(device_, graph);
    found.instantiate_ms = watch.lap();
    recording->upload();
    device_.synchronize();  // or the first launch would pay for the upload, and nobody know what it took
    found.upload_ms = watch.lap();
    // Other processes share the device: their releases must not make a negative size of ours.
    found.device_bytes =
        std::max<int64_t>(0, static_cast<int64_t>(free_before) - static_cast<int64_t>(device_.free_bytes()));
    cost = found;
    return recording;
  }

  void capture(const std::function<void()>& step, Graph& graph) {
    refuse_within_another();
    Capture open(device_.stream());
    step();
    open.end(graph);
  }

  void refuse_within_another() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(device_.stream(), &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone)
      throw Error(ErrorKind::Misuse,
                  "the device's stream is being captured already: a step cannot be recorded within another");
  }

  CudaDevice& device_;
};

}  // namespace

std::unique_ptr<Recorder> make_cuda_recorder(CudaDevice& device) {
  return std::make_unique<CudaRecorder>(device);
}

}  // namespace rondo
