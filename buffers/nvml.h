// What NVIDIA's management library says of the driver and of a GPU while it runs: clocks, and why they are
// held down. It asks for nothing of CUDA, so that every build has it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "buffers/device.h"

namespace rondo {

// The library comes with the driver and is opened at run time; where it is absent, or does not know the GPU,
// the answers are empty. Never throws but for host memory.

// The machine's driver and GPUs, without opening any.
struct NvmlReport {
  struct Gpu {
    std::string name;
    uint64_t memory_bytes = 0;
  };
  std::string driver;    // "580.159.04"; empty: it cannot be told, and `unusable` says why
  int cuda_version = 0;  // the newest that the driver runs: 13000 for CUDA 13.0; 0: it cannot be told
  std::vector<Gpu> gpus;
  std::string unusable;
};
NvmlReport probe_nvml();

// One GPU.
class Nvml {
 public:
  // `pci_bus_id` as CUDA gives it: "0000:1b:00.0".
  explicit Nvml(const std::string& pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;  // it holds the library open

  std::string driver_version() const;  // "580.159.04"
  DeviceState state() const;

 private:
  friend NvmlReport probe_nvml();
  struct Library;
  std::unique_ptr<Library> library_;
  void* gpu_ = nullptr;
};

}  // namespace rondo
