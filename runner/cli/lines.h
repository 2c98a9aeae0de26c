// Standard input line by line, as it comes, between two steps: never waits longer than it is told to.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

namespace rondo::cli {

struct Line {
  size_t number = 0;      // from 1
  std::string text;       // without its newline
  bool too_long = false;  // its text was thrown away
};

class LineReader {
 public:
  static constexpr size_t kLongest = size_t{16} << 20;  // bytes

  // Does not own the descriptor.
  explicit LineReader(int fd) : fd_(fd) {}

  // The next line that is not blank, waiting for it up to `wait`; none where it has not come whole until
  // then, or where there is no more. A last line without a newline is a line. Throws Error (InvalidArgument)
  // where the input cannot be read.
  std::optional<Line> next(std::chrono::milliseconds wait);

  // Whether all lines have been handed out.
  bool ended() const { return at_end_ && held_.size() == begin_ && !overlong_; }

 private:
  std::optional<Line> take();
  bool fill(std::chrono::milliseconds wait);

  int fd_;
  bool at_end_ = false;
  std::string held_;     // bytes that were read
  size_t begin_ = 0;     // of the line that comes next
  size_t searched_ = 0;  // no newline before it
  size_t number_ = 0;
  bool overlong_ = false;  // the line that comes next is too long already
};

}  // namespace rondo::cli
