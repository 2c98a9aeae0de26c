// From CUDA's status codes to Error.
#pragma once

#include <cuda_runtime_api.h>

namespace rondo::cuda {

// Errors after which the context is unusable for good: every later call returns them too.
bool is_sticky(cudaError_t status);

// Returns on cudaSuccess. Otherwise clears the runtime's last error, so that this failure is not found again
// by somebody else's call, and throws Error: OutOfMemory, DeviceLost (sticky), Misuse (capture rules, forked
// child) or, for anything else, DeviceLost's sibling for a call that may be retried: InvalidArgument. `what`
// names the call and its purpose.
void check(cudaError_t status, const char* what);

// For what is called by a destructor, or while an error is on its way already: nobody can be told of a
// failure, which is of a device that is lost, of a driver that is shutting down, or of a forked child. Nor
// must it be found by somebody else's call.
void release(cudaError_t status);

// How the calling thread minds captures that are under way (cudaThreadExchangeStreamCaptureMode): sets it,
// and returns what it was, for restore_capture_mode(), which throws nothing.
int exchange_capture_mode(cudaStreamCaptureMode mode);
void restore_capture_mode(int found);

}  // namespace rondo::cuda
