// A regular file, opened for reading. Nothing is mapped: a file that shrinks while it is read is an error,
// not a signal.
#pragma once

#include <cstdint>
#include <string>

namespace rondo {

// Owns an open descriptor. Safe to read from several threads at once.
class File {
 public:
  // Follows links. Throws InvalidModel when PATH is missing, unreadable, or anything but a regular file; a
  // FIFO or a device is refused without waiting for it or reading from it.
  static File open(const std::string& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // bytes, when it was opened

  // Reads exactly `bytes` bytes at `offset`. Throws InvalidModel when the file ends before that or cannot be
  // read.
  void read(uint64_t offset, void* to, uint64_t bytes) const;

 private:
  File(std::string path, int fd, uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}

  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// Is there anything under this name, be it only a dangling link?
bool path_exists(const std::string& path);

// The whole of a file. Throws InvalidModel as File::open, or when it is longer than `max_bytes`, before
// reading it.
std::string read_text_file(const std::string& path, uint64_t max_bytes);

}  // namespace rondo
