// A server in one loop: every line of stdin is a prompt, and is answered beside all others that are under
// way.
//
//   printf '36+79=\nreverse stressed=\nsay 773=\n' | ./server models/demo
//
// One thread steps the engine; requests come from another, as they would from a server's connections. A token
// is a byte here.
#include <rondo/engine.h>

#include <atomic>
#include <cstdio>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>

struct Client {
  int line = 0;
  std::string text;
};

struct Clients {
  std::mutex mutex;
  std::map<rondo::SequenceId, Client> by_sequence;
};

static void read_requests(rondo::Engine& engine, Clients& clients, std::atomic<bool>& open) {
  int number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    rondo::Request request;
    for (const char c : line) request.prompt.push_back(static_cast<unsigned char>(c));
    request.max_new_tokens = 64;
    // Locked around add(): the first token may be there before add() has returned.
    const std::lock_guard lock(clients.mutex);
    try {
      clients.by_sequence[engine.add(request)] = {number, line};
    } catch (const rondo::Error& error) {  // this request alone is refused
      std::printf("[%d] %s: %s\n", number, rondo::error_kind_name(error.kind()), error.what());
    }
  }
  open = false;
}

static void serve(rondo::Engine& engine, Clients& clients, const std::atomic<bool>& open) {
  while (open || engine.busy()) {
    if (!engine.wait(0.1)) continue;
    for (const rondo::Output& out : engine.step()) {
      const std::lock_guard lock(clients.mutex);
      Client& client = clients.by_sequence.at(out.sequence);
      if (out.token >= 0 && out.finish != rondo::FinishReason::Stop)
        client.text += static_cast<char>(out.token);
      if (out.finish == rondo::FinishReason::None) continue;
      std::printf("[%d] %s (%s)\n", client.line, client.text.c_str(), rondo::finish_reason_name(out.finish));
      std::fflush(stdout);
      clients.by_sequence.erase(out.sequence);
      engine.remove(out.sequence);
    }
  }
}

int main(int argc, char** argv) try {
  if (argc != 2) return std::fprintf(stderr, "usage: server CHECKPOINT\n"), 2;
  rondo::EngineOptions options;
  options.max_sequences = 8;
  rondo::Engine engine = rondo::Engine::open(argv[1], options);
  Clients clients;
  std::atomic<bool> open = true;
  const std::jthread reader([&] { read_requests(engine, clients, open); });
  serve(engine, clients, open);
} catch (const rondo::Error& error) {
  return std::fprintf(stderr, "server: %s\n", error.what()), 2;
}
