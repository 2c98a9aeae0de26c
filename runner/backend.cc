#include "runner/backend.h"

#include <fmt/format.h>

#include "buffers/nvml.h"

#ifdef RONDO_WITH_CUDA
#include "buffers/cuda_device.h"
#include "graphs/cuda_capture.h"
#include "kernels/cuda/cuda_ops.h"
#endif

namespace rondo {
namespace {

Backend make_cpu_backend(int threads) {
  Backend backend;
  backend.name = "cpu";
  backend.device = make_host_device();
  backend.make_ops = [threads](const StepDims& dims, const StepBuffers& buffers, const Model& model) {
    return make_cpu_ops(dims, buffers, model, threads);
  };
  backend.make_reader = [threads] { return make_cpu_reader(threads); };
  return backend;
}

#ifdef RONDO_WITH_CUDA
Backend make_cuda_backend(int ordinal) {
  Backend backend;
  backend.name = "cuda";
  auto device = make_cuda_device(ordinal);
  CudaDevice* cuda = device.get();
  backend.device = std::move(device);
  backend.make_ops = [cuda](const StepDims& dims, const StepBuffers& buffers, const Model& model) {
    return make_cuda_ops(dims, buffers, model, cuda->stream());
  };
  backend.make_reader = [cuda] { return make_cuda_reader(cuda->stream()); };
  backend.make_loop_end = [cuda](const StepDims& dims, const StepBuffers& buffers, const LoopBuffers& loop) {
    return make_cuda_loop_end(dims, buffers, loop, cuda->stream());
  };
  backend.make_recorder = [cuda] { return make_cuda_recorder(*cuda); };
  return backend;
}
#ifdef RONDO_NVCC
constexpr const char* kToolkit = "nvcc " RONDO_NVCC;
#else
constexpr const char* kToolkit = "the toolkit's headers alone";
#endif
#endif

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// `cuda`: the newest that the driver runs, as whoever was asked said; 0: there is none.
std::string describe_driver(const NvmlReport& nvml, int cuda) {
  const std::string release = nvml.driver.empty() ? "release unknown, " + nvml.unusable : nvml.driver;
  if (cuda == 0 && nvml.driver.empty()) return fmt::format("NVIDIA driver: none found ({})\n", nvml.unusable);
  return fmt::format("NVIDIA driver: {}, {}\n", release,
                     cuda ? "for CUDA up to " + version_text(cuda) : "for a CUDA that it does not name");
}

std::string gibibytes(uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

#ifdef RONDO_WITH_CUDA
AutoChoice choose_backend() {
  const CudaReport report = probe_cuda();
  if (report.unusable.empty()) return {true, "a usable GPU was found: " + report.gpus.front().name};
  return {false, report.unusable};
}

std::string describe_cuda() {
  const CudaReport report = probe_cuda();
  const NvmlReport nvml = probe_nvml();
  // CUDA may not start where the driver is known all the same.
  const int newest = report.driver_version ? report.driver_version : nvml.cuda_version;
  std::string text = fmt::format("CUDA toolkit: built with {}, runtime {}\n", kToolkit,
                                 version_text(report.runtime_version)) +
                     describe_driver(nvml, newest);
  for (size_t i = 0; i < report.gpus.size(); ++i) {
    const auto& gpu = report.gpus[i];
    text += fmt::format("GPU {}: {}, compute capability {}.{}, {} multiprocessors, {}\n", i, gpu.name,
                        gpu.major, gpu.minor, gpu.multiprocessors, gibibytes(gpu.memory_bytes));
  }
  return report.gpus.empty() ? text + "GPU: none\n" : text;
}
#else
AutoChoice choose_backend() { return {false, "this build has the CPU backend alone"}; }

std::string describe_cuda() {
  const NvmlReport nvml = probe_nvml();
  std::string text =
      "CUDA toolkit: none, this build has the CPU backend alone (no nvcc was found when it was configured, "
      "or "
      "RONDO_CUDA was OFF)\n" +
      describe_driver(nvml, nvml.cuda_version);
  for (size_t i = 0; i < nvml.gpus.size(); ++i)
    text += fmt::format("GPU {}: {}, {}; a build that has the CUDA backend may use it\n", i,
                        nvml.gpus[i].name, gibibytes(nvml.gpus[i].memory_bytes));
  return nvml.gpus.empty() ? text + "GPU: none found\n" : text;
}
#endif

Backend make_backend(const EngineOptions& options) {
  const bool cuda =
      options.device == DeviceKind::Cuda || (options.device == DeviceKind::Auto && choose_backend().cuda);
#ifdef RONDO_WITH_CUDA
  if (cuda) return make_cuda_backend(options.device_index);
#else
  if (cuda)
    throw Error(ErrorKind::InvalidArgument,
                "device cuda: this build has the CPU backend alone; configure it where nvcc is found");
#endif
  return make_cpu_backend(options.threads);
}

std::string doctor_report() {
  const AutoChoice choice = choose_backend();
  __builtin_cpu_init();
  std::string features;
  const std::pair<const char*, bool> known[] = {{"avx2", __builtin_cpu_supports("avx2") != 0},
                                                {"fma", __builtin_cpu_supports("fma") != 0},
                                                {"avx512f", __builtin_cpu_supports("avx512f") != 0},
                                                {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                                                {"avx512bf16", __builtin_cpu_supports("avx512bf16") != 0}};
  for (const auto& [name, has] : known)
    if (has) features += std::string(" ") + name;
  return fmt::format("rondo {}\n{}CPU features:{}\nauto takes: {} ({})\n", version(), describe_cuda(),
                     features.empty() ? " none of avx2, avx512" : features, choice.cuda ? "cuda" : "cpu",
                     choice.reason);
}

const char* version() { return RONDO_VERSION; }

}  // namespace rondo
