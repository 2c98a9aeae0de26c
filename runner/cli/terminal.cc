#include "runner/cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "buffers/error.h"

namespace rondo::cli {
namespace {

constexpr auto kQuietStart = std::chrono::milliseconds(500);
constexpr auto kRefresh = std::chrono::milliseconds(100);

// A handler can reach nothing but a static, and this is the program, not the library.
std::atomic<int>& signal_note() {
  static std::atomic<int> note{0};
  static_assert(std::atomic<int>::is_always_lock_free);
  return note;
}

extern "C" void note_signal(int signal) { signal_note().store(signal, std::memory_order_relaxed); }

// 0, or the errno that ended it.
int write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

void catch_signals() {
  signal_note().store(0);  // made before the first signal can ask for it
  struct sigaction action = {};
  action.sa_handler = note_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int caught_signal() { return signal_note().load(std::memory_order_relaxed); }

void write_out(std::string_view text) {
  const int error = write_all(STDOUT_FILENO, text);
  if (error == EPIPE) throw BrokenPipe{};
  if (error != 0) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("standard output: expected {} bytes to be written, found: {}", text.size(),
                            std::strerror(error)));
  }
}

void write_err(std::string_view text) noexcept { write_all(STDERR_FILENO, text); }

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (byte < 32 || byte == 127) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1), next_(Clock::now() + kQuietStart) {}

Progress::~Progress() {
  if (shown_) write_err("\r\x1b[K");
}

void Progress::update(uint64_t done, uint64_t total) {
  if (caught_signal() != 0) throw Interrupted{caught_signal()};
  if (!terminal_ || total == 0 || Clock::now() < next_) return;
  next_ = Clock::now() + kRefresh;
  shown_ = true;
  const double of = static_cast<double>(total);
  const double is = static_cast<double>(done);
  write_err(
      fmt::format("\rloading {:3.0f} % ({:.2f} of {:.2f} GB)\x1b[K", 100 * is / of, is / 1e9, of / 1e9));
}

StatusLine::StatusLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

StatusLine::~StatusLine() {
  if (shown_) write_err("\r\x1b[K");
}

void StatusLine::show(const std::string& text) {
  if (!terminal_) return;
  shown_ = true;
  write_err("\r" + one_line(text) + "\x1b[K");
}

}  // namespace rondo::cli
