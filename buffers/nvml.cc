#include "buffers/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <utility>

namespace rondo {
namespace {

// The library's C interface as NVIDIA documents it ("NVML API Reference"), as far as it is used. 0 is
// success; a device is a pointer that only the library looks into.
using Init = int (*)();
using Shutdown = int (*)();
using DeviceCount = int (*)(unsigned* count);
using HandleByIndex = int (*)(unsigned index, void** device);
using HandleByPci = int (*)(const char* bus_id, void** device);
using DriverVersion = int (*)(char* text, unsigned bytes);
using CudaVersion = int (*)(int* version);
using DeviceName = int (*)(void* device, char* text, unsigned bytes);
using ClockInfo = int (*)(void* device, int clock, unsigned* mhz);
using ThrottleReasons = int (*)(void* device, unsigned long long* reasons);

constexpr const char* kLibrary = "libnvidia-ml.so.1";
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
  struct MemoryBytes {
    unsigned long long total = 0, free = 0, used = 0;
  };
  using MemoryInfo = int (*)(void* device, MemoryBytes* memory);

  void* handle = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  Init init = function<Init>("nvmlInit_v2");
  Shutdown shutdown = function<Shutdown>("nvmlShutdown");
  DeviceCount device_count = function<DeviceCount>("nvmlDeviceGetCount_v2");
  HandleByIndex handle_by_index = function<HandleByIndex>("nvmlDeviceGetHandleByIndex_v2");
  HandleByPci handle_by_pci = function<HandleByPci>("nvmlDeviceGetHandleByPciBusId_v2");
  DriverVersion driver_version = function<DriverVersion>("nvmlSystemGetDriverVersion");
  CudaVersion cuda_version = function<CudaVersion>("nvmlSystemGetCudaDriverVersion");
  DeviceName device_name = function<DeviceName>("nvmlDeviceGetName");
  MemoryInfo memory_info = function<MemoryInfo>("nvmlDeviceGetMemoryInfo");
  ClockInfo clock = function<ClockInfo>("nvmlDeviceGetClockInfo");
  ClockInfo max_clock = function<ClockInfo>("nvmlDeviceGetMaxClockInfo");
  ThrottleReasons reasons = function<ThrottleReasons>("nvmlDeviceGetCurrentClocksThrottleReasons");
  int failed = init && shutdown ? init() : -1;
  bool ready = failed == 0;

  Library() = default;
  Library(const Library&) = delete;  // shuts down once
  ~Library() {
    if (ready) shutdown();
    if (handle) dlclose(handle);
  }

  std::string driver() const {
    std::array<char, 96> text{};
    if (!ready || !driver_version || driver_version(text.data(), static_cast<unsigned>(text.size() - 1)) != 0)
      return "";
    return text.data();
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

std::string Nvml::driver_version() const { return library_->driver(); }

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

NvmlReport probe_nvml() {
  const Nvml::Library library;
  NvmlReport report;
  if (!library.handle) {
    report.unusable = fmt::format("{} is not there", kLibrary);
    return report;
  }
  if (!library.ready) {
    report.unusable =
        fmt::format("{} is there and does not start, its error is {}", kLibrary, library.failed);
    return report;
  }
  report.driver = library.driver();
  if (report.driver.empty()) report.unusable = fmt::format("{} does not say", kLibrary);
  if (!library.cuda_version || library.cuda_version(&report.cuda_version) != 0) report.cuda_version = 0;
  unsigned count = 0;
  if (!library.device_count || !library.handle_by_index || library.device_count(&count) != 0) return report;
  for (unsigned i = 0; i < count; ++i) {
    void* gpu = nullptr;
    if (library.handle_by_index(i, &gpu) != 0) continue;
    std::array<char, 96> name{};
    Nvml::Library::MemoryBytes memory;
    if (!library.device_name ||
        library.device_name(gpu, name.data(), static_cast<unsigned>(name.size() - 1)) != 0)
      name = {"a GPU"};
    if (!library.memory_info || library.memory_info(gpu, &memory) != 0) memory = {};
    report.gpus.push_back({name.data(), memory.total});
  }
  return report;
}

}  // namespace rondo
