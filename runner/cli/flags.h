// Flags that several commands have, and how a flag's text is read. Internal to the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <limits>
#include <string>

#include "runner/cli/numbers.h"
#include "runner/cli/options.h"

namespace rondo::cli {

// As given, before the checks that need more than one option.
struct ModelFlags {
  std::string model;
  std::string config;
  bool random_weights = false;
  bool weights_seed_given = false;
  bool max_sequences_given = false;
  EngineOptions engine;
};

constexpr int kMaxInt = std::numeric_limits<int>::max();

[[noreturn]] void refuse_flags(const std::string& message);

using Handler = std::function<void(const std::string& text)>;

// CLI11 finds the option; the text goes to `handler` untouched (CLI11's own conversions read 010 as 8 and {}
// as nothing).
CLI::Option* add_text(CLI::App* app, const std::string& name, const std::string& type,
                      const std::string& help, Handler handler);

template <class T>
CLI::Option* add_integer(CLI::App* app, const std::string& name, T* value, int64_t low, int64_t high,
                         const std::string& help) {
  return add_text(app, name, "N", help, [=](const std::string& text) {
    *value = static_cast<T>(parse_integer(name, text, low, high));
  });
}

// --model and --config; --random-weights, --weights-seed and --device.
void add_path_flags(CLI::App* app, ModelFlags* flags);
void add_weights_flags(CLI::App* app, ModelFlags* flags);
void add_tune_flag(CLI::App* app, EngineOptions* engine);

// Throws Error (InvalidArgument) for flags that do not fit together.
Target checked_target(const ModelFlags& flags, bool needs_weights);

}  // namespace rondo::cli
