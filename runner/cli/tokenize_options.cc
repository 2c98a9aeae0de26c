#include "runner/cli/tokenize_options.h"

namespace rondo::cli {

TokenizeCommand::TokenizeCommand(CLI::App* main) {
  app_ = main->add_subcommand("tokenize",
                              "Text to token ids and back, by a tokenizer.json; no weights are read");
  add_text(app_, "--model", "DIR", "The directory that holds tokenizer.json",
           [this](const std::string& text) { options_.model = text; });
  add_text(app_, "--prompt", "TEXT",
           "Print its ids; without it {\"text\": ..} or {\"ids\": ..} a line of standard input",
           [this](const std::string& text) { options_.texts.push_back(text); })
      ->take_all();
  app_->add_flag("--no-special-tokens", options_.no_special_tokens, "No BOS or the like around --prompt");
}

TokenizeOptions TokenizeCommand::options() {
  if (options_.model.empty()) refuse_flags("tokenize: expected --model DIR, found none");
  return options_;
}

}  // namespace rondo::cli
