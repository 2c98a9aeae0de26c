#include "buffers/error.h"

namespace rondo {

const char* error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::InvalidModel: return "InvalidModel";
    case ErrorKind::InvalidArgument: return "InvalidArgument";
    case ErrorKind::OutOfMemory: return "OutOfMemory";
    case ErrorKind::ContextFull: return "ContextFull";
    case ErrorKind::NumericalError: return "NumericalError";
    case ErrorKind::Misuse: return "Misuse";
    case ErrorKind::DeviceLost: return "DeviceLost";
  }
  return "unknown";
}

}  // namespace rondo
