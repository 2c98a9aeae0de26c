// Every bad file there is a number for (the A numbers name the faults): each is one clear error that names
// file, tensor and field, and nothing is allocated that is larger than the files are.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <new>

#include "buffers/error.h"
#include "runner/checkpoint.h"
#include "runner/file.h"
#include "tests/model_files.h"

namespace {

// This thread's largest allocation since it was last set to 0.
thread_local size_t largest_allocation = 0;

void* counted_malloc(size_t bytes) {
  largest_allocation = std::max(largest_allocation, bytes);
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return counted_malloc(bytes); }
void* operator new[](size_t bytes) { return counted_malloc(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace rondo {
namespace {

using namespace testing_files;

struct BadFile {
  std::string name;                            // A, the number of the fault, and which file of it
  std::function<void(const TempDir&)> break_;  // makes a bad model out of a directory with a good one
  std::vector<std::string> says;               // each must be in the message
};

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

class BadFiles : public testing::TestWithParam<BadFile> {};

TEST_P(BadFiles, AreOneClearError) {
  const BadFile& bad = GetParam();
  const TempDir dir;
  write_tiny_model(dir);
  bad.break_(dir);
  size_t most = size_t{64} << 10;  // paths, buffers of streams, messages
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    std::error_code no_file;  // a link that leads nowhere
    if (entry.is_regular_file(no_file)) most += entry.file_size();
  }
  largest_allocation = 0;
  std::string message;
  try {
    Checkpoint::open(dir.path(), load_model_config(dir.path()));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::InvalidModel);
    message = error.what();
  }
  EXPECT_LE(largest_allocation, most);
  ASSERT_NE(message, "") << "was accepted";
  EXPECT_LT(message.size(), 1000u) << message;
  for (const std::string& part : bad.says)
    EXPECT_NE(message.find(part), message.npos) << part << "\nin: " << message;
  for (const char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << message;
}

// A model.safetensors with these very bytes.
BadFile raw(const std::string& name, const std::string& bytes, std::vector<std::string> says) {
  says.insert(says.begin(), "/model.safetensors: ");
  return {name, [bytes](const TempDir& dir) { write_file(dir / "model.safetensors", bytes); },
          std::move(says)};
}

// One with this header and these data.
BadFile header(const std::string& name, const std::string& json, std::vector<std::string> says,
               size_t data_bytes = 8) {
  return raw(name, safetensors_bytes(json, std::string(data_bytes, '\0')), std::move(says));
}

// The same for a long header, which is made only when the test runs.
BadFile lazy(const std::string& name, const std::function<std::string()>& json,
             std::vector<std::string> says) {
  says.insert(says.begin(), "/model.safetensors: ");
  return {name,
          [json](const TempDir& dir) {
            write_file(dir / "model.safetensors", safetensors_bytes(json(), std::string(1000000, '\0')));
          },
          std::move(says)};
}

// One with a single tensor "w" whose entry ends in `fields`.
BadFile entry(const std::string& name, const std::string& fields, std::vector<std::string> says,
              size_t data_bytes = 8) {
  says.push_back(": w");
  return header(name, R"({"w":{)" + fields + "}}", std::move(says), data_bytes);
}

BadFile shape(const std::string& name, const std::string& json, const std::string& says) {
  return entry(name, R"("dtype":"F32","data_offsets":[0,8],"shape":)" + json, {"shape", says});
}

BadFile offsets(const std::string& name, const std::string& json, const std::string& says) {
  return entry(name, R"("dtype":"F32","shape":[2],"data_offsets":)" + json, {"data_offsets", says});
}

// One with two tensors of 2 floats at the given offsets.
BadFile layout(const std::string& name, const std::string& a, const std::string& b, size_t data_bytes,
               const std::string& says) {
  return header(name,
                R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + a +
                    R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + b + "}}",
                {says}, data_bytes);
}

// A config.json with a part of the good one replaced.
BadFile config(const std::string& name, const std::string& from, const std::string& to,
               std::vector<std::string> says) {
  says.insert(says.begin(), "/config.json: ");
  return {name, [=](const TempDir& dir) { write_file(dir / "config.json", replaced(kTinyConfig, from, to)); },
          std::move(says)};
}

// A size of config.json with this value.
BadFile size(const std::string& name, const std::string& key, const std::string& value,
             const std::string& says) {
  const std::string text = kTinyConfig;
  const size_t at = text.find("\"" + key + "\": ");
  const std::string old = text.substr(at, text.find(',', at) - at);
  return config(name, old, "\"" + key + "\": " + value, {key, says});
}

// A sharded model whose index has been edited.
BadFile index(const std::string& name, const std::string& from, const std::string& to,
              std::vector<std::string> says) {
  return {name,
          [=](const TempDir& dir) {
            std::filesystem::remove(dir / "model.safetensors");
            write_tiny_sharded_model(dir);
            const std::string path = dir / "model.safetensors.index.json";
            write_file(path, replaced(read_text_file(path, 1 << 20), from, to));
          },
          std::move(says)};
}

// A model.safetensors whose tensors have been edited.
BadFile weights(const std::string& name, const std::function<void(std::vector<TensorToWrite>&)>& edit,
                std::vector<std::string> says) {
  return {name,
          [edit](const TempDir& dir) {
            std::vector<TensorToWrite> tensors = weights_of(tiny_config(), DType::f32);
            edit(tensors);
            write_file(dir / "model.safetensors", safetensors_bytes(tensors));
          },
          std::move(says)};
}

// model.safetensors replaced by something that is no file.
BadFile node(const std::string& name, const std::function<void(const char* path)>& make,
             const std::string& says) {
  return {name,
          [make](const TempDir& dir) {
            const std::string path = dir / "model.safetensors";
            std::filesystem::remove(path);
            make(path.c_str());
          },
          {"/model.safetensors", says}};
}

std::string many_tensors(size_t count) {
  std::string json = "{";
  for (size_t i = 0; i < count; ++i) {
    json += "\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) +
            "," + std::to_string(i + 1) + "]},";
  }
  json.back() = '}';
  return json;
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

const std::string kShard1 = "model-00001-of-00002.safetensors";
const std::string kShard2 = "model-00002-of-00002.safetensors";
const std::string kEmbeddingOf1 = "\"model.embed_tokens.weight\": \"" + kShard1 + "\"";
const std::string kGood = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
const std::string kGoodEntry = R"({"w":{)" + kGood + "}}";
const std::string kNul(1, '\0');

INSTANTIATE_TEST_SUITE_P(
    SafetensorsHeader, BadFiles,
    testing::Values(
        raw("A01_empty", "", {"0 bytes"}), raw("A01_one_byte", "\x02", {"1 bytes"}),
        raw("A01_seven_bytes", "\x02\x01\x01\x01\x01\x01\x01", {"7 bytes"}),
        raw("A01_nine_bytes", safetensors_bytes(1, "{", ""), {"header length"}),
        raw("A02_length_of_2_64_less_1", safetensors_bytes(UINT64_MAX, "{}", ""),
            {"header length", "18446744073709551615"}),
        raw("A02_length_that_wraps", safetensors_bytes(UINT64_MAX - 7, "{}", ""),
            {"header length", "18446744073709551608"}),
        raw("A02_length_of_2_63", safetensors_bytes(uint64_t{1} << 63, "{}", ""),
            {"header length", "9223372036854775808"}),
        raw("A03_header_longer_than_the_file", safetensors_bytes(3, "{}", ""), {"header length", "found 3"}),
        BadFile{"A03_header_over_the_limit",
                [](const TempDir& dir) {
                  write_file(dir / "model.safetensors", safetensors_bytes(100'000'001, "{}", ""));
                  std::filesystem::resize_file(dir / "model.safetensors", 200'000'000);
                },
                {"/model.safetensors: header length", "100000001"}},
        raw("A03_length_0", safetensors_bytes(0, "", "{}"), {"header length", "found 0"}),
        raw("A03_brace_alone", safetensors_bytes(1, "{", "12345678"), {"header length", "found 1"}),
        header("A03_brace_and_space", "{ ", {"JSON"}),
        header("A04_not_utf8", "{\"w\xff\":{" + kGood + "}}", {"UTF-8"}),
        header("A04_cut_utf8", "{\"w\xc3\":{" + kGood + "}}", {"UTF-8"}),
        header("A04_overlong_utf8", "{\"w\xc0\xaf\":{" + kGood + "}}", {"UTF-8"}),
        header("A04_not_json", "{w}", {"byte 2"}),
        header("A04_an_array", "[" + kGoodEntry + "]", {"begins with {"}),
        header("A04_garbage_after", kGoodEntry + "x", {"byte"}),
        header("A04_second_object", kGoodEntry + "{}", {"byte"}),
        header("A04_nul_after", kGoodEntry + kNul, {"NUL"}),
        header("A04_byte_order_mark", "\xEF\xBB\xBF" + kGoodEntry, {"{"}),
        header("A04_space_before", " " + kGoodEntry, {"begins with {"}),
        header("A04_comment", "{/**/" + kGoodEntry.substr(1), {"byte"}),
        header("A04_trailing_comma", R"({"w":{)" + kGood + "},}", {"byte"}),
        lazy("A05_deep_array", [] { return std::string(100000, '['); }, {"begins with {"}),
        lazy("A05_deep_array_in_a_member", [] { return "{\"w\":" + std::string(100000, '['); },
             {"nesting of at most 64"}),
        lazy("A05_deep_objects", [] { return "{\"w\":" + repeated("{\"a\":", 100000); },
             {"nesting of at most 64"}),
        lazy("A05_a_million_tiny_tensors", [] { return many_tensors(1000000); }, {"131072 tensors"}),
        lazy("A05_a_million_numbers", [] { return "{\"w\":[" + repeated("0,", 1000000) + "0]}"; },
             {": w", "at most 1024 elements"}),
        lazy("A05_a_million_names_in_one_entry",
             [] { return replaced(many_tensors(1000000), "{", "{\"w\":{") + "}"; },
             {": w", "at most 1024 elements"}),
        lazy("A05_a_long_string", [] { return "{\"" + std::string(5000000, 'a') + "\":0}"; },
             {"strings of at most"}),
        lazy("A05_a_long_number", [] { return "{\"w\":" + std::string(5000000, '1') + "}"; }, {"1111"}),
        header("A06_tensor_twice", R"({"w":{)" + kGood + R"(},"w":{)" + kGood + "}}", {"w twice"}),
        header("A06_tensor_twice_by_escape", R"({"w":{)" + kGood + R"(},"\u0077":{)" + kGood + "}}",
               {"w twice"}),
        header("A06_key_twice_in_an_entry", R"({"w":{"dtype":"F32",)" + kGood + "}}", {"dtype twice"}),
        header("A06_metadata_twice", R"({"__metadata__":{},"__metadata__":{}})", {"__metadata__ twice"}, 0),
        header("A06_name_with_nul", R"({"w\u0000":{)" + kGood + "}}", {"NUL"}),
        header("A06_name_with_raw_nul", "{\"w" + kNul + "\":{" + kGood + "}}", {"NUL"}),
        header("A06_lone_surrogate", R"({"w\ud800":{)" + kGood + "}}", {"surrogate"}),
        header("A06_lone_low_surrogate", R"({"w\udc00":{)" + kGood + "}}", {"surrogate"}),
        header("A06_empty_name", R"({"":{)" + kGood + "}}", {"names"}),
        lazy("A06_name_of_1_MB", [] { return "{\"" + std::string(1000000, 'n') + "\":{" + kGood + "}}"; },
             {"strings of at most 262144 bytes"}),
        header("A06_name_of_2_KB", "{\"" + std::string(2000, 'n') + "\":{" + kGood + "}}",
               {"names", "nnnn..."}),
        entry("A07_unknown_dtype", R"("dtype":"F31","shape":[2],"data_offsets":[0,8])", {"dtype", "F31"}),
        entry("A07_lower_case_dtype", R"("dtype":"f32","shape":[2],"data_offsets":[0,8])", {"dtype", "f32"}),
        entry("A07_missing_dtype", R"("shape":[2],"data_offsets":[0,8])", {"dtype", "nothing"}),
        entry("A07_dtype_a_number", R"("dtype":32,"shape":[2],"data_offsets":[0,8])", {"dtype", "32"}),
        entry("A07_dtype_null", R"("dtype":null,"shape":[2],"data_offsets":[0,8])", {"dtype", "null"}),
        weights("A07_unknown_dtype_of_an_unused_tensor",
                [](auto& tensors) {
                  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F33", {1}, "1234"});
                },
                {"rotary_emb.inv_freq", "dtype", "F33"}),
        entry("A07_an_unknown_field", kGood + R"(,"stride":[1])", {"stride"}),
        header("A07_an_entry_that_is_a_number", R"({"w":0})", {": w", "an object"}),
        header("A07_an_entry_that_is_an_array", R"({"w":[]})", {": w", "an object"})),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    SafetensorsShapes, BadFiles,
    testing::Values(
        shape("A08_negative", "[-2]", "-2"), shape("A08_float", "[2.0]", "2.0"),
        shape("A08_exponent", "[1e3]", "1000.0"), shape("A08_string_dimension", "[\"2\"]", "\"2\""),
        shape("A08_string", "\"2\"", "\"2\""), shape("A08_null", "null", "null"),
        shape("A08_boolean", "[true]", "true"),
        entry("A08_missing", R"("dtype":"F32","data_offsets":[0,8])", {"shape", "nothing"}),
        shape("A08_rank_100", "[2" + repeated(",1", 99) + "]", "array of 100"),
        shape("A08_dimension_0", "[0]", "found 0"), shape("A08_dimension_0_of_two", "[2,0]", "shape[1]"),
        shape("A09_product_that_wraps_to_0", "[4294967296,4294967296]", "64 bits"),
        shape("A09_product_that_wraps_to_2", "[6148914691236517206,3]", "64 bits"),
        shape("A09_product_times_dtype_that_wraps", "[4611686018427387906]", "64 bits"),
        shape("A09_dimension_of_2_63", "[9223372036854775808]", "9223372036854775808"),
        shape("A09_dimension_of_2_64", "[18446744073709551616]", "integer"),
        offsets("A10_reversed", "[8,0]", "from 8"), offsets("A10_one", "[8]", "array of 1"),
        offsets("A10_three", "[0,4,8]", "array of 3"), offsets("A10_none", "[]", "array of 0"),
        offsets("A10_negative", "[-8,0]", "-8"),
        offsets("A10_above_2_53", "[0,9007199254740993]", "9007199254740993"),
        offsets("A10_2_63", "[0,9223372036854775808]", "9223372036854775808"),
        offsets("A10_2_64", "[0,18446744073709551616]", "integer"), offsets("A10_floats", "[0.0,8.0]", "0.0"),
        offsets("A10_strings", "[\"0\",\"8\"]", "\"0\""), offsets("A10_an_object", "{}", "an object"),
        entry("A10_missing", R"("dtype":"F32","shape":[2])", {"data_offsets", "nothing"}),
        offsets("A11_span_too_short", "[0,4]", "8 bytes"),
        entry("A11_span_too_long", R"("dtype":"F32","shape":[2],"data_offsets":[0,16])",
              {"data_offsets", "found 16"}, 16),
        layout("A12_overlap", "[0,8]", "[4,12]", 12, "overlap"),
        layout("A12_same_span", "[0,8]", "[0,8]", 8, "overlap"),
        layout("A12_hole", "[0,8]", "[12,20]", 20, "a hole"),
        layout("A12_hole_at_the_start", "[4,12]", "[12,20]", 20, "a hole"),
        layout("A12_trailing_bytes", "[0,8]", "[8,16]", 17, "bytes"),
        layout("A12_hole_at_the_end", "[0,8]", "[8,16]", 24, "bytes"),
        layout("A12_data_one_byte_short", "[0,8]", "[8,16]", 15, "where the file ends"),
        header("A12_data_and_no_tensors", "{}", {"bytes"}),
        header(
            "A13_zero_size_tensors_inside_another",
            R"({"w":{)" + kGood +
                R"(},"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
            {": a: shape[0]"}),
        header("A13_scalars_of_no_size_inside_another",
               R"({"w":{)" + kGood + R"(},"a":{"dtype":"F32","shape":[],"data_offsets":[4,4]}})",
               {": a: data_offsets"}),
        header("A15_metadata_an_array", R"({"__metadata__":[]})", {"__metadata__", "object"}),
        header("A15_metadata_a_string", R"({"__metadata__":"pt"})", {"__metadata__", "pt"}),
        header("A15_metadata_null", R"({"__metadata__":null})", {"__metadata__", "null"}),
        header("A15_metadata_of_numbers", R"({"__metadata__":{"format":1}})", {"__metadata__: format", "1"}),
        header("A15_metadata_of_objects", R"({"__metadata__":{"format":{}}})",
               {"__metadata__: format", "object"}),
        node(
            "A17_directory", [](const char* path) { ::mkdir(path, 0700); }, "a directory"),
        node(
            "A17_fifo", [](const char* path) { ASSERT_EQ(::mkfifo(path, 0600), 0); }, "a FIFO"),
        node(
            "A17_dev_zero", [](const char* path) { ASSERT_EQ(::symlink("/dev/zero", path), 0); },
            "a character device"),
        node(
            "A17_dangling_link", [](const char* path) { ASSERT_EQ(::symlink("nowhere", path), 0); },
            "link to a file that does not exist"),
        node(
            "A17_link_to_itself", [](const char* path) { ASSERT_EQ(::symlink(path, path), 0); },
            "cannot open"),
        BadFile{"A17_missing",
                [](const TempDir& dir) { std::filesystem::remove(dir / "model.safetensors"); },
                {"neither"}}),
    [](const auto& test) { return test.param.name; });

TEST(BadFilesAsAnotherUser, A17_unreadable) {
  const TempDir dir;
  write_tiny_model(dir);
  ASSERT_EQ(::chmod((dir / "model.safetensors").c_str(), 0), 0);
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  const bool root = ::geteuid() == 0;  // who may read everything
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  std::string message;
  try {
    Checkpoint::open(dir.path(), load_model_config(dir.path()));
  } catch (const Error& error) {
    message = error.what();
  }
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_NE(message.find("/model.safetensors: cannot open: Permission denied"), message.npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    Index, BadFiles,
    testing::Values(
        index("A18_parent_directory", kEmbeddingOf1, R"("model.embed_tokens.weight": "../x.safetensors")",
              {"index.json: weight_map: model.embed_tokens.weight", "../x"}),
        index("A18_absolute_path", kEmbeddingOf1, R"("model.embed_tokens.weight": "/etc/x.safetensors")",
              {"weight_map", "/etc/x"}),
        index("A18_folder", kEmbeddingOf1, R"("model.embed_tokens.weight": "a/b.safetensors")",
              {"weight_map", "a/b"}),
        index("A18_backslash", kEmbeddingOf1, R"("model.embed_tokens.weight": "a\\b.safetensors")",
              {"weight_map"}),
        index("A18_nul", kEmbeddingOf1, R"("model.embed_tokens.weight": "a\u0000.safetensors")",
              {"index.json", "NUL"}),
        index("A18_empty", kEmbeddingOf1, R"("model.embed_tokens.weight": "")", {"weight_map", "\"\""}),
        index("A18_dots", kEmbeddingOf1, R"("model.embed_tokens.weight": "..")", {"weight_map", ".."}),
        index("A18_not_safetensors", kEmbeddingOf1, R"("model.embed_tokens.weight": "pytorch_model.bin")",
              {"weight_map", "pytorch_model.bin"}),
        index("A18_too_long", kEmbeddingOf1,
              "\"model.embed_tokens.weight\": \"" + std::string(300, 'a') + ".safetensors\"", {"weight_map"}),
        index("A18_number", kEmbeddingOf1, R"("model.embed_tokens.weight": 1)", {"weight_map", "found 1"}),
        index("A18_weight_map_an_array", "\"weight_map\": {", R"("weight_map": [], "x": {)",
              {"weight_map", "array"}),
        index("A18_weight_map_missing", "weight_map", "weights", {"weight_map", "nothing"}),
        index("A18_unknown_field", "\"weight_map\"", R"("version": 2, "weight_map")", {"version"}),
        index("A19_shard_missing", kEmbeddingOf1,
              R"("model.embed_tokens.weight": "model-00003-of-00002.safetensors")",
              {"model-00003-of-00002.safetensors", "cannot open"}),
        index("A19_tensor_absent_from_every_shard", kEmbeddingOf1,
              kEmbeddingOf1 + ", \"ghost\": \"" + kShard1 + "\"", {"weight_map: ghost", "no shard"}),
        index("A19_tensor_absent_from_its_shard", kEmbeddingOf1,
              "\"model.embed_tokens.weight\": \"" + kShard2 + "\"",
              {"weight_map: model.embed_tokens.weight", kShard1, kShard2}),
        index("A19_tensor_twice_in_the_map", kEmbeddingOf1, kEmbeddingOf1 + "," + kEmbeddingOf1, {"twice"}),
        BadFile{"A19_tensor_in_two_shards",
                [](const TempDir& dir) {
                  std::filesystem::remove(dir / "model.safetensors");
                  write_tiny_sharded_model(dir);
                  std::vector<TensorToWrite> second = weights_of(tiny_config(), DType::f32);
                  second.erase(second.begin() + 1, second.begin() + 10);
                  write_file(dir / kShard2, safetensors_bytes(second));
                },
                {kShard2, "model.embed_tokens.weight", "one shard", kShard1}},
        index("A19_tensor_not_in_the_map", kEmbeddingOf1 + ",", "",
              {"weight_map", "model.embed_tokens.weight"}),
        index("A19_total_size_wrong", "\"total_size\": ", "\"total_size\": 1", {"metadata: total_size"}),
        index("A19_total_size_negative", "\"total_size\": ", "\"total_size\": -",
              {"metadata: total_size", "-"}),
        index("A19_total_size_float",
              "\"total_size\": ", "\"total_size\": 1.5e3, \"x\": ", {"metadata", "total_size"}),
        index("A19_metadata_unknown",
              "\"total_size\": ", "\"layout\": 1, \"total_size\": ", {"metadata", "layout"}),
        BadFile{"A19_both_one_file_and_an_index",
                [](const TempDir& dir) { write_tiny_sharded_model(dir); },
                {"both"}}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    ConfigSizes, BadFiles,
    testing::Values(
        size("A20_heads_0", "num_attention_heads", "0", "found 0"),
        size("A20_heads_negative", "num_attention_heads", "-2", "-2"),
        size("A20_heads_not_dividing", "num_attention_heads", "3", "hidden_size (16)"),
        size("A20_kv_heads_0", "num_key_value_heads", "0", "found 0"),
        size("A20_kv_heads_above_heads", "num_key_value_heads", "4", "divisor"),
        config("A20_kv_heads_not_dividing", R"("num_attention_heads": 2,
  "num_key_value_heads": 1)",
               R"("num_attention_heads": 4, "head_dim": 8, "num_key_value_heads": 3)",
               {"num_key_value_heads", "3"}),
        size("A21_string", "hidden_size", "\"16\"", "a string"),
        size("A21_float", "hidden_size", "16.0", "16.0"),
        size("A21_boolean", "num_hidden_layers", "true", "true"),
        size("A21_null", "intermediate_size", "null", "null"),
        size("A21_1e30", "vocab_size", "1e30", "1e+30"),
        size("A21_2_31", "hidden_size", "2147483648", "2147483648"),
        size("A21_2_63", "intermediate_size", "9223372036854775808", "9223372036854775808"),
        size("A21_2_64", "vocab_size", "18446744073709551616", "integer"),
        size("A21_negative", "intermediate_size", "-24", "-24"),
        size("A21_array", "num_attention_heads", "[2]", "array"),
        config("A21_missing", "\"hidden_size\": 16,", "", {"hidden_size", "nothing"}),
        size("A22_layers_10_9", "num_hidden_layers", "1000000000", "4096"),
        size("A22_layers_0", "num_hidden_layers", "0", "found 0"),
        config("A23_head_dim_0", "\"eos", "\"head_dim\": 0, \"eos", {"head_dim", "found 0"}),
        config("A23_head_dim_odd", "\"eos", "\"head_dim\": 9, \"eos", {"head_dim", "multiple of 8", "9"}),
        config("A23_head_dim_4096", "\"eos", "\"head_dim\": 4096, \"eos", {"head_dim", "256", "4096"}),
        config("A23_head_dim_negative", "\"eos", "\"head_dim\": -8, \"eos", {"head_dim", "-8"}),
        size("A24_vocab_0", "vocab_size", "0", "found 0"),
        BadFile{"A24_vocab_unlike_the_embedding",
                [](const TempDir& dir) {
                  write_file(dir / "config.json", replaced(kTinyConfig, ": 11,", ": 12,"));
                },
                {"model.safetensors: model.embed_tokens.weight", "[12, 16]", "[11, 16]", "vocab_size 12"}},
        weights("A24_untied_without_head", [](auto& tensors) { tensors.pop_back(); },
                {"lm_head.weight", "tie_word_embeddings false"}),
        BadFile{"A24_tied_with_another_head",
                [](const TempDir& dir) {
                  write_file(dir / "config.json",
                             replaced(kTinyConfig, "_embeddings\": false", "_embeddings\": true"));
                },
                {"lm_head.weight", "tie_word_embeddings"}},
        size("A25_eps_0", "rms_norm_eps", "0", "found 0"),
        size("A25_eps_negative", "rms_norm_eps", "-1e-5", "-1e-05"),
        size("A25_eps_1e999", "rms_norm_eps", "1e999", "a finite number, found 1e999"),
        size("A25_eps_string", "rms_norm_eps", "\"1e-5\"", "a string"),
        config("A25_eps_nan", "1e-05", "NaN", {"byte", "rms_norm_eps"}),
        config("A25_eps_infinity", "1e-05", "Infinity", {"byte"}),
        size("A26_rope_theta_0", "rope_theta", "0", "found 0"),
        size("A26_rope_theta_negative", "rope_theta", "-10000.0", "-10000.0"),
        size("A26_rope_theta_1e400", "rope_theta", "1e400", "a finite number"),
        config("A26_unknown_rope_type", "\"eos",
               R"("rope_scaling": {"rope_type": "mrope", "factor": 2.0}, "eos)",
               {"rope_scaling: rope_type", "mrope"}),
        config("A26_unknown_quantization", "\"eos", R"("quantization_config": {"quant_method": "awq"}, "eos)",
               {"quantization_config", "quantized"}),
        config("A26_unknown_activation", "\"eos", R"("hidden_act": "gelu", "eos)", {"hidden_act", "gelu"}),
        config("A26_unknown_model_type", "\"llama\"", "\"gemma\"", {"model_type", "gemma"}),
        config("A26_missing_model_type", "\"model_type\": \"llama\",", "", {"model_type", "nothing"}),
        config("A26_unknown_architecture", "LlamaForCausalLM", "LlamaForSequenceClassification",
               {"architectures", "Classification"}),
        config("A26_unknown_key", "\"eos", "\"num_experts\": 8, \"eos", {"num_experts", "found 8"}),
        size("A27_max_positions_0", "max_position_embeddings", "0", "found 0"),
        size("A27_max_positions_2_40", "max_position_embeddings", "1099511627776", "1099511627776"),
        config("A28_eos_negative", "_id\": 2", "_id\": -1", {"eos_token_id", "-1"}),
        config("A28_eos_as_large_as_the_vocabulary", "_id\": 2", "_id\": 11",
               {"eos_token_id", "from 0 to 10", "11"}),
        config("A28_eos_in_a_list", "_id\": 2", "_id\": [2, 11]", {"eos_token_id[1]", "11"}),
        config("A28_eos_string", "_id\": 2", "_id\": \"2\"", {"eos_token_id", "a string"}),
        BadFile{"A28_eos_of_the_generation_config",
                [](const TempDir& dir) {
                  write_file(dir / "generation_config.json", R"({"eos_token_id": [2, -1]})");
                },
                {"/generation_config.json: eos_token_id[1]", "-1"}},
        config("A29_key_twice", "\"eos", "\"hidden_size\": 16, \"eos", {"hidden_size twice"}),
        config("A29_key_twice_inside", "\"eos", R"("rope_scaling": {"factor": 2.0, "factor": 2.0}, "eos)",
               {"factor twice"}),
        config("A29_depth", "\"eos",
               "\"id2label\": " + std::string(100, '[') + std::string(100, ']') + ", \"eos", {"nesting"}),
        config("A29_byte_order_mark", "{", "\xEF\xBB\xBF{", {"byte order mark"}),
        config("A29_nul", "}", "}" + kNul, {"NUL"}),
        BadFile{
            "A29_one_gigabyte",
            [](const TempDir& dir) { std::filesystem::resize_file(dir / "config.json", uintmax_t{1} << 30); },
            {"/config.json", "1073741824"}},
        BadFile{
            "A29_empty", [](const TempDir& dir) { write_file(dir / "config.json", ""); }, {"/config.json"}},
        BadFile{"A29_missing",
                [](const TempDir& dir) { std::filesystem::remove(dir / "config.json"); },
                {"/config.json: cannot open"}}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Weights, BadFiles,
    testing::Values(
        weights("A30_transposed",
                [](auto& tensors) {
                  tensor_named(tensors, "model.layers.1.mlp.down_proj.weight").shape = {24, 16};
                },
                {"model.layers.1.mlp.down_proj.weight", "f32 [16, 24]", "f32 [24, 16]",
                 "intermediate_size 24", "transposed"}),
        weights("A30_rank",
                [](auto& tensors) {
                  tensor_named(tensors, "model.norm.weight").shape = {1, 16};
                },
                {"model.norm.weight", "[1, 16]"}),
        weights("A30_missing", [](auto& tensors) { tensors.erase(tensors.begin() + 2); },
                {"model.layers.0.self_attn.q_proj.weight", "nothing"}),
        weights("A30_extra",
                [](auto& tensors) {
                  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "1234"});
                },
                {"model.layers.0.self_attn.q_proj.bias", "F32 [1]"}),
        weights("A30_extra_layer",
                [](auto& tensors) {
                  tensors.push_back({"model.layers.2.input_layernorm.weight", "F32", {1}, "1234"});
                },
                {"model.layers.2.input_layernorm.weight"}),
        weights("A30_mixed_dtypes",
                [](auto& tensors) {
                  TensorToWrite& norm = tensor_named(tensors, "model.norm.weight");
                  norm.dtype = "BF16";
                  norm.data.resize(32);
                },
                {"model.norm.weight", "f32 as model.embed_tokens.weight", "bf16"}),
        weights("A30_dtype_that_is_no_weight_type",
                [](auto& tensors) {
                  TensorToWrite& norm = tensor_named(tensors, "model.norm.weight");
                  norm.dtype = "F64";
                  norm.data.resize(128);
                },
                {"model.norm.weight", "F64", "F32, F16 or BF16"})),
    [](const auto& test) { return test.param.name; });
}  // namespace
}  // namespace rondo
