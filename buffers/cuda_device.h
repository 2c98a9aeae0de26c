// The Device of the CUDA backend: one GPU, one dedicated non-blocking stream.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "buffers/device.h"

namespace rondo {

// What `doctor` prints and `auto` decides by. Never throws: a machine without a usable GPU has a reason in
// words.
struct CudaReport {
  struct Gpu {
    std::string name;
    int major = 0;
    int minor = 0;
    int multiprocessors = 0;
    uint64_t memory_bytes = 0;
  };
  std::vector<Gpu> gpus;
  int driver_version = 0;  // 13000 for CUDA 13.0; 0: no driver
  int runtime_version = 0;
  std::string unusable;  // why no GPU can be used; empty: GPU 0 can
};
CudaReport probe_cuda();

class CudaDevice : public Device {
 public:
  virtual cudaStream_t stream() const = 0;
};

// Throws InvalidArgument for an ordinal that does not exist, DeviceLost with probe_cuda()'s reason where none
// is usable.
std::unique_ptr<CudaDevice> make_cuda_device(int ordinal);

}  // namespace rondo
