// The stand-in runtime: launches, capture and graphs.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tests/simt/cudart_internal.h"
#include "tests/simt/simt.h"

namespace fake {
namespace detail {
namespace {

// The pointers among a launch's arguments. In a struct passed by value only addresses of live allocations are
// told from numbers.
std::vector<CapturedPointer> pointers_of(const KernelLaunch& launch) {
  std::vector<CapturedPointer> found;
  for (size_t i = 0; i < launch.arguments.size(); ++i) {
    const Argument& a = launch.arguments[i];
    const std::string where = "argument " + std::to_string(i);
    for (size_t at = 0; at + sizeof(void*) <= a.bytes; at += sizeof(void*)) {
      const void* word = nullptr;
      std::memcpy(&word, static_cast<const char*>(a.value) + at, sizeof word);
      if (word && (a.is_pointer || find_block(word) != runtime().blocks.end()))
        found.push_back({word, where});
    }
  }
  return found;
}

const char* type_name(cudaGraphNodeType type) {
  switch (type) {
    case cudaGraphNodeTypeKernel: return "kernel";
    case cudaGraphNodeTypeMemcpy: return "copy";
    case cudaGraphNodeTypeMemset: return "memset";
    case cudaGraphNodeTypeGraph: return "graph";
    case cudaGraphNodeTypeConditional: return "conditional";
    default: return "other";
  }
}

void collect_pointers(const Operation& operation, const std::string& node,
                      std::vector<CapturedPointer>& out) {
  for (auto& p : operation.pointers)
    out.push_back({p.address, node + " (" + type_name(operation.type) + "), " + p.where});
  for (size_t i = 0; i < operation.children.size(); ++i)
    collect_pointers(*operation.children[i], node + (node.empty() ? "node " : ".") + std::to_string(i), out);
}

}  // namespace

cudaStreamCaptureMode& thread_mode() {
  static thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  return mode;
}

std::string held_by_a_graph(const void* base, size_t bytes) {
  const auto* start = static_cast<const char*>(base);
  std::vector<CapturedPointer> pointers;
  for (CUgraphExec_st* exec : runtime().execs) collect_pointers(*exec->graph, "", pointers);
  for (const CapturedPointer& p : pointers) {
    const auto* address = static_cast<const char*>(p.address);
    if (address >= start && address < start + bytes) return p.where;
  }
  return "";
}

void spoil(CUstream_st* stream) {
  if (stream->capture) stream->capture->invalid = true;
}

cudaError_t forbidden_by_capture() {
  const cudaStreamCaptureMode own = thread_mode();
  if (own == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  bool forbidden = false;
  for (CUstream_st* s : runtime().streams) {
    if (!s->capture) continue;
    const bool mine = s->capture->owner == std::this_thread::get_id();
    const bool minds =
        mine ? s->capture->mode != cudaStreamCaptureModeRelaxed
             : s->capture->mode == cudaStreamCaptureModeGlobal && own == cudaStreamCaptureModeGlobal;
    if (!minds) continue;
    spoil(s);
    forbidden = true;
  }
  return forbidden ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t forbidden_on_legacy() {
  bool forbidden = false;
  for (CUstream_st* s : runtime().streams) {
    if (!s->capture || !s->blocking()) continue;
    spoil(s);
    forbidden = true;
  }
  return forbidden ? failed(cudaErrorStreamCaptureImplicit) : cudaSuccess;
}

}  // namespace detail

using namespace detail;

cudaError_t launch_kernel(cudaStream_t stream, KernelLaunch launch) {
  Call call("cudaLaunchKernelExC");
  CUstream_st* s = call.nothing_exists() ? nullptr : find_stream(stream);
  if (call.refused()) {
    if (s) spoil(s);
    return call.refused();
  }
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  const auto problem = simt::check_launch(launch.function, launch.grid, launch.block, launch.dynamic_shared);
  if (problem != simt::LaunchProblem::none) {
    if (s->capture && s->capture->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    spoil(s);
    return failed(cudaErrorInvalidValue);
  }
  auto operation = std::make_shared<Operation>();
  operation->type = cudaGraphNodeTypeKernel;
  operation->pointers = pointers_of(launch);
  operation->work = [function = launch.function, grid = launch.grid, block = launch.block,
                     shared = launch.dynamic_shared, in_order = launch.in_order,
                     body = launch.body] { simt::run(function, grid, block, shared, body, in_order); };
  operation->launch = std::move(launch);
  return submit(s, std::move(operation));
}

void set_condition(cudaGraphConditionalHandle handle, unsigned value) {
  // A kernel calls it, which runs inside a call that holds the runtime's lock; its thread is a fiber that
  // does not.
  const auto condition = runtime().conditions.find(handle);
  if (condition == runtime().conditions.end() || !condition->second.used)
    throw simt::error("cudaGraphSetConditional: the handle belongs to no conditional node");
  condition->second.value = value;
}

std::vector<CapturedPointer> captured_pointers(cudaGraph_t graph) {
  std::lock_guard lock(runtime().mutex);
  std::vector<CapturedPointer> out;
  for (size_t i = 0; i < graph->nodes.size(); ++i)
    collect_pointers(*graph->nodes[i]->operation, "node " + std::to_string(i), out);
  return out;
}

std::vector<CapturedPointer> captured_pointers() {
  std::lock_guard lock(runtime().mutex);
  std::vector<CapturedPointer> out;
  for (CUgraphExec_st* exec : runtime().execs) collect_pointers(*exec->graph, "", out);
  return out;
}

}  // namespace fake

using namespace fake::detail;

namespace {

CUgraph_st* find_graph(cudaGraph_t graph) {
  if (runtime().graphs.count(graph) || runtime().bodies.count(graph)) return graph;
  if (graph) runtime().note("use of a graph that was destroyed or never created");
  return nullptr;
}

CUgraphExec_st* find_exec(cudaGraphExec_t exec) {
  if (runtime().execs.count(exec)) return exec;
  if (exec) runtime().note("use of a graph exec that was destroyed or never created");
  return nullptr;
}

cudaError_t refuse_graph_on_capturing(CUstream_st* stream) {
  if (!stream->capture) return cudaSuccess;
  spoil(stream);
  return failed(cudaErrorStreamCaptureUnsupported);
}

// What nodes of a conditional node's body may be.
bool fits_a_body(cudaGraphNodeType type) {
  switch (type) {
    case cudaGraphNodeTypeKernel:
    case cudaGraphNodeTypeMemcpy:
    case cudaGraphNodeTypeMemset:
    case cudaGraphNodeTypeGraph:
    case cudaGraphNodeTypeEmpty:
    case cudaGraphNodeTypeConditional: return true;
    default: return false;
  }
}

// The nodes as they are now; null where one cannot be where it is.
std::shared_ptr<Operation> snapshot(const CUgraph_st& graph, bool body) {
  auto all = std::make_shared<Operation>();
  all->type = cudaGraphNodeTypeGraph;
  for (auto& node : graph.nodes) {
    if (body && !fits_a_body(node->operation->type)) return nullptr;
    if (!node->body) {
      all->children.push_back(node->operation);
      continue;
    }
    if (body) {
      runtime().note("a loop inside a loop is not modelled");
      return nullptr;
    }
    const auto inside = snapshot(*node->body, true);
    if (!inside) return nullptr;
    auto conditional = std::make_shared<Operation>(*node->operation);
    conditional->children = inside->children;
    all->children.push_back(std::move(conditional));
    all->loops = true;
  }
  return all;
}

// A graph and the bodies of its nodes.
void destroy(CUgraph_st* graph) {
  for (auto& [handle, condition] : runtime().conditions)
    if (condition.graph == graph) condition.graph = nullptr;  // what was instantiated may still run
  for (auto& node : graph->nodes)
    if (node->body) {
      runtime().bodies.erase(node->body);
      destroy(node->body);
    }
  delete graph;
}

cudaError_t begin_capture(CUstream_st* s, cudaStreamCaptureMode mode, std::unique_ptr<CUgraph_st> own,
                          CUgraph_st* graph) {
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (s == &runtime().legacy) return failed(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return failed(cudaErrorIllegalState);
  s->capture = Capture{mode, std::this_thread::get_id(), std::move(own), graph, ++runtime().captures};
  return cudaSuccess;
}

cudaError_t instantiate(cudaGraphExec_t* exec, cudaGraph_t graph) {
  *exec = nullptr;
  if (cudaError_t e = forbidden_by_capture()) return e;
  CUgraph_st* g = find_graph(graph);
  if (!g) return failed(cudaErrorInvalidValue);
  for (const auto& [handle, condition] : runtime().conditions)
    if (condition.graph == g && !condition.used) return failed(cudaErrorInvalidValue);
  const auto operation = snapshot(*g, false);
  if (!operation) return failed(cudaErrorNotSupported);
  *exec = new CUgraphExec_st{operation};
  runtime().execs.insert(*exec);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  Call call("cudaThreadExchangeStreamCaptureMode");
  if (call.refused()) return call.refused();
  std::swap(*mode, fake::detail::thread_mode());
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Call call("cudaStreamIsCapturing");
  if (call.refused()) return call.refused();
  CUstream_st* s = find_stream(stream);
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (s == &runtime().legacy)  // cannot be told, and spoils nothing
    for (CUstream_st* other : runtime().streams)
      if (other->capture && other->blocking()) return failed(cudaErrorStreamCaptureImplicit);
  *status = !s->capture           ? cudaStreamCaptureStatusNone
            : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Call call("cudaStreamBeginCapture");
  if (call.refused()) return call.refused();
  auto own = std::make_unique<CUgraph_st>();
  CUgraph_st* graph = own.get();
  return begin_capture(find_stream(stream), mode, std::move(own), graph);
}

// Into a graph without nodes that the capture would have to stand behind.
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph, const cudaGraphNode_t*,
                                          const cudaGraphEdgeData*, size_t dependencies,
                                          cudaStreamCaptureMode mode) {
  Call call("cudaStreamBeginCaptureToGraph");
  if (call.refused()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g || dependencies) return failed(cudaErrorInvalidValue);
  return begin_capture(find_stream(stream), mode, nullptr, g);
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  Call call("cudaGraphCreate");
  if (call.refused()) return call.refused();
  if (!graph || flags) return failed(cudaErrorInvalidValue);
  *graph = new CUgraph_st;
  runtime().graphs.insert(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* handle, cudaGraph_t graph,
                                             unsigned at_launch, unsigned flags) {
  Call call("cudaGraphConditionalHandleCreate");
  if (call.refused()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g || !handle || flags & ~unsigned(cudaGraphCondAssignDefault)) return failed(cudaErrorInvalidValue);
  static uint64_t number = 0;
  *handle = ++number;
  runtime().conditions[*handle] = {g, at_launch, flags != 0, false, 0};
  return cudaSuccess;
}

// Conditional nodes of the kind "while"; other nodes come from captures.
cudaError_t cudaGraphAddNode(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t*,
                             const cudaGraphEdgeData*, size_t dependencies, cudaGraphNodeParams* params) {
  Call call("cudaGraphAddNode");
  if (call.refused()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g || !out || !params || dependencies) return failed(cudaErrorInvalidValue);
  if (params->type != cudaGraphNodeTypeConditional || params->conditional.type != cudaGraphCondTypeWhile) {
    runtime().note("cudaGraphAddNode of another node than a conditional one that loops is not modelled");
    return failed(cudaErrorNotSupported);
  }
  const auto condition = runtime().conditions.find(params->conditional.handle);
  if (condition == runtime().conditions.end() || condition->second.graph != g || condition->second.used ||
      params->conditional.size != 1)
    return failed(cudaErrorInvalidValue);
  condition->second.used = true;
  auto operation = std::make_shared<Operation>();
  operation->type = cudaGraphNodeTypeConditional;
  operation->condition = condition->first;
  auto node = std::make_unique<CUgraphNode_st>();
  node->operation = std::move(operation);
  node->body = new CUgraph_st;
  runtime().bodies.insert(node->body);
  params->conditional.phGraph_out = &node->body;
  *out = node.get();
  g->nodes.push_back(std::move(node));
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Call call("cudaStreamEndCapture");
  *graph = nullptr;
  if (call.nothing_exists()) return call.refused();
  CUstream_st* s = find_stream(stream);
  if (!s) return call.result(cudaErrorInvalidResourceHandle);
  if (!s->capture) return call.result(cudaErrorIllegalState);
  Capture capture = std::move(*s->capture);
  s->capture.reset();  // whatever comes now, the capture is over
  if (call.refused()) return call.refused();
  if (capture.invalid) {
    // Into a loop's body: nothing can be done with the loop's graph any more, not even to destroy it.
    for (CUgraph_st* owner : runtime().graphs)
      if (std::any_of(owner->nodes.begin(), owner->nodes.end(),
                      [&](const auto& node) { return node->body && node->body == capture.graph; })) {
        runtime().graphs.erase(owner);
        destroy(owner);
        break;
      }
    return failed(cudaErrorStreamCaptureInvalidated);
  }
  if (capture.mode != cudaStreamCaptureModeRelaxed && capture.owner != std::this_thread::get_id())
    return failed(cudaErrorStreamCaptureWrongThread);
  *graph = capture.graph;
  if (capture.own) runtime().graphs.insert(capture.own.release());
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  Call call("cudaGraphGetNodes");
  if (call.refused()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g || !count) return failed(cudaErrorInvalidValue);
  if (nodes)
    for (size_t i = 0; i < *count; ++i) nodes[i] = i < g->nodes.size() ? g->nodes[i].get() : nullptr;
  if (!nodes || *count > g->nodes.size()) *count = g->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  Call call("cudaGraphNodeGetType");
  if (call.refused()) return call.refused();
  if (!node) return failed(cudaErrorInvalidValue);
  *type = node->operation->type;
  return cudaSuccess;
}

cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* params) {
  Call call("cudaGraphKernelNodeGetParams");
  if (call.refused()) return call.refused();
  if (!node || node->operation->type != cudaGraphNodeTypeKernel) return failed(cudaErrorInvalidValue);
  const fake::KernelLaunch& launch = node->operation->launch;
  *params = {};
  params->func = const_cast<void*>(launch.function);
  params->gridDim = launch.grid;
  params->blockDim = launch.block;
  params->sharedMemBytes = unsigned(launch.dynamic_shared);
  params->kernelParams = node->kernel_params.data();
  return cudaSuccess;
}

// Nodes in their order, each after the one before: a captured stream is a chain.
cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned) {
  Call call("cudaGraphDebugDotPrint");
  if (call.refused()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g || !path) return failed(cudaErrorInvalidValue);
  std::FILE* file = std::fopen(path, "w");
  if (!file) return failed(cudaErrorOperatingSystem);
  std::fprintf(file, "digraph graph_1 {\n");
  for (size_t i = 0; i < g->nodes.size(); ++i) {
    std::fprintf(file, "  n%zu [label=\"%s\"];\n", i, type_name(g->nodes[i]->operation->type));
    if (i) std::fprintf(file, "  n%zu -> n%zu;\n", i - 1, i);
  }
  std::fprintf(file, "}\n");
  std::fclose(file);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Call call("cudaGraphInstantiate");
  return call.refused() ? call.refused() : instantiate(exec, graph);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Call call("cudaGraphInstantiateWithFlags");
  return call.refused() ? call.refused() : instantiate(exec, graph);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  Call call("cudaGraphUpload");
  if (call.refused()) return call.refused();
  if (!find_exec(exec)) return failed(cudaErrorInvalidValue);
  CUstream_st* s = find_stream(stream);
  return s ? refuse_graph_on_capturing(s) : failed(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Call call("cudaGraphLaunch");
  CUstream_st* s = call.nothing_exists() ? nullptr : find_stream(stream);
  if (call.refused()) {
    if (s) spoil(s);
    return call.refused();
  }
  CUgraphExec_st* x = find_exec(exec);
  if (!x) return failed(cudaErrorInvalidValue);
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = refuse_graph_on_capturing(s)) return e;
  return submit(s, std::make_shared<Operation>(*x->graph));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Call call("cudaGraphDestroy", Call::Device::not_asked);
  if (call.nothing_exists()) return call.refused();
  CUgraph_st* g = find_graph(graph);
  if (!g && graph) runtime().note("cudaGraphDestroy of a graph that is not there");
  if (!g || runtime().bodies.count(g)) return call.result(cudaErrorInvalidValue);
  runtime().graphs.erase(g);
  destroy(g);
  return call.result(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {  // work in flight goes on: it holds the nodes
  Call call("cudaGraphExecDestroy", Call::Device::not_asked);
  if (call.nothing_exists()) return call.refused();
  CUgraphExec_st* x = find_exec(exec);
  if (!x) return call.result(cudaErrorInvalidValue);
  if (!runtime().broken)
    if (cudaError_t e = forbidden_by_capture()) return e;
  runtime().execs.erase(x);
  delete x;
  return call.result(cudaSuccess);
}

cudaError_t cudaDeviceReset() {
  Call call("cudaDeviceReset");
  if (call.nothing_exists()) return call.refused();
  if (runtime().broken) {
    runtime().was_reset_broken = true;  // it claims success, and the device stays away
    return cudaSuccess;
  }
  if (call.refused()) return call.refused();
  if (fake::live_objects() > 0) runtime().note("cudaDeviceReset with objects alive: " + fake::live_report());
  return drain_all();
}

}  // extern "C"
