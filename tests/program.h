// The program run as a user runs it, for tests of what it prints, refuses and returns.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tests/json.h"
#include "tests/support.h"

namespace rondo::test {

using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

// The program running: its standard output on a pipe, its standard error on a pipe or a terminal, its
// standard input /dev/null or a pipe.
class Process {
 public:
  enum class Input { Null, Pipe };
  enum class Errors { Pipe, Terminal };

  explicit Process(const Arguments& arguments, Input input = Input::Null, Errors errors = Errors::Pipe) {
    std::array<int, 2> in{-1, -1};
    if (input == Input::Null) {
      in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (in[0] < 0) fail("/dev/null");
    } else if (pipe2(in.data(), O_CLOEXEC) != 0) {
      fail("pipe2");
    }
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    if (pipe2(out.data(), O_CLOEXEC) != 0) fail("pipe2");
    if (errors == Errors::Terminal)
      err = terminal();
    else if (pipe2(err.data(), O_CLOEXEC) != 0)
      fail("pipe2");
    std::vector<char*> argv;
    std::string program = RONDO_BINARY;
    argv.push_back(program.data());
    Arguments copy = arguments;
    for (std::string& argument : copy) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ < 0) fail("fork");
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(err[1], STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }
  ~Process() {
    close_input();
    close_output();
    close(err_);
    if (!waited_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Process(const Process&) = delete;  // one process, one owner

  pid_t pid() const { return pid_; }

  // Less than a pipe holds, so that it cannot block.
  void write_input(const std::string& text) {
    if (write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail("write");
  }

  void close_input() {
    if (in_ >= 0) close(in_);
    in_ = -1;
  }

  // Up to the next newline, which is left out.
  std::string read_line() {
    std::string line;
    for (char byte = read_byte(); byte != '\n'; byte = read_byte()) line += byte;
    return line;
  }

  // Until the program closes its output; what came is lost.
  void read_to_end() {
    char byte = 0;
    while (read(out_, &byte, 1) == 1) {
    }
  }

  // What came on standard error until that text did, or until its end.
  std::string read_errors_until(const std::string& text) {
    std::string errors;
    for (char byte = 0; errors.find(text) == std::string::npos && read(err_, &byte, 1) == 1;) errors += byte;
    return errors;
  }

  char read_byte() {
    char byte = 0;
    if (read(out_, &byte, 1) != 1) fail("read");
    return byte;
  }

  void close_output() {
    if (out_ >= 0) close(out_);
    out_ = -1;
  }

  struct Result {
    int status = -1;  // exit status; 1000 + n for death by signal n
    std::string out;
    std::string err;
  };

  // Closes the input and reads both pipes to their ends, so that neither can block the program.
  Result finish() {
    close_input();
    Result result;
    std::array<pollfd, 2> fds{pollfd{out_, POLLIN, 0}, pollfd{err_, POLLIN, 0}};
    const std::array<std::string*, 2> texts{&result.out, &result.err};
    size_t open = out_ >= 0 ? 2 : 1;
    while (open > 0) {
      if (poll(fds.data(), fds.size(), -1) < 0) fail("poll");
      for (size_t i = 0; i < fds.size(); ++i) {
        if (fds[i].fd < 0 || fds[i].revents == 0) continue;
        std::array<char, 4096> bytes{};
        const ssize_t n = read(fds[i].fd, bytes.data(), bytes.size());
        if (n > 0) {
          texts[i]->append(bytes.data(), static_cast<size_t>(n));
        } else {
          fds[i].fd = -1;
          --open;
        }
      }
    }
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_) fail("waitpid");
    waited_ = true;
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return result;
  }

 private:
  // Both ends of a pseudo-terminal, the reader's first.
  static std::array<int, 2> terminal() {
    const int reader = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (reader < 0 || grantpt(reader) != 0 || unlockpt(reader) != 0) fail("posix_openpt");
    const int writer = open(ptsname(reader), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (writer < 0) fail("ptsname");
    return {reader, writer};
  }

  [[noreturn]] static void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
  }

  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
  bool waited_ = false;
};

inline Process::Result rondo_program(const Arguments& arguments) { return Process(arguments).finish(); }

// A byte-level shape with random weights, on the CPU.
inline Arguments on_cpu(const std::string& command, const std::string& config, const Arguments& more) {
  Arguments arguments = {command, "--config",   config, "--random-weights", "--device",
                         "cpu",   "--max-rows", "8",    "--threads",        "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

inline TinySizes byte_level() {
  TinySizes sizes;
  sizes.vocab = 256;
  return sizes;
}

inline Json parsed(const Process::Result& result) {
  EXPECT_EQ(result.status, 0) << result.err;
  return parse_json(result.out);
}

inline void expect_refused(const Arguments& arguments, const std::string& kind, const std::string& naming) {
  const Process::Result result = rondo_program(arguments);
  const std::string said = fmt::format("{}: {}", fmt::join(arguments, " "), result.err);
  EXPECT_EQ(result.status, 2) << said;
  EXPECT_EQ(result.out, "") << said;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << "one line: " << said;
  EXPECT_TRUE(result.err.starts_with("rondo: " + kind + ": ")) << said;
  EXPECT_NE(result.err.find(naming), std::string::npos) << said;
}

}  // namespace rondo::test
