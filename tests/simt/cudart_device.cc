// The stand-in runtime: the device and its kernels' attributes.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tests/simt/cudart_internal.h"
#include "tests/simt/simt.h"

using namespace fake::detail;

namespace {

// An H100's or H200's figures.
constexpr int kThreadsPerMultiprocessor = 2048;
constexpr int kBlocksPerMultiprocessor = 32;
constexpr size_t kSharedPerMultiprocessor = 228 * 1024;
constexpr size_t kSharedReservedPerBlock = 1024;
constexpr int kRegistersPerMultiprocessor = 64 * 1024;
constexpr int kL2Bytes = 50 * 1024 * 1024;

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  Call call("cudaGetDeviceCount", Call::Device::not_asked);
  *count = 0;
  if (call.refused()) return call.refused();
  *count = runtime().device.count;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  Call call("cudaGetDevice", Call::Device::not_asked);
  if (call.refused()) return call.refused();
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  Call call("cudaSetDevice");
  if (call.refused()) return call.refused();
  return device < 0 || device >= runtime().device.count ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {  // answers on a machine without a device too
  std::lock_guard lock(runtime().mutex);
  *version = runtime().device.driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  std::lock_guard lock(runtime().mutex);
  *version = runtime().device.runtime_version;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  Call call("cudaGetDeviceProperties");
  if (call.refused()) return call.refused();
  const fake::Device& d = runtime().device;
  if (device < 0 || device >= d.count) return failed(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "stand-in");
  properties->totalGlobalMem = runtime().memory;
  properties->sharedMemPerBlock = simt::kDefaultSharedBytes;
  properties->sharedMemPerBlockOptin = simt::kMaxSharedBytes;
  properties->sharedMemPerMultiprocessor = kSharedPerMultiprocessor;
  properties->reservedSharedMemPerBlock = kSharedReservedPerBlock;
  properties->regsPerBlock = properties->regsPerMultiprocessor = kRegistersPerMultiprocessor;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = kThreadsPerMultiprocessor;
  properties->maxBlocksPerMultiProcessor = kBlocksPerMultiprocessor;
  const int block[] = {1024, 1024, 64}, grid[] = {0x7fffffff, 65535, 65535};
  std::copy_n(block, 3, properties->maxThreadsDim);
  std::copy_n(grid, 3, properties->maxGridSize);
  properties->major = d.major;
  properties->minor = d.minor;
  properties->multiProcessorCount = d.multiprocessors;
  properties->l2CacheSize = kL2Bytes;
  properties->unifiedAddressing = 1;
  properties->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  Call call("cudaDeviceGetAttribute");
  if (call.refused()) return call.refused();
  const fake::Device& d = runtime().device;
  if (device < 0 || device >= d.count) return failed(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = d.multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = d.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = d.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(simt::kDefaultSharedBytes); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(simt::kMaxSharedBytes); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(kSharedPerMultiprocessor); break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = int(kSharedReservedPerBlock); break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = kThreadsPerMultiprocessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = kBlocksPerMultiprocessor; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = kRegistersPerMultiprocessor; break;
    case cudaDevAttrL2CacheSize: *value = kL2Bytes; break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels: *value = 1; break;
    default:
      runtime().note("cudaDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not modelled");
      return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  Call call("cudaDeviceGetStreamPriorityRange");
  if (call.refused()) return call.refused();
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Call call("cudaFuncSetAttribute");
  if (call.refused()) return call.refused();
  if (!function) return failed(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return value < -1 || value > 100 ? failed(cudaErrorInvalidValue) : cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      size_t(value) > simt::kMaxSharedBytes)
    return failed(cudaErrorInvalidValue);
  simt::set_dynamic_shared_limit(function, size_t(value));
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  Call call("cudaFuncGetAttributes");
  if (call.refused()) return call.refused();
  if (!function) return failed(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = runtime().device.major * 10 + runtime().device.minor;
  attributes->maxDynamicSharedSizeBytes = int(simt::dynamic_shared_limit(function));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int block_size,
                                                          size_t dynamic_shared) {
  Call call("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (call.refused()) return call.refused();
  if (!function) return failed(cudaErrorInvalidDeviceFunction);
  if (block_size <= 0) return failed(cudaErrorInvalidValue);
  const size_t per_block = dynamic_shared + kSharedReservedPerBlock;
  *blocks = block_size > 1024 || dynamic_shared > simt::dynamic_shared_limit(function)
                ? 0
                : std::min({kThreadsPerMultiprocessor / ((block_size + 31) / 32 * 32),
                            kBlocksPerMultiprocessor, int(kSharedPerMultiprocessor / per_block)});
  return cudaSuccess;
}

}  // extern "C"
