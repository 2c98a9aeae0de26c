#include "runner/cli/lines.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "buffers/error.h"

namespace rondo::cli {

std::optional<Line> LineReader::next(std::chrono::milliseconds wait) {
  while (true) {
    while (std::optional<Line> line = take()) {
      if (line->too_long || line->text.find_first_not_of(" \t\r") != std::string::npos) return line;
    }
    if (at_end_ || !fill(wait)) return std::nullopt;
  }
}

// A whole line of what was read.
std::optional<Line> LineReader::take() {
  const size_t newline = held_.find('\n', std::max(begin_, searched_));
  const bool last = newline == std::string::npos;
  if (last) {
    searched_ = held_.size();
    if (!at_end_) {
      if (held_.size() - begin_ > kLongest) {
        overlong_ = true;
        held_.clear();
        begin_ = searched_ = 0;
      }
      return std::nullopt;
    }
    if (ended()) return std::nullopt;
  }
  const size_t end = last ? held_.size() : newline;
  Line line;
  line.number = ++number_;
  line.too_long = overlong_ || end - begin_ > kLongest;
  if (!line.too_long) line.text = held_.substr(begin_, end - begin_);
  overlong_ = false;
  begin_ = last ? end : end + 1;
  return line;
}

// Reads what there is. Whether anything came, the end included.
bool LineReader::fill(std::chrono::milliseconds wait) {
  pollfd input = {fd_, POLLIN, 0};
  const int ready = ::poll(&input, 1, static_cast<int>(wait.count()));
  if (ready == 0 || (ready < 0 && errno == EINTR)) return false;
  held_.erase(0, begin_);
  searched_ -= std::min(searched_, begin_);
  begin_ = 0;
  std::array<char, 65536> bytes;
  const ssize_t n = ::read(fd_, bytes.data(), bytes.size());
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return false;
  if (n < 0) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("standard input: expected lines, found: {}", std::strerror(errno)));
  }
  held_.append(bytes.data(), static_cast<size_t>(n));
  at_end_ = n == 0;
  return true;
}

}  // namespace rondo::cli
