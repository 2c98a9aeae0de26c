// What NVIDIA's management library says of a GPU while it runs: clocks, and why they are held down.
#pragma once

#include <memory>
#include <string>

#include "buffers/device.h"

namespace rondo {

// The library comes with the driver and is opened at run time; where it is absent, or does not know the GPU,
// the answers are empty. Never throws but for host memory.
class Nvml {
 public:
  // `pci_bus_id` as CUDA gives it: "0000:1b:00.0".
  explicit Nvml(const std::string& pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;  // it holds the library open

  std::string driver_version() const;  // "580.159.04"
  DeviceState state() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  void* gpu_ = nullptr;
};

}  // namespace rondo
