// The safetensors format: an 8-byte length, a JSON header, and the bytes of the tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "buffers/view.h"
#include "runner/file.h"

namespace rondo {

struct TensorInfo {
  std::string name;
  std::string dtype;  // as the format spells it: "BF16"
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // in the file, in bytes; any alignment
  uint64_t bytes = 0;
};

// The engine's type for a format dtype, or nothing where it has none ("F64", "F8_E4M3").
std::optional<DType> weight_dtype(std::string_view dtype);

// "[4096, 14336]"
std::string shape_text(const std::vector<int64_t>& shape);

// Length of the header in bytes, from the file's first 8. Throws InvalidModel when a file of `file_bytes`
// cannot hold it.
uint64_t safetensors_header_bytes(const unsigned char (&prefix)[8], uint64_t file_bytes,
                                  const std::string& name);

// Reads a header: every tensor, in the order of their bytes, which cover the rest of the file without hole or
// overlap. `header_bytes` is its length in the file, `name` the file's in messages. Throws InvalidModel
// naming file, tensor and field. Tensors with a dimension of 0 are refused: no weight has one.
std::vector<TensorInfo> parse_safetensors_header(std::string_view header_json, uint64_t header_bytes,
                                                 uint64_t file_bytes, const std::string& name);

// An open file whose whole header has passed.
class SafetensorsFile {
 public:
  // Throws InvalidModel.
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;                 // null where there is none

  // Reads `bytes` bytes of a tensor of this file, from `byte_offset` within it. Throws InvalidModel when the
  // file has shrunk or cannot be read, InvalidArgument when the range leaves the tensor.
  void read(const TensorInfo& tensor, uint64_t byte_offset, void* to, uint64_t bytes) const;

 private:
  SafetensorsFile(File file, std::vector<TensorInfo> tensors);

  File file_;
  std::vector<TensorInfo> tensors_;
  std::vector<size_t> by_name_;  // indices of tensors_
};

}  // namespace rondo
