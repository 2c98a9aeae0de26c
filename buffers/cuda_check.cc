#include "buffers/cuda_check.h"

#include <string>

#include "buffers/error.h"

namespace rondo::cuda {
namespace {

ErrorKind kind_of(cudaError_t status) {
  if (is_sticky(status)) return ErrorKind::DeviceLost;
  switch (status) {
    case cudaErrorMemoryAllocation: return ErrorKind::OutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch: return ErrorKind::DeviceLost;
    case cudaErrorInitializationError:
    case cudaErrorIllegalState:
    case cudaErrorCapturedEvent:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureMerge:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread: return ErrorKind::Misuse;
    default: return ErrorKind::InvalidArgument;
  }
}

const char* hint_for(cudaError_t status) {
  switch (status) {
    case cudaErrorInitializationError:
      return "; a process that was forked off one using CUDA cannot use the device: load the engine after "
             "fork()";
    case cudaErrorStreamCaptureUnsupported:
      return "; this call is not allowed while a step is being captured";
    case cudaErrorStreamCaptureInvalidated:
      return "; a call that a stream capture forbids (allocation, release, synchronisation) was made while a "
             "step was being "
             "captured, by this thread or, cudaDeviceSynchronize, by another";
    default: return "";
  }
}

}  // namespace

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:  // what allocations answer once a fault has taken the context
    case cudaErrorCudartUnloading: return true;
    default: return false;
  }
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the caller is told by the exception
  throw Error(kind_of(status), std::string(what) + ": " + cudaGetErrorName(status) + " (" +
                                   cudaGetErrorString(status) + ")" + hint_for(status));
}

void release(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
}

int exchange_capture_mode(cudaStreamCaptureMode mode) {
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  return mode;
}

void restore_capture_mode(int found) {
  auto mode = static_cast<cudaStreamCaptureMode>(found);
  release(cudaThreadExchangeStreamCaptureMode(&mode));
}

}  // namespace rondo::cuda
