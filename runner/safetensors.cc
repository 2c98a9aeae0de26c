#include "runner/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "buffers/error.h"
#include "runner/json.h"

namespace rondo {
namespace {

constexpr uint64_t kPrefixBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxTensors = size_t{1} << 17;    // 4096 layers of 32; keeps the list smaller than its text
constexpr JsonLimits kHeaderLimits = {uint64_t{1} << 21, 1024};
constexpr size_t kMaxName = 1024;
constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxInteger = INT64_MAX;

struct FormatDtype {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> weight;
};
constexpr FormatDtype kDtypes[] = {
    {"BOOL", 1, {}}, {"U8", 1, {}},  {"I8", 1, {}},          {"F8_E5M2", 1, {}},       {"F8_E4M3", 1, {}},
    {"I16", 2, {}},  {"U16", 2, {}}, {"I32", 4, {}},         {"U32", 4, {}},           {"F64", 8, {}},
    {"I64", 8, {}},  {"U64", 8, {}}, {"F16", 2, DType::f16}, {"BF16", 2, DType::bf16}, {"F32", 4, DType::f32},
};

const FormatDtype* find_dtype(std::string_view name) {
  const FormatDtype* found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                          [&](const FormatDtype& dtype) { return dtype.name == name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

const Json& elements(JsonFields& fields, const char* key, size_t least, size_t most, const char* expected) {
  const Json* list = fields.find(key);
  if (list == nullptr || !list->is_array() || list->size() < least || list->size() > most) {
    fields.refuse_field(key, expected);
  }
  return *list;
}

std::string element_name(const JsonFields& fields, const char* key, size_t index) {
  return fmt::format("{}: {}[{}]", fields.where(), key, index);
}

TensorInfo read_tensor(const std::string& key, const Json& value, uint64_t data_start, uint64_t file_bytes,
                       const std::string& file) {
  if (key.empty() || key.size() > kMaxName) {
    refuse(file, fmt::format("tensor names of 1 to {} bytes", kMaxName),
           fmt::format("one of {}: \"{}\"", key.size(), printable(key)));
  }
  JsonFields fields(value, file + ": " + printable(key));
  TensorInfo tensor;
  tensor.name = key;
  tensor.dtype = fields.string("dtype");
  const FormatDtype* dtype = find_dtype(tensor.dtype);
  if (dtype == nullptr)
    fields.refuse_field("dtype", "a dtype of the safetensors format, such as BF16, F16 or F32");

  const Json& shape = elements(fields, "shape", 0, kMaxRank, "an array of at most 8 integers");
  uint64_t bytes = dtype->bytes;
  for (const Json& dimension : shape) {
    tensor.shape.push_back(
        json_integer(dimension, element_name(fields, "shape", tensor.shape.size()), 1, kMaxInteger));
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(tensor.shape.back()), &bytes)) {
      refuse(fields.where() + ": shape", "a size in bytes that fits in 64 bits", printable(shape.dump()));
    }
  }

  const Json& offsets = elements(fields, "data_offsets", 2, 2, "an array of 2 integers");
  const int64_t begin = json_integer(offsets[0], element_name(fields, "data_offsets", 0), 0, kMaxInteger);
  const int64_t end = json_integer(offsets[1], element_name(fields, "data_offsets", 1), begin, kMaxInteger);
  const uint64_t data_bytes = file_bytes - data_start;
  if (static_cast<uint64_t>(end) > data_bytes) {
    refuse(element_name(fields, "data_offsets", 1),
           fmt::format("at most {}, where the file ends", data_bytes), std::to_string(end));
  }
  tensor.offset = data_start + static_cast<uint64_t>(begin);
  tensor.bytes = static_cast<uint64_t>(end - begin);
  if (tensor.bytes != bytes) {
    refuse(fields.where() + ": data_offsets",
           fmt::format("{} bytes for {} {}", bytes, tensor.dtype, shape_text(tensor.shape)),
           fmt::format("{}", tensor.bytes));
  }
  fields.refuse_others("a tensor has dtype, shape and data_offsets");
  return tensor;
}

void check_metadata(const Json& metadata, const std::string& file) {
  const std::string where = file + ": __metadata__";
  if (!metadata.is_object()) refuse(where, "an object of strings", describe(metadata));
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) refuse(where + ": " + printable(key), "a string", describe(value));
  }
}

// Each tensor must begin where the one before ended: no hole, no overlap, nothing left over.
void check_cover(const std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t file_bytes,
                 const std::string& file) {
  uint64_t end = data_start;
  const TensorInfo* last = nullptr;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != end) {
      refuse(file + ": " + printable(tensor.name) + ": data_offsets",
             fmt::format("to begin at {}, where {} ends", end - data_start,
                         last == nullptr ? "the header" : printable(last->name)),
             fmt::format("{}", tensor.offset - data_start),
             tensor.offset < end ? "tensors overlap" : "a hole");
    }
    end += tensor.bytes;
    last = &tensor;
  }
  if (end != file_bytes) {
    refuse(file, fmt::format("{} bytes, as the header says", end), fmt::format("{}", file_bytes));
  }
}

}  // namespace

std::optional<DType> weight_dtype(std::string_view dtype) {
  const FormatDtype* found = find_dtype(dtype);
  return found == nullptr ? std::nullopt : found->weight;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

uint64_t safetensors_header_bytes(const unsigned char (&prefix)[8], uint64_t file_bytes,
                                  const std::string& name) {
  uint64_t length = 0;  // little-endian
  for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
  const uint64_t most = std::min(file_bytes - std::min(file_bytes, kPrefixBytes), kMaxHeaderBytes);
  if (length < 2 || length > most) {
    refuse(name + ": header length", fmt::format("2 to {} bytes for a file of {}", most, file_bytes),
           fmt::format("{}", length), "not a safetensors file, or cut short");
  }
  return length;
}

std::vector<TensorInfo> parse_safetensors_header(std::string_view header_json, uint64_t header_bytes,
                                                 uint64_t file_bytes, const std::string& name) {
  uint64_t data_start;
  if (__builtin_add_overflow(header_bytes, kPrefixBytes, &data_start) || data_start > file_bytes) {
    refuse(name + ": header length", fmt::format("less than the file's {} bytes", file_bytes),
           fmt::format("{}", header_bytes));
  }
  if (header_json.substr(0, 1) != "{") {
    refuse(name + ": header", "JSON that begins with {", "\"" + printable(header_json.substr(0, 16)) + "\"");
  }
  std::vector<TensorInfo> tensors;
  read_json_members(header_json, name, kHeaderLimits, [&](const std::string& key, Json value) {
    if (key == "__metadata__") return check_metadata(value, name);
    if (tensors.size() == kMaxTensors) refuse(name, fmt::format("at most {} tensors", kMaxTensors), "more");
    tensors.push_back(read_tensor(key, value, data_start, file_bytes, name));
  });
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.offset < b.offset; });
  check_cover(tensors, data_start, file_bytes, name);
  return tensors;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  File file = File::open(path);
  if (file.size() < kPrefixBytes) {
    refuse(path, "a safetensors file of at least 10 bytes", fmt::format("{} bytes", file.size()));
  }
  unsigned char prefix[kPrefixBytes];
  file.read(0, prefix, sizeof prefix);
  std::string header(safetensors_header_bytes(prefix, file.size(), path), '\0');
  file.read(kPrefixBytes, header.data(), header.size());
  std::vector<TensorInfo> tensors = parse_safetensors_header(header, header.size(), file.size(), path);
  return SafetensorsFile(std::move(file), std::move(tensors));
}

SafetensorsFile::SafetensorsFile(File file, std::vector<TensorInfo> tensors)
    : file_(std::move(file)), tensors_(std::move(tensors)), by_name_(tensors_.size()) {
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [&](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto at =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](size_t index, std::string_view key) { return tensors_[index].name < key; });
  return at == by_name_.end() || tensors_[*at].name != name ? nullptr : &tensors_[*at];
}

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t byte_offset, void* to, uint64_t bytes) const {
  if (byte_offset > tensor.bytes || bytes > tensor.bytes - byte_offset) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("{}: {}: expected a range within {} bytes, found {} bytes at {}", path(),
                            printable(tensor.name), tensor.bytes, bytes, byte_offset));
  }
  file_.read(tensor.offset + byte_offset, to, bytes);
}

}  // namespace rondo
