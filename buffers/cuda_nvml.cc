#include "buffers/cuda_nvml.h"

#include <dlfcn.h>

#include <array>
#include <utility>

namespace rondo {
namespace {

// The library's C interface as NVIDIA documents it ("NVML API Reference"), as far as it is used. 0 is
// success; a device is a pointer that only the library looks into.
using Init = int (*)();
using Shutdown = int (*)();
using HandleByPci = int (*)(const char* bus_id, void** device);
using DriverVersion = int (*)(char* text, unsigned bytes);
using ClockInfo = int (*)(void* device, int clock, unsigned* mhz);
using ThrottleReasons = int (*)(void* device, unsigned long long* reasons);

constexpr int kClockOfMultiprocessors = 1;
constexpr int kClockOfMemory = 2;

// Idle (1), clocks set by an application (2) and a display's clocks (256) are no disturbance.
constexpr std::array<std::pair<unsigned long long, const char*>, 6> kReasons = {{
    {0x04, "power cap"},
    {0x08, "hardware slowdown"},
    {0x10, "sync boost"},
    {0x20, "thermal limit"},
    {0x40, "hardware thermal limit"},
    {0x80, "power brake"},
}};

int megahertz(ClockInfo ask, void* gpu, int clock) {
  unsigned mhz = 0;
  return ask && gpu && ask(gpu, clock, &mhz) == 0 ? static_cast<int>(mhz) : 0;
}

}  // namespace

struct Nvml::Library {
  void* handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  Init init = function<Init>("nvmlInit_v2");
  Shutdown shutdown = function<Shutdown>("nvmlShutdown");
  HandleByPci handle_by_pci = function<HandleByPci>("nvmlDeviceGetHandleByPciBusId_v2");
  DriverVersion driver_version = function<DriverVersion>("nvmlSystemGetDriverVersion");
  ClockInfo clock = function<ClockInfo>("nvmlDeviceGetClockInfo");
  ClockInfo max_clock = function<ClockInfo>("nvmlDeviceGetMaxClockInfo");
  ThrottleReasons reasons = function<ThrottleReasons>("nvmlDeviceGetCurrentClocksThrottleReasons");
  bool ready = init && shutdown && init() == 0;

  Library() = default;
  Library(const Library&) = delete;  // shuts down once
  ~Library() {
    if (ready) shutdown();
    if (handle) dlclose(handle);
  }

  template <class F>
  F function(const char* name) const {
    return handle ? reinterpret_cast<F>(dlsym(handle, name)) : nullptr;
  }
};

Nvml::Nvml(const std::string& pci_bus_id) : library_(std::make_unique<Library>()) {
  if (!library_->ready || !library_->handle_by_pci || library_->handle_by_pci(pci_bus_id.c_str(), &gpu_) != 0)
    gpu_ = nullptr;
}

Nvml::~Nvml() = default;

std::string Nvml::driver_version() const {
  std::array<char, 96> text{};
  if (!library_->ready || !library_->driver_version ||
      library_->driver_version(text.data(), static_cast<unsigned>(text.size())) != 0)
    return "";
  return text.data();
}

DeviceState Nvml::state() const {
  DeviceState state;
  state.clock_mhz = megahertz(library_->clock, gpu_, kClockOfMultiprocessors);
  state.max_clock_mhz = megahertz(library_->max_clock, gpu_, kClockOfMultiprocessors);
  state.memory_clock_mhz = megahertz(library_->clock, gpu_, kClockOfMemory);
  unsigned long long reasons = 0;
  if (!gpu_ || !library_->reasons || library_->reasons(gpu_, &reasons) != 0) return state;
  for (const auto& [bit, words] : kReasons)
    if (reasons & bit) state.slowed += (state.slowed.empty() ? "" : ", ") + std::string(words);
  return state;
}

}  // namespace rondo
