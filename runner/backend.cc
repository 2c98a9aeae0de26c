#include "runner/backend.h"

#include <fmt/format.h>

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

std::string version_text(int version) {
  return version ? fmt::format("{}.{}", version / 1000, version % 1000 / 10) : std::string("none");
}
#endif

}  // namespace

#ifdef RONDO_WITH_CUDA
AutoChoice choose_backend() {
  const CudaReport report = probe_cuda();
  if (report.unusable.empty()) return {true, "a usable GPU was found: " + report.gpus.front().name};
  return {false, report.unusable};
}

std::string describe_cuda() {
  const CudaReport report = probe_cuda();
  std::string text = fmt::format("CUDA driver: {}\nCUDA runtime: {}\n", version_text(report.driver_version),
                                 version_text(report.runtime_version));
  for (size_t i = 0; i < report.gpus.size(); ++i) {
    const auto& gpu = report.gpus[i];
    text += fmt::format("GPU {}: {}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB\n", i, gpu.name,
                        gpu.major, gpu.minor, gpu.multiprocessors,
                        static_cast<double>(gpu.memory_bytes) / (1 << 30));
  }
  return report.gpus.empty() ? text + "GPU: none\n" : text;
}
#else
AutoChoice choose_backend() { return {false, "this build has the CPU backend alone"}; }

std::string describe_cuda() {
  return "CUDA: this build has the CPU backend alone (no nvcc was found when it was configured, or "
         "RONDO_CUDA was OFF)\n";
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
                                                {"avx512bw", __builtin_cpu_supports("avx512bw") != 0}};
  for (const auto& [name, has] : known)
    if (has) features += std::string(" ") + name;
  return fmt::format("rondo {}\n{}CPU features:{}\nauto takes: {} ({})\n", version(), describe_cuda(),
                     features.empty() ? " none of avx2, avx512" : features, choice.cuda ? "cuda" : "cpu",
                     choice.reason);
}

const char* version() { return RONDO_VERSION; }

}  // namespace rondo
