// The command line of `rondo tokenize`.
#pragma once

#include "runner/cli/flags.h"

namespace rondo::cli {

class TokenizeCommand {
 public:
  explicit TokenizeCommand(CLI::App* main);
  bool parsed() const { return app_->parsed(); }
  TokenizeOptions options();

 private:
  CLI::App* app_;
  TokenizeOptions options_;
};

}  // namespace rondo::cli
