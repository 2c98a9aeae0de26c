// The stand-in runtime's state, shared by its files. Not for tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/simt/fake_cudart.h"

namespace fake::detail {

// One operation of the device, queued or captured.
struct Operation {
  cudaGraphNodeType type = cudaGraphNodeTypeKernel;
  KernelLaunch launch;         // of a kernel; for the node's parameters
  std::function<void()> work;  // runs it to its end; throws simt::error
  std::vector<CapturedPointer> pointers;
  // Of a graph launch, instead of work; of a conditional node, its body.
  std::vector<std::shared_ptr<const Operation>> children;
  uint64_t condition = 0;  // of a conditional node
  bool loops = false;      // of a graph launch: a conditional node is among its children
};
using OperationPtr = std::shared_ptr<const Operation>;

// A stream's work in order. Outlives its stream where an event refers to it.
struct Queue {
  struct Item {
    OperationPtr operation;  // null: wait for `until` of the other queue
    std::shared_ptr<Queue> other;
    uint64_t until = 0;
    bool last = true;  // of what was submitted as one; a graph with a loop comes apart
  };
  std::deque<Item> items;
  uint64_t submitted = 0, completed = 0;
};

struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id owner;
  std::unique_ptr<CUgraph_st> own;  // null: another's graph is captured into
  CUgraph_st* graph;
  uint64_t id;
  bool invalid = false;
};

// What cudaGraphSetConditional sets. Its graph and its node are those of the definition; what is instantiated
// shares the value.
struct Condition {
  const CUgraph_st* graph;
  unsigned at_launch;
  bool assigned;  // at_launch, when the graph is launched
  bool used;      // by a node
  unsigned value;
};

}  // namespace fake::detail

struct CUgraphNode_st {
  fake::detail::OperationPtr operation;
  std::vector<void*> kernel_params;
  CUgraph_st* body = nullptr;  // of a conditional node, whose it is
};
struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};
struct CUgraphExec_st {
  fake::detail::OperationPtr graph;
};
struct CUstream_st {
  std::shared_ptr<fake::detail::Queue> queue = std::make_shared<fake::detail::Queue>();
  unsigned flags = cudaStreamDefault;
  int priority = 0;
  std::optional<fake::detail::Capture> capture;
  bool blocking() const { return !(flags & cudaStreamNonBlocking); }
};
struct CUevent_st {
  bool timing = true, captured = false;
  std::shared_ptr<fake::detail::Queue> queue;  // null: never recorded
  uint64_t until = 0;                          // of the queue; or, if captured, the capture's id
  std::shared_ptr<std::chrono::steady_clock::time_point> when;
};

namespace fake::detail {

struct Block {
  size_t bytes;
  bool on_device;
};

struct Runtime {
  // Held through every call and while work runs: the device is one, and so is its queue of calls.
  std::recursive_mutex mutex;
  CUstream_st legacy;
  std::set<CUstream_st*> streams;
  std::set<CUgraph_st*> graphs;
  std::set<CUgraph_st*> bodies;  // of conditional nodes: they go with their graphs
  std::map<uint64_t, Condition> conditions;
  std::set<CUgraphExec_st*> execs;
  std::set<CUevent_st*> events;
  std::map<const char*, Block> blocks;
  std::set<const void*> library_objects;  // cuBLASLt's handles and descriptors
  size_t memory, used = 0;
  uint64_t captures = 0;  // begun so far: their ids
  Device device;

  cudaError_t broken = cudaSuccess;  // sticky
  bool was_reset_broken = false, unloaded = false;
  std::string broken_detail;
  uint64_t fault_countdown = 0;
  cudaError_t fault_error = cudaSuccess;

  std::map<std::string, std::map<int, int>> faults;  // per function: calls from now -> status
  double fail_rate = 0;
  uint64_t fail_random = 1;
  cudaError_t fail_error = cudaSuccess;
  std::map<std::string, uint64_t> calls;
  std::string misuse;
  int process;

  Runtime();
  void note(const std::string& what);
  void restore_defaults();
};
Runtime& runtime();

// Remembers e for cudaGetLastError() and returns it.
cudaError_t failed(cudaError_t e);
cudaError_t& last_error();

// Opens every function: takes the lock, counts the call, and says whether it must fail before it begins.
class Call {
 public:
  // A broken device fails every call, save a few that never ask it.
  enum class Device { asked, not_asked };
  explicit Call(const char* api, Device device = Device::asked);
  // Not cudaSuccess: return it, unless the call releases something.
  cudaError_t refused() const { return refused_; }
  // There is nothing to release: a forked child, or no device at all.
  bool nothing_exists() const { return nothing_exists_; }
  // A releasing call's answer: the refusal if there was one, else e.
  cudaError_t result(cudaError_t e) const { return refused_ ? refused_ : e ? failed(e) : cudaSuccess; }

 private:
  std::unique_lock<std::recursive_mutex> lock_;
  cudaError_t refused_ = cudaSuccess;
  bool nothing_exists_ = false;
};

// For the cuBLASLt stand-in, which shares counts and faults. 0 or the status to return.
int enter_library_call(const char* api, int random_status);

// ---- streams

CUstream_st* find_stream(cudaStream_t stream);  // null: destroyed or foreign, and noted as misuse
cudaError_t submit(CUstream_st* stream, std::shared_ptr<Operation> operation);
void run_until(Queue& queue, uint64_t until);  // stops where the device breaks; then everything is dropped
void run_one(Queue& queue);
cudaError_t drain(CUstream_st* stream);
cudaError_t drain_all();

// ---- capture

// What an unsafe call of this thread minds, set by cudaThreadExchangeStreamCaptureMode.
cudaStreamCaptureMode& thread_mode();

// A call that a capture could not see (allocation, synchronisation) is refused while one forbids it, and
// spoils it.
cudaError_t forbidden_by_capture();
// The same for calls on the legacy stream, which would wait for a blocking stream that is being captured.
cudaError_t forbidden_on_legacy();
void spoil(CUstream_st* stream);

// ---- memory

// The allocation that holds the address, or end().
std::map<const char*, Block>::const_iterator find_block(const void* address);

// Where a graph exec that is alive uses memory of [base, base + bytes), in words; "" if none does.
std::string held_by_a_graph(const void* base, size_t bytes);

}  // namespace fake::detail
