// The one place that knows which backends this build has.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "buffers/device.h"
#include "graphs/replay.h"
#include "kernels/loop_end.h"
#include "kernels/ops.h"
#include "kernels/read.h"
#include "runner/engine.h"

namespace rondo {

// A device and what runs on it. The functions must not be called after `device` is gone.
struct Backend {
  std::string name;  // "cpu" or "cuda"
  std::unique_ptr<Device> device;
  std::function<std::unique_ptr<Ops>(const StepDims&, const StepBuffers&, const Model&)> make_ops;
  std::function<std::unique_ptr<Reader>()> make_reader;
  std::function<std::unique_ptr<Recorder>()> make_recorder;  // null where the backend has no graphs
  std::function<std::unique_ptr<LoopEnd>(const StepDims&, const StepBuffers&, const LoopBuffers&)>
      make_loop_end;  // null as well
};

// Whether Auto would take CUDA on this machine, and why in a few words.
struct AutoChoice {
  bool cuda = false;
  std::string reason;
};
AutoChoice choose_backend();

// Throws InvalidArgument where the build has no CUDA backend or the device does not exist, DeviceLost where
// none is usable.
Backend make_backend(const EngineOptions& options);

}  // namespace rondo
