// The stand-in runtime: what opens every call, and what tests steer it with.
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "tests/simt/cudart_internal.h"

namespace fake {
namespace detail {
namespace {

constexpr size_t kDefaultMemory = size_t(1) << 30;

// The functions whose calls are counted and can be told to fail.
const char* const kFunctions[] = {
    "cudaDeviceGetAttribute",
    "cudaDeviceGetStreamPriorityRange",
    "cudaDeviceReset",
    "cudaDeviceSynchronize",
    "cudaEventCreate",
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventQuery",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFree",
    "cudaFreeHost",
    "cudaFuncGetAttributes",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaGraphAddNode",
    "cudaGraphConditionalHandleCreate",
    "cudaGraphCreate",
    "cudaGraphDebugDotPrint",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphGetNodes",
    "cudaGraphInstantiate",
    "cudaGraphInstantiateWithFlags",
    "cudaGraphKernelNodeGetParams",
    "cudaGraphLaunch",
    "cudaGraphNodeGetType",
    "cudaGraphUpload",
    "cudaHostAlloc",
    "cudaLaunchKernelExC",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaMemGetInfo",
    "cudaMemcpy",
    "cudaMemcpyAsync",
    "cudaMemset",
    "cudaMemsetAsync",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
    "cudaSetDevice",
    "cudaStreamBeginCapture",
    "cudaStreamBeginCaptureToGraph",
    "cudaStreamCreate",
    "cudaStreamCreateWithFlags",
    "cudaStreamCreateWithPriority",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamIsCapturing",
    "cudaStreamQuery",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "cudaThreadExchangeStreamCaptureMode",
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
};

void add_fault(const std::string& api, int nth, int status) {
  const bool known =
      std::any_of(std::begin(kFunctions), std::end(kFunctions), [&](auto f) { return api == f; });
  if (!known || nth < 1 || status == 0)
    throw std::invalid_argument("fake::fail(" + api + ", " + std::to_string(nth) + ", " +
                                std::to_string(status) +
                                "): a function of the stand-in, a count from 1 and an error are needed");
  Runtime& r = runtime();
  std::lock_guard lock(r.mutex);
  r.faults[api][nth] = status;
}

// Counts the call; the status of a fault planted for it, or 0.
int count_and_draw(Runtime& r, const char* api, int random_status) {
  ++r.calls[api];
  int hit = 0;
  if (auto found = r.faults.find(api); found != r.faults.end()) {
    std::map<int, int> later;
    for (auto [nth, status] : found->second)
      if (nth == 1)
        hit = status;
      else
        later[nth - 1] = status;
    found->second = later;
  }
  if (!hit && r.fail_rate > 0) {
    r.fail_random = r.fail_random * 6364136223846793005ull + 1442695040888963407ull;
    if (double(r.fail_random >> 11) * 0x1p-53 < r.fail_rate) hit = random_status;
  }
  return hit;
}

}  // namespace

Runtime::Runtime() : process(getpid()) { restore_defaults(); }

void Runtime::restore_defaults() {
  memory = kDefaultMemory;
  device = {};
  broken = fault_error = fail_error = cudaSuccess;
  was_reset_broken = unloaded = false;
  broken_detail.clear();
  fault_countdown = 0;
  faults.clear();
  fail_rate = 0;
  calls.clear();
  misuse.clear();
}

void Runtime::note(const std::string& what) { misuse += (misuse.empty() ? "" : "; ") + what; }

Runtime& runtime() {
  static auto* r = new Runtime;  // never destroyed: other objects' static destructors may still call CUDA
  return *r;
}

cudaError_t& last_error() {
  static thread_local cudaError_t e = cudaSuccess;
  return e;
}
cudaError_t failed(cudaError_t e) {
  last_error() = e;
  return e;
}

Call::Call(const char* api, Device device) {
  Runtime& r = runtime();
  if (getpid() != r.process) {  // before the lock: a thread that does not exist here may hold it
    refused_ = failed(cudaErrorInitializationError);
    nothing_exists_ = true;
    return;
  }
  lock_ = std::unique_lock(r.mutex);
  const int planted = count_and_draw(r, api, r.fail_error);
  if (r.unloaded)
    refused_ = cudaErrorCudartUnloading;
  else if (r.device.driver_version / 1000 < r.device.runtime_version / 1000)
    refused_ = cudaErrorInsufficientDriver;
  else if (r.device.count == 0)
    refused_ = cudaErrorNoDevice;
  nothing_exists_ = refused_ != cudaSuccess;
  if (!refused_ && r.was_reset_broken) refused_ = cudaErrorDevicesUnavailable;
  if (!refused_ && device == Device::asked) refused_ = r.broken;
  if (!refused_) refused_ = cudaError_t(planted);
  if (refused_) failed(refused_);
}

int enter_library_call(const char* api, int random_status) {
  Runtime& r = runtime();
  if (getpid() != r.process) return CUBLAS_STATUS_NOT_INITIALIZED;
  std::lock_guard lock(r.mutex);
  const int planted = count_and_draw(r, api, random_status);
  return r.broken ? CUBLAS_STATUS_EXECUTION_FAILED : planted;
}

}  // namespace detail

using detail::runtime;
using Lock = std::lock_guard<std::recursive_mutex>;

void fail(const std::string& api, int nth, cudaError_t error) { detail::add_fault(api, nth, error); }
void fail(const std::string& api, int nth, cublasStatus_t status) { detail::add_fault(api, nth, status); }

void fail_at_random(double rate, uint64_t seed, cudaError_t error) {
  Lock lock(runtime().mutex);
  runtime().fail_rate = rate;
  runtime().fail_random = seed;
  runtime().fail_error = error;
}
void device_fault(cudaError_t error) {
  Lock lock(runtime().mutex);
  if (!runtime().broken) runtime().broken = error;
}
void device_fault_at(uint64_t nth_operation, cudaError_t error) {
  Lock lock(runtime().mutex);
  runtime().fault_countdown = nth_operation;
  runtime().fault_error = error;
}
void unload_driver() {
  Lock lock(runtime().mutex);
  runtime().unloaded = true;
}

void set_device(const Device& device) {
  Lock lock(runtime().mutex);
  runtime().device = device;
}
void set_memory(size_t bytes) {
  Lock lock(runtime().mutex);
  runtime().memory = bytes;
}

std::map<std::string, uint64_t> calls() {
  Lock lock(runtime().mutex);
  return runtime().calls;
}
uint64_t calls(const std::string& api) {
  Lock lock(runtime().mutex);
  auto found = runtime().calls.find(api);
  return found == runtime().calls.end() ? 0 : found->second;
}
size_t live_bytes() {
  Lock lock(runtime().mutex);
  return runtime().used;
}
size_t live_objects() {
  Lock lock(runtime().mutex);
  auto& r = runtime();
  return r.blocks.size() + r.streams.size() + r.events.size() + r.graphs.size() + r.execs.size() +
         r.library_objects.size();
}
std::string live_report() {
  Lock lock(runtime().mutex);
  auto& r = runtime();
  auto counted = [](size_t n, const char* what) { return std::to_string(n) + " " + what; };
  return counted(r.used, "bytes of device memory, ") + counted(r.blocks.size(), "allocations, ") +
         counted(r.streams.size(), "streams, ") + counted(r.events.size(), "events, ") +
         counted(r.graphs.size(), "graphs, ") + counted(r.execs.size(), "graph execs, ") +
         counted(r.library_objects.size(), "cuBLASLt objects");
}
std::string misuse() {
  Lock lock(runtime().mutex);
  return runtime().misuse;
}
void reset() {
  Lock lock(runtime().mutex);
  runtime().restore_defaults();
  detail::last_error() = cudaSuccess;
  detail::thread_mode() = cudaStreamCaptureModeGlobal;  // a broken device does not let it be put back
}

Allocation allocation_of(const void* address) {
  Lock lock(runtime().mutex);
  auto found = detail::find_block(address);
  if (found == runtime().blocks.end()) return {};
  return {found->first, found->second.bytes, found->second.on_device};
}

}  // namespace fake
