// The Recorder of the CUDA backend: stream capture into one graph.
#pragma once

#include <memory>

#include "buffers/cuda_device.h"
#include "graphs/replay.h"

namespace rondo {

// Captures on the device's stream in ThreadLocal mode, so that other threads may allocate meanwhile. `device`
// must outlive the recorder and its recordings.
std::unique_ptr<Recorder> make_cuda_recorder(CudaDevice& device);

}  // namespace rondo
