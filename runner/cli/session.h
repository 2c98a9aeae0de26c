// What the commands share: an open engine with its text, JSON of numbers and counters.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runner/cli/options.h"
#include "runner/cli/text.h"
#include "runner/engine.h"

namespace rondo::cli {

using Json = nlohmann::ordered_json;

struct Session {
  Engine engine;
  Text text;
  double load_ms = 0;
};

// Opens the engine, with progress on a terminal, and the model's text. Throws what Engine::open throws, or
// Interrupted.
Session open_session(const Target& target);

// A float as the shortest decimal that reads back as the same float; null where it is not finite.
Json number(float value);

// Milliseconds, to the microsecond.
Json milliseconds(double value);

Json stats_json(const Stats& stats);

// The document, indented, with a newline; bytes that are not UTF-8 become U+FFFD.
std::string document(const Json& json);
// The same on one line.
std::string json_line(const Json& json);

}  // namespace rondo::cli
