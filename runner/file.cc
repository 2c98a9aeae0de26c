#include "runner/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "buffers/error.h"

namespace rondo {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::InvalidModel, path + ": " + what);
}

const char* type_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISSOCK(mode)) return "a socket";
  return "no regular file";
}

bool is_link(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

}  // namespace

File File::open(const std::string& path) {
  // A C string ends at the first NUL: what would be opened is not what was named.
  if (path.find('\0') != std::string::npos) fail("file name", "expected no NUL byte, found one");
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);  // a FIFO must not block
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    if (error == ENOENT && is_link(path))
      fail(path, "expected a file, found a link to a file that does not exist");
    fail(path, fmt::format("cannot open: {}", std::strerror(error)));
  }
  File file(path, fd, 0);
  struct stat status;
  if (::fstat(fd, &status) != 0) fail(path, fmt::format("cannot stat: {}", std::strerror(errno)));
  if (!S_ISREG(status.st_mode))
    fail(path, fmt::format("expected a regular file, found {}", type_name(status.st_mode)));
  file.size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(std::exchange(other.size_, 0)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::read(uint64_t offset, void* to, uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) {
    fail(path_,
         fmt::format("expected {} bytes at offset {}, found a file of {} bytes", bytes, offset, size_));
  }
  constexpr uint64_t kLargest = uint64_t{1} << 30;  // Linux reads at most 2 GiB - 4 KiB per call
  char* next = static_cast<char*>(to);
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n =
        ::pread(fd_, next + done, std::min(bytes - done, kLargest), static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, fmt::format("cannot read at offset {}: {}", offset + done, std::strerror(errno)));
    if (n == 0) {
      fail(path_,
           fmt::format("expected {} bytes at offset {}, found {} (the file had {} bytes when it was opened)",
                       bytes, offset, done, size_));
    }
    done += static_cast<uint64_t>(n);
  }
}

bool path_exists(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

std::string read_text_file(const std::string& path, uint64_t max_bytes) {
  const File file = File::open(path);
  if (file.size() > max_bytes) {
    fail(path, fmt::format("expected at most {} bytes, found {}", max_bytes, file.size()));
  }
  std::string text(file.size(), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

}  // namespace rondo
