// The stand-in runtime: memory. Device memory is the host's, in allocations of the exact size asked for,
// filled with NaN.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/simt/cudart_internal.h"

using namespace fake::detail;

namespace fake::detail {

std::map<const char*, Block>::const_iterator find_block(const void* address) {
  const auto& blocks = runtime().blocks;
  auto next = blocks.upper_bound(static_cast<const char*>(address));
  if (next == blocks.begin()) return blocks.end();
  --next;
  const auto offset = static_cast<size_t>(static_cast<const char*>(address) - next->first);
  return offset < next->second.bytes || offset == 0 ? next : blocks.end();
}

}  // namespace fake::detail

namespace {

enum class Side { host, device, any };

// Whether [address, address + bytes) can be the given end of a copy.
bool fits(const void* address, size_t bytes, Side side) {
  if (!address) return false;
  auto block = find_block(address);
  if (block == runtime().blocks.end()) return side != Side::device;  // pageable host memory
  const auto offset = static_cast<size_t>(static_cast<const char*>(address) - block->first);
  if (bytes > block->second.bytes - offset) return false;
  return side == Side::any || (side == Side::device) == block->second.on_device;
}

cudaError_t check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  Side from_side = Side::any, to_side = Side::any;
  switch (kind) {
    case cudaMemcpyHostToHost: from_side = to_side = Side::host; break;
    case cudaMemcpyHostToDevice:
      from_side = Side::host;
      to_side = Side::device;
      break;
    case cudaMemcpyDeviceToHost:
      from_side = Side::device;
      to_side = Side::host;
      break;
    case cudaMemcpyDeviceToDevice: from_side = to_side = Side::device; break;
    case cudaMemcpyDefault: break;
    default: return failed(cudaErrorInvalidMemcpyDirection);
  }
  if (bytes == 0) return cudaSuccess;
  if (fits(from, bytes, from_side) && fits(to, bytes, to_side)) return cudaSuccess;
  runtime().note("copy of " + std::to_string(bytes) +
                 " bytes that does not lie in the memory its kind names");
  return failed(cudaErrorInvalidValue);
}

cudaError_t check_set(void* to, size_t bytes) {
  if (bytes == 0 || fits(to, bytes, Side::device)) return cudaSuccess;
  runtime().note("memset of " + std::to_string(bytes) + " bytes outside device memory");
  return failed(cudaErrorInvalidValue);
}

std::shared_ptr<Operation> memory_operation(cudaGraphNodeType type, std::function<void()> work) {
  auto operation = std::make_shared<Operation>();
  operation->type = type;
  operation->work = std::move(work);
  return operation;
}

// memmove() and memset() take no null, not even of no bytes.
void copy(void* to, const void* from, size_t bytes) {
  if (bytes) std::memmove(to, from, bytes);
}
void fill(void* to, int value, size_t bytes) {
  if (bytes) std::memset(to, value, bytes);
}

// A copy or memset on the legacy stream that the host waits for.
cudaError_t run_synchronously(const std::function<void()>& work) {
  if (cudaError_t e = forbidden_on_legacy()) return e;
  for (CUstream_st* s : runtime().streams)
    if (s->blocking())
      if (cudaError_t e = drain(s)) return e;
  if (cudaError_t e = drain(&runtime().legacy)) return e;
  work();
  return cudaSuccess;
}

cudaError_t allocate(void** p, size_t bytes, bool on_device) {
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (cudaError_t e = forbidden_by_capture()) return e;
  Runtime& r = runtime();
  if (on_device && bytes > r.memory - std::min(r.memory, r.used)) return failed(cudaErrorMemoryAllocation);
  void* address = nullptr;
  if (posix_memalign(&address, 256, bytes)) return failed(cudaErrorMemoryAllocation);
  std::memset(address, 0xFF, bytes);  // NaN: nothing may rely on fresh memory
  r.blocks[static_cast<char*>(address)] = {bytes, on_device};
  if (on_device) r.used += bytes;
  *p = address;
  return cudaSuccess;
}

cudaError_t release(const Call& call, void* p, bool on_device) {
  Runtime& r = runtime();
  if (call.nothing_exists()) return call.refused();
  if (!r.broken)
    if (cudaError_t e = forbidden_by_capture()) return e;  // of null too
  if (!p) return call.refused();
  auto found = r.blocks.find(static_cast<char*>(p));
  if (found == r.blocks.end() || found->second.on_device != on_device) {
    r.note("free of an address that was not allocated, or was freed before");
    return call.result(cudaErrorInvalidValue);
  }
  drain_all();  // as the real one does
  // CUDA lets it pass, and the next replay uses whatever lies there then.
  const std::string held = held_by_a_graph(p, found->second.bytes);
  if (!held.empty()) r.note("free of memory that a graph exec still uses: " + held);
  if (on_device) r.used -= found->second.bytes;
  r.blocks.erase(found);
  std::free(p);
  return call.result(r.broken);
}

}  // namespace

extern "C" {

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  Call call("cudaMemGetInfo");
  if (call.refused()) return call.refused();
  *total = runtime().memory;
  *free_bytes = *total - std::min(*total, runtime().used);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  Call call("cudaMalloc");
  if (call.refused()) return call.refused();
  return allocate(p, bytes, true);
}
cudaError_t cudaFree(void* p) {
  Call call("cudaFree");
  return release(call, p, true);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  Call call("cudaMallocHost");
  if (call.refused()) return call.refused();
  return allocate(p, bytes, false);
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  Call call("cudaHostAlloc");
  if (call.refused()) return call.refused();
  return allocate(p, bytes, false);
}
cudaError_t cudaFreeHost(void* p) {
  Call call("cudaFreeHost");
  return release(call, p, false);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  Call call("cudaMemcpyAsync");
  CUstream_st* s = call.nothing_exists() ? nullptr : find_stream(stream);
  if (call.refused()) {
    if (s) spoil(s);
    return call.refused();
  }
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = check_copy(to, from, bytes, kind)) return e;  // spoils no capture
  auto operation = memory_operation(cudaGraphNodeTypeMemcpy, [=] { copy(to, from, bytes); });
  operation->pointers = {{from, "source"}, {to, "destination"}};
  return submit(s, std::move(operation));
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Call call("cudaMemsetAsync");
  CUstream_st* s = call.nothing_exists() ? nullptr : find_stream(stream);
  if (call.refused()) {
    if (s) spoil(s);
    return call.refused();
  }
  if (!s) return failed(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = check_set(to, bytes)) return e;  // spoils no capture
  auto operation = memory_operation(cudaGraphNodeTypeMemset, [=] { fill(to, value, bytes); });
  operation->pointers = {{to, "destination"}};
  return submit(s, std::move(operation));
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  Call call("cudaMemcpy");
  if (call.refused()) return call.refused();
  if (cudaError_t e = check_copy(to, from, bytes, kind)) return e;
  return run_synchronously([=] { copy(to, from, bytes); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  Call call("cudaMemset");
  if (call.refused()) return call.refused();
  if (cudaError_t e = check_set(to, bytes)) return e;
  return run_synchronously([=] { fill(to, value, bytes); });
}

}  // extern "C"
