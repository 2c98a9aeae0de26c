// A model.safetensors.index.json from any bytes: plain file names only, or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "buffers/error.h"
#include "runner/checkpoint.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const rondo::CheckpointIndex index = rondo::parse_checkpoint_index(text, "model.safetensors.index.json");
    check(!index.weight_map.empty());
    for (const auto& [tensor, file] : index.weight_map) {
      check(!file.empty() && file.size() <= 255 && file.find('/') == file.npos &&
            file.find('\0') == file.npos);
      check(file.ends_with(".safetensors"));
    }
  } catch (const rondo::Error& error) {
    check(error.kind() == rondo::ErrorKind::InvalidModel);
  }
  return 0;
}
