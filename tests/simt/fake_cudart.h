// A stand-in for libcudart: host code written against NVIDIA's <cuda_runtime_api.h> runs, unchanged, on a
// machine without a GPU. Work is queued and runs only when something waits for it, the latest moment CUDA
// allows; a query lets one operation of the stream run, so that polling ends. What it refuses, and with which
// error, was read off a real GPU: cuda_conformance_test.cc holds the cases.
//
// This header is what tests steer it with. Everything here is thread-safe.
#pragma once

#include <cublas_api.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fake {

// ---- faults

// The nth call of `api` from now (1 = the next) fails with `error` and has no other effect, save that a call
// which releases something releases it all the same, and that a failed call on a capturing stream spoils the
// capture. `api` is a function's name as in the headers; kernel launches are "cudaLaunchKernelExC". Throws
// std::invalid_argument for a name that the stand-in does not have.
void fail(const std::string& api, int nth, cudaError_t error);
void fail(const std::string& api, int nth, cublasStatus_t status);

// Every call of every function fails with this probability; cuBLAS calls with CUBLAS_STATUS_EXECUTION_FAILED.
// Rate 0 ends it.
void fail_at_random(double rate, uint64_t seed, cudaError_t error);

// A kernel's illegal access, now or when the nth operation from now runs on the device (kernel, copy or
// memset; a graph's nodes count one by one). It sticks: all calls return it until reset().
void device_fault(cudaError_t error);
void device_fault_at(uint64_t nth_operation, cudaError_t error);

// The driver is being shut down (the process is in its static destructors): all calls return
// cudaErrorCudartUnloading.
void unload_driver();

// ---- the machine

struct Device {
  int count = 1;
  int driver_version =
      13000;  // below the runtime's major version: cudaErrorInsufficientDriver from every call
  int runtime_version = 13000;
  int major = 9, minor = 0;  // compute capability
  int multiprocessors = 3;   // few: kernels that overlap have a block for each
};
void set_device(const Device& device);
void set_memory(size_t bytes);  // the device's memory; 1 GiB until set

// ---- what happened

std::map<std::string, uint64_t> calls();  // per function, failed ones included
uint64_t calls(const std::string& api);

size_t live_bytes();        // device memory not freed
size_t live_objects();      // allocations, streams, events, graphs, cuBLASLt objects: must be 0 at the end
std::string live_report();  // the same in words
std::string misuse();       // undefined behaviour seen, kernel faults with their line; "" if none

// Forgets faults, counts, notes and a broken device; restores the default device, and how this thread minds
// captures. Live objects stay.
void reset();

// ---- captured graphs

struct CapturedPointer {
  const void* address;
  std::string where;  // "node 3 (kernel), argument 2"
};
// The addresses that replaying uses: pointer arguments of kernels and cuBLASLt products, both ends of copies.
// Of struct arguments, only the 8-byte words that point into a live allocation can be told from numbers. Null
// is left out.
std::vector<CapturedPointer> captured_pointers(cudaGraph_t graph);
std::vector<CapturedPointer> captured_pointers();  // of all graph execs alive

struct Allocation {
  const void* base = nullptr;  // null: not inside any live allocation
  size_t bytes = 0;
  bool on_device = false;  // else pinned host memory
};
Allocation allocation_of(const void* address);

// ---- for the dialect and the cuBLASLt stand-in

struct Argument {
  void* value;  // inside KernelLaunch::storage
  size_t bytes;
  bool is_pointer;
};
struct KernelLaunch {
  const void* function = nullptr;
  dim3 grid, block;
  size_t dynamic_shared = 0;
  bool in_order = false;          // its blocks, of which later ones wait for earlier ones
  std::shared_ptr<void> storage;  // owns the arguments' values
  std::vector<Argument> arguments;
  std::function<void()> body;  // one CUDA thread
};
cudaError_t launch_kernel(cudaStream_t stream, KernelLaunch launch);
void set_condition(cudaGraphConditionalHandle handle, unsigned value);  // in a kernel

}  // namespace fake
