#include "runner/cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "buffers/error.h"

namespace rondo::cli {
namespace {

[[noreturn]] void refuse_file(const std::string& path, int error) {
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("{}: expected a file that can be written, found: {}", path, std::strerror(error)));
}

}  // namespace

void write_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  const bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int error = errno;
  if (file && std::fclose(file) != 0 && written) {
    error = errno;
    file = nullptr;
  }
  if (file && written) return;
  refuse_file(path, error);
}

void expect_writable(const std::string& path) {
  const bool there = access(path.c_str(), F_OK) == 0;
  std::FILE* file = std::fopen(path.c_str(), "a");
  if (!file) refuse_file(path, errno);
  std::fclose(file);
  if (!there) unlink(path.c_str());
}

}  // namespace rondo::cli
