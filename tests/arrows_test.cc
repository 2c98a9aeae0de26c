// The folders' arrows (docs/design.md, "Folders"), and what public headers may not contain.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

namespace fs = std::filesystem;

const fs::path kRoot = RONDO_SOURCE_DIR;

bool is_source(const fs::path& path) {
  static const std::set<std::string> endings = {".h", ".cc", ".cu", ".cuh"};
  return endings.count(path.extension().string()) > 0;
}

template <class F>
void for_each_include(const fs::path& folder, F&& visit) {
  static const std::regex include(R"re(^\s*#\s*include\s*["<]([^">]+)[">])re");
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    if (!is_source(entry.path())) continue;
    ++files;
    std::ifstream in(entry.path());
    std::smatch match;
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, match, include)) visit(entry.path(), match[1].str());
  }
  EXPECT_GT(files, 0) << folder << " has no sources: this test would check nothing";
}

TEST(Arrows, FoldersIncludeOnlyWhatLiesBelowThem) {
  const std::map<std::string, std::set<std::string>> allowed = {
      {"buffers", {"buffers"}},
      {"kernels", {"kernels", "buffers"}},
      {"graphs", {"graphs", "buffers"}},
      {"runner", {"runner", "graphs", "kernels", "buffers"}},
  };
  const std::set<std::string> folders = {"buffers", "kernels", "graphs", "runner", "tests", "bench"};
  for (const auto& [folder, may] : allowed)
    for_each_include(folder, [&, &may = may](const fs::path& file, const std::string& included) {
      const std::string top = included.substr(0, included.find('/'));
      if (folders.count(top)) {
        EXPECT_TRUE(may.count(top)) << file << " includes " << included;
      }
    });
}

TEST(Arrows, TheTwoBackendsDoNotKnowEachOther) {
  for_each_include("kernels/cpu", [](const fs::path& file, const std::string& included) {
    EXPECT_NE(included.rfind("kernels/cuda/", 0), 0u) << file << " includes " << included;
    EXPECT_EQ(included.find("cuda"), std::string::npos) << file << " includes " << included;
  });
  for_each_include("kernels/cuda", [](const fs::path& file, const std::string& included) {
    EXPECT_NE(included.rfind("kernels/cpu/", 0), 0u) << file << " includes " << included;
  });
}

TEST(Arrows, ThePublicHeadersHaveNoCudaNoJsonAndNoConditions) {
  for (const char* header : {"runner/engine.h", "runner/rondo.h"}) {
    std::ifstream in(kRoot / header);
    ASSERT_TRUE(in) << header;
    int lines = 0;
    for (std::string line; std::getline(in, line); ++lines) {
      // C++ needs to be told which functions are C's; nothing else is asked.
      if (line != "#ifdef __cplusplus") {
        EXPECT_EQ(line.find("#if"), std::string::npos) << header << ": " << line;
      }
      if (line.find("#include") == std::string::npos) continue;
      EXPECT_EQ(line.find("cuda"), std::string::npos) << header << ": " << line;
      EXPECT_EQ(line.find("json"), std::string::npos) << header << ": " << line;
    }
    EXPECT_GT(lines, 100) << header;
  }
}

TEST(Arrows, OneSourceFileKnowsWhichBackendsThereAre) {
  std::set<std::string> files;
  for (const char* folder : {"buffers", "kernels", "graphs", "runner"})
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (!is_source(entry.path())) continue;
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);)
        if (line.find("RONDO_WITH_CUDA") != std::string::npos)
          files.insert(fs::relative(entry.path(), kRoot).string());
    }
  EXPECT_EQ(files, std::set<std::string>{"runner/backend.cc"});
}

}  // namespace
