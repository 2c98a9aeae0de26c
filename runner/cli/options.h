// The command line, parsed and checked: what a command gets is complete and within its limits.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runner/bench/options.h"
#include "runner/bench/report.h"
#include "runner/bench/trace.h"
#include "runner/engine.h"

namespace rondo::cli {

// Which model, and the engine it runs on. `path` is a checkpoint directory or a config.json.
struct Target {
  std::string path;
  EngineOptions engine;
};

// One sequence of the batch, either text or token ids; neither is empty in the form that was given.
struct Prompt {
  bool is_text = false;
  std::string text;
  std::vector<int32_t> ids;
};

struct GenerateOptions {
  Target target;
  std::vector<Prompt> prompts;  // in the order of the command line
  Request request;              // of every sequence; prompt is still empty, sequence i samples with seed + i
  bool json = false;
  bool lines = false;   // no prompts: requests come on standard input, one JSON object a line
  bool stream = false;  // with lines: a line per token
};

struct ScoreOptions {
  Target target;
  Prompt prompt;
  int64_t top = 0;  // likeliest next tokens to show
  bool json = false;
};

struct TokenizeOptions {
  std::string model;               // directory with a tokenizer.json
  std::vector<std::string> texts;  // empty: JSON lines on standard input
  bool no_special_tokens = false;  // around texts
};

struct InspectOptions {
  Target target;
  bool json = false;
};

struct BenchOptions {
  bench::Options bench;
  bench::Format format = bench::Format::Md;
  std::string output;  // a file; empty: standard output
};

struct TraceOptions {
  bench::TraceOptions trace;
  std::string output;
};

struct DoctorOptions {};

// Not a command: --help or --version was asked for, and this is the answer.
struct Help {
  std::string text;
};

using Command = std::variant<GenerateOptions, ScoreOptions, TokenizeOptions, InspectOptions, BenchOptions,
                             TraceOptions, DoctorOptions, Help>;

// Throws Error (InvalidArgument) that names the option, what it expects and what it found.
Command parse_command_line(int argc, const char* const* argv);

}  // namespace rondo::cli
