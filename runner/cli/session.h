// What generate and score share: an open engine, prompts as token ids, JSON of numbers and counters.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/cli/options.h"
#include "runner/engine.h"

namespace rondo::cli {

using Json = nlohmann::ordered_json;

struct Session {
  Engine engine;
  double load_ms = 0;
};

// Opens the engine, with progress on a terminal. Throws what Engine::open throws, or Interrupted.
Session open_session(const Target& target);

// Whether a token is a byte: 256 byte values and room for a few special ids.
bool is_byte_level(const Engine& engine);

// Throws Error (InvalidArgument) for text where the vocabulary is not of bytes.
std::vector<int32_t> prompt_ids(const Prompt& prompt, const Engine& engine);

// The bytes of byte-level tokens; special ids have none.
std::string bytes_of(int32_t token);

// A float as the shortest decimal that reads back as the same float; null where it is not finite.
Json number(float value);

// Milliseconds, to the microsecond.
Json milliseconds(double value);

Json stats_json(const Stats& stats);

// The document, indented, with a newline; bytes that are not UTF-8 become U+FFFD.
std::string document(const Json& json);

}  // namespace rondo::cli
