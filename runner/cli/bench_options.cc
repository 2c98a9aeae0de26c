#include "runner/cli/bench_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace rondo::cli {
namespace {

constexpr int64_t kMostRows = 4096;
constexpr int64_t kMostContext = 131072;
constexpr int64_t kMostSamples = 1'000'000;

bench::Format format_of(const std::string& text) {
  if (text == "md") return bench::Format::Md;
  if (text == "csv") return bench::Format::Csv;
  if (text == "json") return bench::Format::Json;
  if (text == "jsonl") return bench::Format::Jsonl;
  refuse_flags(fmt::format("-o: expected md, csv, json or jsonl, found \"{}\"", text));
}

std::vector<bench::Mode> modes_of(const std::string& text) {
  std::vector<bench::Mode> modes;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string name = text.substr(begin, comma - begin);
    begin = comma + 1;
    if (name == "eager") {
      modes.push_back(bench::Mode::Eager);
    } else if (name == "replay") {
      modes.push_back(bench::Mode::Replay);
    } else if (name == "ahead") {
      modes.push_back(bench::Mode::Ahead);
    } else {
      refuse_flags(
          fmt::format("--graph: expected eager, replay and ahead, divided by commas, found \"{}\"", text));
    }
  }
  return modes;
}

CLI::Option* add_ranges(CLI::App* app, const std::string& name, std::vector<int64_t>* values, int64_t low,
                        int64_t high, const std::string& help) {
  return add_text(app, name, "1-8,16", help,
                  [=](const std::string& text) { *values = parse_ranges(name, text, low, high); });
}

void add_output(CLI::App* app, std::string* output, const std::string& help) {
  add_text(app, "--output", "FILE", help, [output](const std::string& text) {
    if (text.empty()) refuse_flags("--output: expected a file's name, found none");
    *output = text;
  });
}

}  // namespace

BenchCommand::BenchCommand(CLI::App* main) {
  app_ = main->add_subcommand("bench", "Time whole steps, eager and replayed, against the speed of memory");
  add_path_flags(app_, &model_);
  add_weights_flags(app_, &model_);
  bench::Options* bench = &options_.bench;
  rows_ = add_ranges(app_, "--rows", &bench->rows, 1, kMostRows, "Sequences that decode at once [1]");
  context_ = add_ranges(app_, "--context", &bench->contexts, 1, kMostContext,
                        "Positions of each sequence [512, or the model's maximum]");
  add_ranges(app_, "--prompt", &bench->prompts, 1, kMostContext,
             "Prompts of so many tokens, in place of decoding "
             "unless --rows or --context is given");
  add_ranges(app_, "--threads", &bench->threads, 1, 1024, "Threads of the CPU backend [one per core]");
  add_text(app_, "--graph", "MODES", "eager, replay, ahead, divided by commas [all that the backend has]",
           [bench](const std::string& text) { bench->modes = modes_of(text); });
  app_->add_flag("--kernels", bench->verbs, "Each verb of the step alone, in place of whole steps");
  add_tune_flag(app_, &model_.engine);
  add_integer(app_, "--steps", &bench->steps, 1, kMostSamples, "Samples of each repeat [100; on the cpu 10]");
  add_integer(app_, "--repeat", &bench->repeat, 1, 1000, "Repeats of each cell [3]");
  add_integer(app_, "--warmup", &bench->warmup, 0, kMostSamples,
              "Steps before each repeat that do not count [5]");
  add_integer(app_, "--max-rows", &bench->max_rows, 1, kMostRows,
              "A longer prompt is cut into steps of so many rows [512]");
  add_integer(app_, "--max-context", &model_.engine.max_context, 1, kMostContext,
              "Positions that the engine is made for [the largest --context or --prompt]");
  add_integer(app_, "--ceiling-bytes", &bench->ceiling_bytes, 4096, std::numeric_limits<int64_t>::max(),
              "Bytes read to find the read ceiling [4 GiB; on the cpu the weights]");
  add_text(app_, "-o", "FORMAT", "md, csv, json or jsonl [md]",
           [this](const std::string& text) { options_.format = format_of(text); });
  add_output(app_, &options_.output,
             "Where the results go in that format; standard output then has the md tables");
}

BenchOptions BenchCommand::options() {
  const Target target = checked_target(model_, true);
  options_.bench.path = target.path;
  options_.bench.engine = target.engine;
  options_.bench.decode = options_.bench.prompts.empty() || rows_->count() + context_->count() > 0;
  if (options_.bench.verbs && !options_.bench.prompts.empty())
    refuse_flags("--kernels: expected --rows and --context with it, found --prompt");
  return options_;
}

TraceCommand::TraceCommand(CLI::App* main) {
  app_ = main->add_subcommand(
      "trace",
      "One step as a timeline for Perfetto or chrome://tracing: its verbs by layer, timed "
      "by events on the eager twin of the recorded step");
  add_path_flags(app_, &model_);
  add_weights_flags(app_, &model_);
  bench::TraceOptions* trace = &options_.trace;
  add_integer(app_, "--rows", &trace->rows, 1, kMostRows, "Sequences that decode at once [1]");
  add_integer(app_, "--context", &trace->context, 1, kMostContext,
              "Positions of each [512, or the model's maximum]");
  add_integer(app_, "--threads", &model_.engine.threads, 1, 1024,
              "Threads of the CPU backend [one per core]");
  add_tune_flag(app_, &model_.engine);
  add_output(app_, &options_.output, "Where the timeline goes (JSON)");
  add_text(app_, "--dot", "FILE", "Also the recorded graph, for Graphviz (CUDA)",
           [trace](const std::string& text) {
             if (text.empty()) refuse_flags("--dot: expected a file's name, found none");
             trace->dot = text;
           });
}

TraceOptions TraceCommand::options() {
  const Target target = checked_target(model_, true);
  options_.trace.path = target.path;
  options_.trace.engine = target.engine;
  if (options_.output.empty()) refuse_flags("trace: expected --output FILE, found none");
  return options_;
}

}  // namespace rondo::cli
