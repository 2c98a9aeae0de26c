#include "runner/cli/output.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "buffers/error.h"

namespace rondo::cli {

void write_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  const bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int error = errno;
  if (file && std::fclose(file) != 0 && written) {
    error = errno;
    file = nullptr;
  }
  if (file && written) return;
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("{}: expected a file that can be written, found: {}", path, std::strerror(error)));
}

}  // namespace rondo::cli
