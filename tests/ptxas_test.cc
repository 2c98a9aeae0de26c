// What the compiler made of the kernels: no register lives in local memory for want of room.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <utility>

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
  // Through registers, past them (16 bytes by name), or by the copy engine, which takes multiples of 16.
  const std::regex by_register(R"(ld\.global[a-zA-Z0-9_.:]*\.v(4\.(b|u|f|s)32|2\.(b|u|f|s)64))");
  const std::regex past_registers(R"(cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 16)");
  const std::regex by_engine(R"(cp\.async\.bulk\.(tensor\.5d\.)?shared::cluster\.global\.(tile\.)?mbarrier)");
  const std::regex target(R"(^\.target sm_(\d+))");
  const std::pair<const char*, const std::regex&> kernels[] = {{"attention.cu", by_register},
                                                               {"rmsnorm.cu", by_register},
                                                               {"embed.cu", by_register},
                                                               {"silu_mul.cu", by_register},
                                                               {"read.cu", by_register},
                                                               {"stream_gemm.cu", past_registers},
                                                               {"attention_tiles.cu", past_registers},
                                                               {"stream_row.cu", by_engine},
                                                               {"stream_tiles.cu", by_engine}};
  for (const auto& [file, wide] : kernels) {
    const std::filesystem::path path = std::string(RONDO_OBJECTS) + "/kernels/cuda/" + file + ".o.ptx";
    std::ifstream in(path);
    ASSERT_TRUE(in) << path;
    int loads = 0, architecture = 0;
    std::smatch match;
    for (std::string text; std::getline(in, text);) {
      loads += std::regex_search(text, wide);
      if (std::regex_search(text, match, target)) architecture = std::stoi(match[1].str());
    }
    EXPECT_GT(architecture, 0) << file;
    if (&wide == &by_engine && architecture < 90)
      continue;  // that has no copy engine, and another kernel runs
    EXPECT_GT(loads, 0) << file;
  }
}

}  // namespace
