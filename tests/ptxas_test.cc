// What the compiler made of the kernels: no register lives in local memory for want of room.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>

namespace {

TEST(Ptxas, NoKernelSpillsRegisters) {
  static const std::regex line(
      R"((\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads)");
  int kernels = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(RONDO_OBJECTS)) {
    if (entry.path().extension() != ".ptxas" ||
        entry.path().string().find("/kernels/cuda/") == std::string::npos)
      continue;
    std::ifstream in(entry.path());
    std::smatch match;
    std::string name;
    for (std::string text; std::getline(in, text);) {
      if (text.find("Function properties for") != std::string::npos) name = text;
      if (!std::regex_search(text, match, line)) continue;
      ++kernels;
      EXPECT_EQ(match[2].str(), "0") << entry.path().filename() << ": " << name;
      EXPECT_EQ(match[3].str(), "0") << entry.path().filename() << ": " << name;
    }
  }
  EXPECT_GE(kernels, 20) << "the reports of cmake/nvcc-report.sh are missing";
}

// The kernels that stream do it 16 bytes at a time.
TEST(Ptxas, StreamingKernelsLoadSixteenBytes) {
  static const std::regex wide(R"(ld\.global[a-zA-Z0-9_.:]*\.v(4\.(b|u|f|s)32|2\.(b|u|f|s)64))");
  for (const char* file : {"attention.cu", "rmsnorm.cu", "embed.cu", "silu_mul.cu", "read.cu"}) {
    const std::filesystem::path path = std::string(RONDO_OBJECTS) + "/kernels/cuda/" + file + ".o.ptx";
    std::ifstream in(path);
    ASSERT_TRUE(in) << path;
    int loads = 0;
    for (std::string text; std::getline(in, text);) loads += std::regex_search(text, wide);
    EXPECT_GT(loads, 0) << file;
  }
}

}  // namespace
