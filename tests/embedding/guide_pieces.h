// What the pieces of C++ in docs/embedding.md stand on; guide_test.sh puts them behind this.
#include <rondo/engine.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

[[maybe_unused]] static std::vector<int32_t> ids(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

using Piece = void (*)(rondo::Engine&);

static int run_piece(const std::vector<std::pair<const char*, Piece>>& pieces, const char* name) try {
  rondo::EngineOptions options;
  options.device = rondo::DeviceKind::Cpu;
  options.max_sequences = 4;
  rondo::Engine engine = rondo::Engine::open("models/demo", options);
  for (const auto& [number, piece] : pieces)
    if (std::strcmp(number, name) == 0) return piece(engine), 0;
  return 2;
} catch (const rondo::Error& error) {
  std::printf("%s\n", error.what());
  return 1;
}
