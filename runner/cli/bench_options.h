// The command lines of `rondo bench` and `rondo trace`.
#pragma once

#include "runner/cli/flags.h"

namespace rondo::cli {

class BenchCommand {
 public:
  explicit BenchCommand(CLI::App* main);
  bool parsed() const { return app_->parsed(); }
  BenchOptions options();

 private:
  CLI::App* app_;
  CLI::Option* rows_;
  CLI::Option* context_;
  ModelFlags model_;
  BenchOptions options_;
};

class TraceCommand {
 public:
  explicit TraceCommand(CLI::App* main);
  bool parsed() const { return app_->parsed(); }
  TraceOptions options();

 private:
  CLI::App* app_;
  ModelFlags model_;
  TraceOptions options_;
};

}  // namespace rondo::cli
