// The one exception type of the library. Every message names what was expected and what was found.
#pragma once

#include <stdexcept>
#include <string>

#pragma GCC visibility push(default)  // the shared library exports what the public headers declare

namespace rondo {

enum class ErrorKind {
  InvalidModel,     // a file is malformed or not understood
  InvalidArgument,  // the caller asked for something that cannot be
  OutOfMemory,      // host or device memory ended; the engine is as it was
  ContextFull,      // a sequence can hold no further token, or never could
  NumericalError,   // NaN or infinity where a token should come from
  Misuse,           // calls in an order or from a thread that is not allowed
  DeviceLost,       // the device failed for good; only destruction is left
};

// The name of a kind, as printed in messages: "InvalidModel".
const char* error_kind_name(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace rondo

#pragma GCC visibility pop
