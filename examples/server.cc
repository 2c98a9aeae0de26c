// A server in one loop: every line of stdin is a prompt, and is answered beside all others that are under
// way.
//
//   printf '36+79=\nreverse stressed=\nsay 773=\n' | ./server models/demo
//
// One thread steps the engine; requests come from another, as they would from a server's connections. A token
// is a byte here.
#include <rondo/engine.h>

#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

class Inbox {
 public:
  void put(std::string line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
    changed_.notify_one();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
    changed_.notify_one();
  }
  // All lines that came since; with `wait`, not before there is one. False: there will be none any more.
  bool take(std::vector<std::string>& lines, bool wait) {
    std::unique_lock lock(mutex_);
    if (wait) changed_.wait(lock, [this] { return !lines_.empty() || !open_; });
    lines = std::exchange(lines_, {});
    return open_ || !lines.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
  bool open_ = true;
};

static void serve(rondo::Engine& engine, Inbox& inbox) {
  std::map<rondo::SequenceId, std::pair<int, std::string>> clients;  // line number and text so far
  int number = 0;
  for (std::vector<std::string> lines; inbox.take(lines, !engine.busy()) || engine.busy();) {
    for (const std::string& line : lines) {
      ++number;
      rondo::Request request;
      for (const char c : line) request.prompt.push_back(static_cast<unsigned char>(c));
      try {
        clients[engine.add(request)] = {number, line};
      } catch (const rondo::Error& error) {  // this request alone is refused
        std::printf("[%d] %s: %s\n", number, rondo::error_kind_name(error.kind()), error.what());
      }
    }
    for (const rondo::Output& out : engine.step()) {
      auto& [line, text] = clients.at(out.sequence);
      if (out.token >= 0 && out.finish != rondo::FinishReason::Stop) text += static_cast<char>(out.token);
      if (out.finish == rondo::FinishReason::None) continue;
      std::printf("[%d] %s (%s)\n", line, text.c_str(), rondo::finish_reason_name(out.finish));
      std::fflush(stdout);
      clients.erase(out.sequence);
      engine.remove(out.sequence);
    }
  }
}

int main(int argc, char** argv) try {
  if (argc != 2) return std::fprintf(stderr, "usage: server CHECKPOINT\n"), 2;
  rondo::EngineOptions options;
  options.max_sequences = 8;
  rondo::Engine engine = rondo::Engine::open(argv[1], options);
  Inbox inbox;
  const std::jthread reader([&inbox] {
    for (std::string line; std::getline(std::cin, line);) inbox.put(line);
    inbox.close();
  });
  serve(engine, inbox);
} catch (const rondo::Error& error) {
  return std::fprintf(stderr, "server: %s\n", error.what()), 2;
}
