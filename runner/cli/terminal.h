// Standard output and standard error of a program that may be piped, interrupted or run on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace rondo::cli {

// Thrown where the reader of standard output has gone: the program ends quietly.
struct BrokenPipe {};

// Thrown where a signal asked for the end and there is nothing left worth printing.
struct Interrupted {
  int signal = 0;
};

// SIGINT and SIGTERM are noted; a second one ends the program at once. SIGPIPE becomes an error of write().
void catch_signals();
// The signal noted, or 0.
int caught_signal();

// Writes all of `text` to standard output. Throws BrokenPipe, or Error (InvalidArgument) with the system's
// reason.
void write_out(std::string_view text);

// Writes all of `text` to standard error as far as that is possible; a standard error that cannot be written
// is no error.
void write_err(std::string_view text) noexcept;

// `text` on one line: control characters as \n, \t or \x1b. Bytes above 127 stay, so UTF-8 stays readable.
std::string one_line(std::string_view text);

// A line on standard error while something large loads; silent off a terminal and for the first half second.
class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Bytes. Throws Interrupted once a signal was noted, which ends the load.
  void update(uint64_t done, uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point next_;
};

// One line on standard error that says what is being done, written over and over; silent off a terminal.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  void show(const std::string& text);

 private:
  bool terminal_;
  bool shown_ = false;
};

}  // namespace rondo::cli
