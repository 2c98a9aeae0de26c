#include "buffers/cuda_device.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <optional>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#else  // a toolkit's headers without NVTX: ranges are for profilers alone
#define nvtxRangePushA(name) static_cast<void>(name)
#define nvtxRangePop() static_cast<void>(0)
#endif

#include "buffers/cuda_check.h"
#include "buffers/error.h"
#include "buffers/nvml.h"

namespace rondo {
namespace {

using cuda::check;
using cuda::release;

constexpr int kMinMajor = 8;  // bf16 arithmetic

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string unusable_gpu(const CudaReport::Gpu& gpu) {
  if (gpu.major >= kMinMajor) return "";
  return gpu.name + " has compute capability " + std::to_string(gpu.major) + "." + std::to_string(gpu.minor) +
         ", need " + std::to_string(kMinMajor) + ".0";
}

std::string why_no_gpu(cudaError_t status, const CudaReport& report) {
  const int need = report.runtime_version / 1000 * 1000;
  switch (status) {
    case cudaErrorInsufficientDriver:
      if (report.driver_version == 0) return "no NVIDIA driver was found";
      return "the NVIDIA driver is too old (found " + version_text(report.driver_version) + ", need " +
             version_text(need) + ")";
    case cudaErrorNoDevice: return "no CUDA device was found";
    case cudaErrorInitializationError:
      return report.driver_version == 0
                 ? "no NVIDIA driver was found"
                 : "CUDA could not be initialised (a process forked off one that uses CUDA cannot use it)";
    default: return std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) + ")";
  }
}

class CudaBlock : public Block {
 public:
  using Block::Block;
  ~CudaBlock() override {
    if (data()) release(cudaFree(data()));
  }
};

class PinnedBlock : public Block {
 public:
  using Block::Block;
  ~PinnedBlock() override {
    if (data()) release(cudaFreeHost(data()));
  }
};

void refuse_forked_child(pid_t owner) {
  if (getpid() != owner)
    throw Error(ErrorKind::Misuse,
                "this device was opened by process " + std::to_string(owner) + ", and this is process " +
                    std::to_string(getpid()) +
                    ": a forked child cannot use its parent's GPU; load the engine after fork()");
}

class CudaEvent : public Event {
 public:
  CudaEvent(cudaStream_t stream, pid_t owner, unsigned flags) : stream_(stream), owner_(owner) {
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  ~CudaEvent() override { release(cudaEventDestroy(event_)); }

  void record() override {
    refuse_forked_child(owner_);
    check(cudaEventRecord(event_, stream_), "cudaEventRecord");
  }
  void wait() override {
    refuse_forked_child(owner_);
    check(cudaEventSynchronize(event_), "cudaEventSynchronize, waiting for the device's work");
  }
  bool reached() override {
    refuse_forked_child(owner_);
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // an answer, which nobody's next call should find
      return false;
    }
    check(status, "cudaEventQuery");
    return true;
  }
  double elapsed_ms(const Event& start) const override {
    refuse_forked_child(owner_);
    float ms = 0;
    check(cudaEventElapsedTime(&ms, static_cast<const CudaEvent&>(start).event_, event_),
          "cudaEventElapsedTime");
    return ms;
  }

 private:
  cudaStream_t stream_;
  pid_t owner_;
  cudaEvent_t event_ = nullptr;
};

class CudaDeviceImpl : public CudaDevice {
 public:
  CudaDeviceImpl(int ordinal, const std::string& name)
      : ordinal_(ordinal), description_(name + " (cuda:" + std::to_string(ordinal) + ")"), owner_(getpid()) {
    const DeviceUse use(*this);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  // The thread may be capturing then, as in enter(); but nothing may be thrown.
  ~CudaDeviceImpl() override {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    const bool relaxed = getpid() == owner_ && cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess;
    release(cudaStreamDestroy(stream_));
    if (relaxed) cuda::restore_capture_mode(mode);
  }

  cudaStream_t stream() const override { return stream_; }
  std::string description() const override { return description_; }

  std::string platform() override {
    refuse_forked_child(owner_);
    const CudaReport report = probe_cuda();
    const std::string driver = nvml().driver_version();
    return (driver.empty() ? "driver of CUDA " + version_text(report.driver_version) : "driver " + driver) +
           ", CUDA " + version_text(report.runtime_version);
  }
  DeviceState state() override {
    refuse_forked_child(owner_);
    return nvml().state();
  }

  uint64_t free_bytes() const override {
    refuse_forked_child(owner_);
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }

  // The thread may be capturing a stream of the caller's, or another thread may in Global mode: what CUDA
  // then takes for unsafe (allocations, waits) would fail here and spoil that capture, though it has nothing
  // to do with this device's stream. A thread in Relaxed mode is not held to it.
  int enter() override {
    refuse_forked_child(owner_);
    check(cudaSetDevice(ordinal_), "cudaSetDevice");
    return cuda::exchange_capture_mode(cudaStreamCaptureModeRelaxed);
  }
  void leave(int found) override {
    if (getpid() == owner_) cuda::restore_capture_mode(found);
  }

  std::unique_ptr<Block> allocate(uint64_t bytes, const std::string& what) override {
    refuse_forked_child(owner_);
    void* data = nullptr;
    if (bytes) require(cudaMalloc(&data, bytes), bytes, what + ": cudaMalloc", "device");
    return own<CudaBlock>(data, bytes, cudaFree);
  }

  std::unique_ptr<Block> allocate_pinned(uint64_t bytes, const std::string& what) override {
    refuse_forked_child(owner_);
    void* data = nullptr;
    if (bytes) require(cudaMallocHost(&data, bytes), bytes, what + ": cudaMallocHost", "pinned host");
    return own<PinnedBlock>(data, bytes, cudaFreeHost);
  }

  std::unique_ptr<Event> make_event() override {
    refuse_forked_child(owner_);
    return std::make_unique<CudaEvent>(stream_, owner_, cudaEventDisableTiming);
  }
  std::unique_ptr<Event> make_timed_event() override {
    refuse_forked_child(owner_);
    return std::make_unique<CudaEvent>(stream_, owner_, cudaEventDefault);
  }

  void write(void* to, const void* from_pinned, uint64_t bytes) override {
    enqueue(to, from_pinned, bytes, cudaMemcpyHostToDevice, "cudaMemcpyAsync to the device");
  }
  void read(void* to_pinned, const void* from, uint64_t bytes) override {
    enqueue(to_pinned, from, bytes, cudaMemcpyDeviceToHost, "cudaMemcpyAsync from the device");
  }
  void copy(void* to, const void* from, uint64_t bytes) override {
    enqueue(to, from, bytes, cudaMemcpyDeviceToDevice, "cudaMemcpyAsync within the device");
  }
  void fill(void* to, int byte, uint64_t bytes) override {
    refuse_forked_child(owner_);
    if (bytes) check(cudaMemsetAsync(to, byte, bytes, stream_), "cudaMemsetAsync");
  }
  void synchronize() override {
    refuse_forked_child(owner_);
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize, waiting for the device's work");
  }
  void begin_range(const char* name) override { nvtxRangePushA(name); }
  void end_range() override { nvtxRangePop(); }

 private:
  // Opened when it is first asked: an engine has no use for it.
  Nvml& nvml() {
    if (!nvml_) {
      cudaDeviceProp properties{};
      check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties");
      std::array<char, 32> bus_id{};
      std::snprintf(bus_id.data(), bus_id.size(), "%08x:%02x:%02x.0", properties.pciDomainID,
                    properties.pciBusID, properties.pciDeviceID);
      nvml_.emplace(bus_id.data());
    }
    return *nvml_;
  }

  template <class B>
  static std::unique_ptr<Block> own(void* data, uint64_t bytes, cudaError_t (*free)(void*)) {
    try {
      return std::make_unique<B>(data, bytes);
    } catch (...) {
      if (data) release(free(data));
      throw;
    }
  }

  void require(cudaError_t status, uint64_t bytes, const std::string& what, const char* memory) const {
    if (status != cudaErrorMemoryAllocation) return check(status, what.c_str());
    cudaGetLastError();
    size_t free = 0, total = 0;
    const cudaError_t asked = cudaMemGetInfo(&free, &total);
    release(asked);
    std::string found = asked == cudaSuccess ? std::to_string(free) + " of " + std::to_string(total) +
                                                   " bytes of device memory are free"
                                             : "how much is free cannot be told";
    throw Error(ErrorKind::OutOfMemory, what + ": " + std::to_string(bytes) + " bytes of " + memory +
                                            " memory were asked for, " + found + " on " + description_);
  }

  void enqueue(void* to, const void* from, uint64_t bytes, cudaMemcpyKind kind, const char* what) {
    refuse_forked_child(owner_);
    if (bytes) check(cudaMemcpyAsync(to, from, bytes, kind, stream_), what);
  }

  int ordinal_;
  std::string description_;
  pid_t owner_;
  cudaStream_t stream_ = nullptr;
  std::optional<Nvml> nvml_;
};

}  // namespace

CudaReport probe_cuda() {
  CudaReport report;
  release(cudaDriverGetVersion(&report.driver_version));
  release(cudaRuntimeGetVersion(&report.runtime_version));
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count == 0) status = cudaErrorNoDevice;
  for (int i = 0; status == cudaSuccess && i < count; ++i) {
    cudaDeviceProp properties{};
    status = cudaGetDeviceProperties(&properties, i);
    if (status == cudaSuccess)
      report.gpus.push_back({properties.name, properties.major, properties.minor,
                             properties.multiProcessorCount, properties.totalGlobalMem});
  }
  release(status);
  if (status != cudaSuccess)
    report.unusable = why_no_gpu(status, report);
  else
    report.unusable = unusable_gpu(report.gpus.front());
  return report;
}

std::unique_ptr<CudaDevice> make_cuda_device(int ordinal) {
  const CudaReport report = probe_cuda();
  if (report.gpus.empty())
    throw Error(ErrorKind::DeviceLost, "cuda:" + std::to_string(ordinal) + ": " + report.unusable);
  if (ordinal < 0 || static_cast<size_t>(ordinal) >= report.gpus.size())
    throw Error(ErrorKind::InvalidArgument,
                "cuda:" + std::to_string(ordinal) + ": expected a device of 0 to " +
                    std::to_string(report.gpus.size() - 1) + ", found no such device");
  const CudaReport::Gpu& gpu = report.gpus[static_cast<size_t>(ordinal)];
  const std::string unusable = unusable_gpu(gpu);
  if (!unusable.empty())
    throw Error(ErrorKind::DeviceLost, "cuda:" + std::to_string(ordinal) + ": " + unusable);
  return std::make_unique<CudaDeviceImpl>(ordinal, gpu.name);
}

}  // namespace rondo
