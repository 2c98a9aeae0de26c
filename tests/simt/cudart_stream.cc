// The stand-in runtime: streams, events, and the moment at which work runs.
#include <chrono>

#include "tests/simt/cudart_internal.h"
#include "tests/simt/simt.h"

namespace fake::detail {
namespace {

void execute(const Operation& operation) {
  Runtime& r = runtime();
  for (auto& child : operation.children) {
    if (r.broken) return;
    execute(*child);
  }
  if (operation.type == cudaGraphNodeTypeConditional) return;
  if (!operation.work) return;
  const bool counts = operation.type != cudaGraphNodeTypeEventRecord;
  if (counts && r.fault_countdown && --r.fault_countdown == 0) {
    r.broken = r.fault_error;
    return;
  }
  try {
    operation.work();
  } catch (const simt::error& e) {
    r.broken = cudaErrorLaunchFailure;
    r.broken_detail = e.what();
    r.note(std::string("kernel fault: ") + e.what());
  }
}

// A graph with a loop becomes its nodes, so that the host can look on between two rounds.
void take_apart(Queue& queue, const Operation& graph) {
  for (auto node = graph.children.rbegin(); node != graph.children.rend(); ++node) {
    const bool last = node == graph.children.rbegin();
    queue.items.push_front({*node, nullptr, 0, last});
    auto condition = runtime().conditions.find((*node)->condition);
    if (condition != runtime().conditions.end() && condition->second.assigned)
      condition->second.value = condition->second.at_launch;
  }
}

void run_front(Queue& queue) {
  const Queue::Item& front = queue.items.front();
  if (front.operation && front.operation->type == cudaGraphNodeTypeConditional &&
      runtime().conditions.at(front.operation->condition).value) {
    execute(*front.operation);  // one round; the condition is asked again
    return;
  }
  Queue::Item item = std::move(queue.items.front());
  queue.items.pop_front();
  if (!item.operation)
    run_until(*item.other, item.until);
  else if (item.operation->loops)
    return take_apart(queue, *item.operation);
  else if (item.operation->type != cudaGraphNodeTypeConditional)
    execute(*item.operation);
  queue.completed += item.last;
}

void drop_all(Queue& queue) {
  queue.items.clear();
  queue.completed = queue.submitted;
}

void push(Queue& queue, Queue::Item item) {
  queue.items.push_back(std::move(item));
  ++queue.submitted;
}

void push_wait(Queue& queue, const std::shared_ptr<Queue>& other) {
  if (other->completed < other->submitted) push(queue, {nullptr, other, other->submitted, true});
}

}  // namespace

CUstream_st* find_stream(cudaStream_t stream) {
  Runtime& r = runtime();
  if (!stream || stream == cudaStreamLegacy) return &r.legacy;
  if (r.streams.count(stream)) return stream;
  r.note("use of a stream that was destroyed or never created");
  return nullptr;
}

cudaError_t submit(CUstream_st* stream, std::shared_ptr<Operation> operation) {
  Runtime& r = runtime();
  if (stream == &r.legacy)
    if (cudaError_t e = forbidden_on_legacy()) return e;
  if (stream->capture) {
    if (stream->capture->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    auto node = std::make_unique<CUgraphNode_st>();
    for (auto& argument : operation->launch.arguments) node->kernel_params.push_back(argument.value);
    node->operation = std::move(operation);
    stream->capture->graph->nodes.push_back(std::move(node));
    return cudaSuccess;
  }
  // The legacy stream and the blocking ones wait for each other.
  if (stream == &r.legacy) {
    for (CUstream_st* s : r.streams)
      if (s->blocking()) push_wait(*stream->queue, s->queue);
  } else if (stream->blocking()) {
    push_wait(*stream->queue, r.legacy.queue);
  }
  push(*stream->queue, {std::move(operation), nullptr, 0, true});
  return cudaSuccess;
}

void run_until(Queue& queue, uint64_t until) {
  while (queue.completed < until && !queue.items.empty() && !runtime().broken) run_front(queue);
  if (runtime().broken) drop_all(queue);
}

void run_one(Queue& queue) {
  if (queue.items.empty()) return;
  const Queue::Item& front = queue.items.front();
  if (!front.operation && front.other->completed < front.until)
    run_one(*front.other);
  else
    run_front(queue);
  if (runtime().broken) drop_all(queue);
}

cudaError_t drain(CUstream_st* stream) {
  run_until(*stream->queue, stream->queue->submitted);
  return runtime().broken ? failed(runtime().broken) : cudaSuccess;
}

cudaError_t drain_all() {
  for (CUstream_st* s : runtime().streams) drain(s);
  return drain(&runtime().legacy);
}

}  // namespace fake::detail

using namespace fake::detail;

namespace {

cudaError_t create_stream(cudaStream_t* stream, unsigned flags, int priority) {
  if (flags & ~unsigned(cudaStreamNonBlocking)) return failed(cudaErrorInvalidValue);
  *stream = new CUstream_st;
  (*stream)->flags = flags;
  (*stream)->priority = priority;
  runtime().streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t* event, unsigned flags) {
  if (flags & ~unsigned(cudaEventBlockingSync | cudaEventDisableTiming)) return failed(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->timing = !(flags & cudaEventDisableTiming);
  runtime().events.insert(*event);
  return cudaSuccess;
}

CUevent_st* find_event(cudaEvent_t event) {
  if (runtime().events.count(event)) return event;
  if (event) runtime().note("use of an event that was destroyed or never created");
  return nullptr;
}

bool pending(const CUevent_st* event) {
  return !event->captured && event->queue && event->queue->completed < event->until;
}

// An event that a capture recorded stands for a place in a graph, not for a moment, and for nothing once the
// capture is over.
cudaError_t refuse_captured(CUevent_st* event) {
  if (!event->captured) return cudaSuccess;
  for (CUstream_st* s : runtime().streams)
    if (s->capture && s->capture->id == event->until) {
      spoil(s);
      return failed(cudaErrorCapturedEvent);
    }
  return failed(cudaErrorInvalidValue);
}

// Waiting for a stream, or asking whether it is idle.
cudaError_t refuse_wait(CUstream_st* stream) {
  if (stream->capture) {
    spoil(stream);
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  if (stream == &runtime().legacy)
    if (cudaError_t e = forbidden_on_legacy()) return e;
  return forbidden_by_capture();
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  Call call("cudaStreamCreate");
  return call.refused() ? call.refused() : create_stream(stream, cudaStreamDefault, 0);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Call call("cudaStreamCreateWithFlags");
  return call.refused() ? call.refused() : create_stream(stream, flags, 0);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  Call call("cudaStreamCreateWithPriority");
  return call.refused() ? call.refused() : create_stream(stream, flags, priority);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Call call("cudaStreamDestroy");
  if (call.nothing_exists()) return call.refused();
  CUstream_st* s = stream ? find_stream(stream) : nullptr;
  if (!s || s == &runtime().legacy) return call.result(cudaErrorInvalidResourceHandle);
  drain(s);
  runtime().streams.erase(s);
  delete s;
  return call.result(runtime().broken);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Call call("cudaStreamSynchronize");
  if (call.refused()) return call.refused();
  CUstream_st* s = find_stream(stream);
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = refuse_wait(s)) return e;
  return drain(s);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Call call("cudaStreamQuery");
  if (call.refused()) return call.refused();
  CUstream_st* s = find_stream(stream);
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = refuse_wait(s)) return e;
  if (s->queue->items.empty()) return cudaSuccess;
  run_one(*s->queue);
  return runtime().broken ? failed(runtime().broken) : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  Call call("cudaDeviceSynchronize");
  if (call.refused()) return call.refused();
  bool capturing = false;  // in any thread and any mode
  for (CUstream_st* s : runtime().streams)
    if (s->capture) {
      spoil(s);
      capturing = true;
    }
  return capturing ? failed(cudaErrorStreamCaptureUnsupported) : drain_all();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Call call("cudaStreamWaitEvent");
  if (call.refused()) return call.refused();
  CUstream_st* s = find_stream(stream);
  CUevent_st* e = find_event(event);
  if (!s || !e) return failed(cudaErrorInvalidResourceHandle);
  if (!e->queue) return cudaSuccess;  // never recorded
  if (e->captured) {
    if (s->capture && s->capture->id == e->until) return cudaSuccess;  // a stream's own order says so already
    for (CUstream_st* other : runtime().streams)
      if (other->capture && other->capture->id == e->until) {
        runtime().note("a capture that spreads over several streams is not modelled");
        return failed(cudaErrorNotSupported);
      }
    return failed(cudaErrorInvalidValue);
  }
  if (s->capture) {
    spoil(s);
    return failed(cudaErrorStreamCaptureIsolation);
  }
  if (pending(e)) {
    s->queue->items.push_back({nullptr, e->queue, e->until, true});
    ++s->queue->submitted;
  }
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  Call call("cudaEventCreate");
  return call.refused() ? call.refused() : create_event(event, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Call call("cudaEventCreateWithFlags");
  return call.refused() ? call.refused() : create_event(event, flags);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Call call("cudaEventDestroy");
  if (call.nothing_exists()) return call.refused();
  CUevent_st* e = find_event(event);
  if (!e) return call.result(cudaErrorInvalidResourceHandle);
  runtime().events.erase(e);
  delete e;
  return call.result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Call call("cudaEventRecord");
  if (call.refused()) return call.refused();
  CUstream_st* s = find_stream(stream);
  CUevent_st* e = find_event(event);
  if (!s || !e) return failed(cudaErrorInvalidResourceHandle);
  if (s->capture) {
    if (s->capture->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    e->captured = true;
    e->queue = s->queue;
    e->until = s->capture->id;
    return cudaSuccess;
  }
  auto when = std::make_shared<std::chrono::steady_clock::time_point>();
  auto operation = std::make_shared<Operation>();
  operation->type = cudaGraphNodeTypeEventRecord;
  operation->work = [when] { *when = std::chrono::steady_clock::now(); };
  if (cudaError_t error = submit(s, std::move(operation))) return error;
  e->captured = false;
  e->queue = s->queue;
  e->until = s->queue->submitted;
  e->when = when;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Call call("cudaEventQuery");
  if (call.refused()) return call.refused();
  CUevent_st* e = find_event(event);
  if (!e) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t error = refuse_captured(e)) return error;
  if (cudaError_t error = forbidden_by_capture()) return error;
  if (!pending(e)) return cudaSuccess;
  run_one(*e->queue);
  return runtime().broken ? failed(runtime().broken) : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Call call("cudaEventSynchronize");
  if (call.refused()) return call.refused();
  CUevent_st* e = find_event(event);
  if (!e) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t error = refuse_captured(e)) return error;
  if (cudaError_t error = forbidden_by_capture()) return error;
  if (pending(e)) run_until(*e->queue, e->until);
  return runtime().broken ? failed(runtime().broken) : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Call call("cudaEventElapsedTime");
  if (call.refused()) return call.refused();
  CUevent_st *a = find_event(start), *b = find_event(end);
  if (!a || !b || !a->timing || !b->timing || !a->queue || !b->queue)
    return failed(cudaErrorInvalidResourceHandle);
  if (a->captured || b->captured) return failed(cudaErrorCapturedEvent);
  if (pending(a) || pending(b)) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(*b->when - *a->when).count();
  return cudaSuccess;
}

}  // extern "C"
