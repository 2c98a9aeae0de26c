// What a safetensors file may hold and what is read from it. What it must not hold is in bad_files_test.cc.
#include "runner/safetensors.h"

#include <gtest/gtest.h>

#include "buffers/error.h"
#include "tests/model_files.h"

namespace rondo {
namespace {

using namespace testing_files;

std::vector<TensorInfo> parse(const std::string& header, uint64_t data_bytes) {
  return parse_safetensors_header(header, header.size(), 8 + header.size() + data_bytes, "x.safetensors");
}

TEST(Safetensors, TensorsComeInTheOrderOfTheirBytesWithOffsetsInTheFile) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  )";
  const std::vector<TensorInfo> tensors = parse(header, 16);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_TRUE(tensors[0].shape.empty());
  EXPECT_EQ(tensors[0].bytes, 4u);
  EXPECT_EQ(tensors[0].offset, 8 + header.size());
  EXPECT_EQ(tensors[1].name, "b");
  EXPECT_EQ(tensors[1].dtype, "BF16");
  EXPECT_EQ(tensors[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors[1].offset, 12 + header.size());
  EXPECT_EQ(tensors[1].bytes, 12u);
}

TEST(Safetensors, EveryDtypeOfTheFormatHasItsSizeAndThreeAreWeights) {
  const std::pair<const char*, uint64_t> all[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
  for (const auto& [dtype, bytes] : all) {
    const std::string header = R"({"w":{"dtype":")" + std::string(dtype) +
                               R"(","shape":[3],"data_offsets":[0,)" + std::to_string(3 * bytes) + "]}}";
    EXPECT_EQ(parse(header, 3 * bytes).at(0).bytes, 3 * bytes) << dtype;
  }
  EXPECT_EQ(weight_dtype("F32"), DType::f32);
  EXPECT_EQ(weight_dtype("F16"), DType::f16);
  EXPECT_EQ(weight_dtype("BF16"), DType::bf16);
  EXPECT_EQ(weight_dtype("F64"), std::nullopt);
  EXPECT_EQ(weight_dtype("f32"), std::nullopt);
}

TEST(Safetensors, FileWithoutTensorsIsWhole) {
  EXPECT_TRUE(parse("{}", 0).empty());
  EXPECT_TRUE(parse(R"({"__metadata__":{}})", 0).empty());
}

TEST(Safetensors, FindsByNameAndReadsRanges) {
  const TempDir dir;
  const std::vector<TensorToWrite> tensors = {
      {"z", "U8", {3}, "abc"}, {"a", "F32", {2}, "01234567"}, {"m.\xC3\xA9", "F16", {1, 2}, "wxyz"}};
  write_file(dir / "x.safetensors", safetensors_bytes(tensors));
  const SafetensorsFile file = SafetensorsFile::open(dir / "x.safetensors");
  EXPECT_EQ(file.tensors().size(), 3u);
  for (const TensorToWrite& tensor : tensors) {
    const TensorInfo* info = file.find(tensor.name);
    ASSERT_NE(info, nullptr) << tensor.name;
    std::string bytes(info->bytes, '\0');
    file.read(*info, 0, bytes.data(), bytes.size());
    EXPECT_EQ(bytes, tensor.data);
  }
  EXPECT_EQ(file.find("b"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
  EXPECT_EQ(file.find("zz"), nullptr);
  char two[2];
  file.read(*file.find("a"), 6, two, 2);
  EXPECT_EQ(std::string(two, 2), "67");
  file.read(*file.find("a"), 8, two, 0);
  EXPECT_THROW(file.read(*file.find("a"), 7, two, 2), Error);
  EXPECT_THROW(file.read(*file.find("a"), 9, two, 0), Error);
  EXPECT_THROW(file.read(*file.find("a"), UINT64_MAX, two, 2), Error) << "offset + bytes wraps";
}

TEST(Safetensors, MovedFileStillReads) {
  const TempDir dir;
  write_file(dir / "x.safetensors", safetensors_bytes({{"w", "U8", {3}, "abc"}}));
  SafetensorsFile file = SafetensorsFile::open(dir / "x.safetensors");
  SafetensorsFile moved = std::move(file);
  char bytes[3];
  moved.read(*moved.find("w"), 0, bytes, 3);
  EXPECT_EQ(std::string(bytes, 3), "abc");
}

TEST(Safetensors, HeaderLengthIsHeldAgainstTheFile) {
  const unsigned char three[8] = {3};
  EXPECT_EQ(safetensors_header_bytes(three, 11, "x"), 3u);
  EXPECT_THROW(safetensors_header_bytes(three, 10, "x"), Error);
  EXPECT_THROW(safetensors_header_bytes(three, 0, "x"), Error);
  const unsigned char second_byte[8] = {0, 1};
  EXPECT_EQ(safetensors_header_bytes(second_byte, 1000, "x"), 256u) << "little-endian";
}

TEST(Safetensors, HeaderLengthThatWrapsIsRefusedByTheParserToo) {
  EXPECT_THROW(parse_safetensors_header("{}", UINT64_MAX - 7, 10, "x"), Error);
  EXPECT_THROW(parse_safetensors_header("{}", 3, 10, "x"), Error);
}

}  // namespace
}  // namespace rondo
