// What the compiler made of the kernels: no register lives in local memory for want of room.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>

namespace {

TEST(Ptxas, NoKernelSpillsRegisters) {
  static const std::regex line(R"((\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads)");
  int kernels = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(RONDO_OBJECTS)) {
    if (entry.path().extension() != ".ptxas" || entry.path().string().find("/kernels/cuda/") == std::string::npos) continue;
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

// The disassembly of the shipped library: the kernels that stream do it 16 bytes at a time.
TEST(Ptxas, StreamingKernelsLoadSixteenBytes) {
  for (const char* kernel : {"attention_kernel", "rmsnorm_kernel", "embed_kernel", "silu_mul_kernel"}) {
    const std::string command =
        std::string(RONDO_CUOBJDUMP) + " --dump-sass " RONDO_LIBRARY " 2>/dev/null | awk '/Function :/ {on = /" + kernel +
        "/} on && /LDG\\.E[A-Z0-9.]*\\.128/ {n++} END {print n + 0}'";
    FILE* pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    int wide = 0;
    EXPECT_EQ(std::fscanf(pipe, "%d", &wide), 1);
    pclose(pipe);
    EXPECT_GT(wide, 0) << kernel;
  }
}

}  // namespace
