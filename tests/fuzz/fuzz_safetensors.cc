// A safetensors file from any bytes: tensors that cover it without hole or overlap, or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "buffers/error.h"
#include "runner/safetensors.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string name = "model.safetensors";
  if (size < 8) return 0;
  try {
    unsigned char prefix[8];
    std::memcpy(prefix, data, sizeof prefix);
    const uint64_t length = rondo::safetensors_header_bytes(prefix, size, name);
    check(length <= size - 8);
    const std::string_view header(reinterpret_cast<const char*>(data) + 8, length);
    uint64_t end = 8 + length;
    for (const rondo::TensorInfo& tensor : rondo::parse_safetensors_header(header, length, size, name)) {
      check(tensor.offset == end && tensor.bytes >= 1 && tensor.bytes <= size - end);
      check(!tensor.name.empty() && tensor.name.find('\0') == tensor.name.npos);
      for (const int64_t dimension : tensor.shape) check(dimension >= 1);
      end += tensor.bytes;
    }
    check(end == size);
  } catch (const rondo::Error& error) {
    check(error.kind() == rondo::ErrorKind::InvalidModel);
  }
  return 0;
}
