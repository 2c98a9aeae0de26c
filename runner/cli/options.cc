#include "runner/cli/options.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <limits>
#include <memory>

#include "runner/cli/bench_options.h"
#include "runner/cli/flags.h"
#include "runner/cli/sampling_flags.h"
#include "runner/cli/tokenize_options.h"

namespace rondo::cli {
namespace {

// --prompt and --prompt-ids are collected apart and put in order afterwards.
struct PromptFlags {
  CLI::Option* text = nullptr;
  CLI::Option* ids = nullptr;
};

}  // namespace

CLI::Option* add_text(CLI::App* app, const std::string& name, const std::string& type,
                      const std::string& help, Handler handler) {
  CLI::callback_t each = [handler = std::move(handler)](const CLI::results_t& texts) {
    for (const std::string& text : texts) handler(text);
    return true;
  };
  return app->add_option(name, std::move(each), help)->type_name(type);
}

void refuse_flags(const std::string& message) { throw Error(ErrorKind::InvalidArgument, message); }

namespace {

void set_device(const std::string& text, EngineOptions& engine) {
  engine.device_index = 0;
  if (text == "auto") {
    engine.device = DeviceKind::Auto;
  } else if (text == "cpu") {
    engine.device = DeviceKind::Cpu;
  } else if (text == "cuda" || text.starts_with("cuda:")) {
    engine.device = DeviceKind::Cuda;
    if (text != "cuda")
      engine.device_index = static_cast<int>(parse_integer("--device cuda:N", text.substr(5), 0, 1023));
  } else {
    refuse_flags(fmt::format("--device: expected auto, cpu, cuda or cuda:N, found \"{}\"", text));
  }
}

void set_graph(const std::string& text, EngineOptions& engine) {
  if (text == "auto") {
    engine.graph = GraphMode::Auto;
  } else if (text == "require") {
    engine.graph = GraphMode::Require;
  } else if (text == "lazy") {
    engine.graph = GraphMode::Lazy;
  } else if (text == "off") {
    engine.graph = GraphMode::Off;
  } else {
    refuse_flags(fmt::format("--graph: expected auto, require, lazy or off, found \"{}\"", text));
  }
}

}  // namespace

void add_path_flags(CLI::App* app, ModelFlags* flags) {
  add_text(app, "--model", "DIR", "A Hugging Face checkpoint directory",
           [=](const std::string& text) { flags->model = text; });
  add_text(app, "--config", "FILE", "A config.json, in place of --model",
           [=](const std::string& text) { flags->config = text; });
}

void add_weights_flags(CLI::App* app, ModelFlags* flags) {
  EngineOptions* engine = &flags->engine;
  app->add_flag("--random-weights", flags->random_weights,
                "With --config: the shape, filled with random weights");
  add_text(app, "--weights-seed", "N", "Seed of --random-weights [0]", [=](const std::string& text) {
    engine->weights_seed = parse_seed("--weights-seed", text);
    flags->weights_seed_given = true;
  });
  add_text(app, "--device", "DEVICE", "auto, cpu, cuda or cuda:N [auto]",
           [=](const std::string& text) { set_device(text, *engine); });
}

namespace {

void add_model_flags(CLI::App* app, ModelFlags* flags) {
  EngineOptions* engine = &flags->engine;
  add_path_flags(app, flags);
  add_integer(app, "--max-rows", &engine->max_rows, 1, kMaxInt,
              "Rows (tokens) per step, the largest bucket [64]");
  add_integer(app, "--max-context", &engine->max_context, 1, std::numeric_limits<int64_t>::max(),
              "Positions per sequence [the model's maximum, at most 4096]");
  add_integer(app, "--kv-positions", &engine->kv_positions, 1, std::numeric_limits<int64_t>::max(),
              "Positions of all sequences together, for which there is K/V memory [--max-context for each]");
}

void add_max_sequences(CLI::App* app, ModelFlags* flags) {
  add_text(
      app, "--max-sequences", "N", "Sequences decoding at once; more wait in a queue [as given, at most 16]",
      [=](const std::string& text) {
        flags->engine.max_sequences = static_cast<int>(parse_integer("--max-sequences", text, 1, kMaxInt));
        flags->max_sequences_given = true;
      });
}

void add_run_flags(CLI::App* app, ModelFlags* flags) {
  EngineOptions* engine = &flags->engine;
  add_weights_flags(app, flags);
  add_text(app, "--graph", "MODE",
           "auto (capture at start where there are graphs), require, lazy or off [auto]",
           [=](const std::string& text) { set_graph(text, *engine); });
  app->add_flag("!--no-launch-ahead", engine->launch_ahead,
                "A step is enqueued only when the one in front has been made");
  add_tune_flag(app, engine);
  add_integer(app, "--threads", &engine->threads, 1, 4096, "Threads of the CPU backend [one per core]");
}

PromptFlags add_prompt_flags(CLI::App* app) {
  const auto keep = [](const std::string&) {};
  PromptFlags flags;
  flags.text =
      add_text(app, "--prompt", "TEXT", "A prompt as text, by the model's tokenizer.json", keep)->take_all();
  flags.ids = add_text(app, "--prompt-ids", "1,2,3", "A prompt as token ids", keep)->take_all();
  return flags;
}

std::vector<Prompt> prompts_in_order(const CLI::App& app, const PromptFlags& flags) {
  std::vector<Prompt> prompts;
  size_t texts = 0;
  size_t lists = 0;
  for (const CLI::Option* option : app.parse_order()) {
    Prompt prompt;
    if (option == flags.text) {
      prompt.is_text = true;
      prompt.text = option->results().at(texts++);
      if (prompt.text.empty()) refuse_flags("--prompt: expected at least one byte of text, found none");
    } else if (option == flags.ids) {
      prompt.ids = parse_ids("--prompt-ids", option->results().at(lists++));
    } else {
      continue;
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace

void add_tune_flag(CLI::App* app, EngineOptions* engine) {
  add_text(
      app, "--tune", "off|on",
      "Time the forms of each verb on the device at the start, and take the fastest of each [off: the same "
      "kernels every time]",
      [=](const std::string& text) {
        if (text != "off" && text != "on")
          refuse_flags(fmt::format("--tune: expected off or on, found \"{}\"", text));
        engine->tune = text == "on";
      });
}

Target checked_target(const ModelFlags& flags, bool needs_weights) {
  const bool model = !flags.model.empty();
  const bool config = !flags.config.empty();
  if (model == config) {
    refuse_flags(
        fmt::format("expected either --model DIR or --config FILE, found {}", model ? "both" : "neither"));
  }
  if (flags.random_weights && !config)
    refuse_flags("--random-weights: expected --config FILE with it, found --model");
  if (flags.weights_seed_given && !flags.random_weights)
    refuse_flags("--weights-seed: expected --random-weights with it");
  if (needs_weights && config && !flags.random_weights) {
    refuse_flags(
        "--config: a config.json holds no weights: add --random-weights, or name a checkpoint by --model "
        "DIR");
  }
  Target target;
  target.path = model ? flags.model : flags.config;
  target.engine = flags.engine;
  target.engine.random_weights = flags.random_weights;
  return target;
}

namespace {

// Whether someone has something to say: not at a terminal, nor with /dev/null.
bool input_is_piped() {
  struct stat status;
  return fstat(STDIN_FILENO, &status) == 0 &&
         (S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode));
}

// One command: its flags, and how to make its options once they are parsed.
class GenerateCommand {
 public:
  explicit GenerateCommand(CLI::App* main) {
    app_ = main->add_subcommand("generate", "Decode from one or more prompts");
    add_model_flags(app_, &model_);
    add_max_sequences(app_, &model_);
    add_run_flags(app_, &model_);
    prompts_ = add_prompt_flags(app_);
    add_integer(app_, "--max-new-tokens", &options_.request.max_new_tokens, 0, kMaxInt,
                "Tokens per sequence [128]");
    add_sampling_flags(app_, &options_.request.sampling);
    add_draft_flags(app_, &options_.request);
    add_text(app_, "--stop-ids", "1,2,3", "Token ids that end a sequence, beside the model's own",
             [this](const std::string& text) {
               for (int32_t id : parse_ids("--stop-ids", text)) options_.request.stop_ids.push_back(id);
             })
        ->take_all();
    app_->add_flag("--ignore-eos", options_.request.ignore_eos,
                   "The model's own end-of-sequence ids do not stop it");
    app_->add_flag("--one-launch", model_.engine.one_launch,
                   "Many steps by one launch of a graph that loops, where the GPU's driver has them");
    app_->add_flag("--json", options_.json, "One JSON document at the end, in place of text");
    app_->add_flag("--jsonl", options_.lines,
                   "Requests from standard input, one JSON object a line; so it is without a prompt where "
                   "standard input is a pipe or a file");
    app_->add_flag("--stream", options_.stream, "With --jsonl: a line per token, too");
  }

  bool parsed() const { return app_->parsed(); }

  GenerateOptions options() {
    options_.prompts = prompts_in_order(*app_, prompts_);
    options_.lines |= options_.prompts.empty() && !options_.json && input_is_piped();
    if (options_.prompts.empty() && !options_.lines)
      refuse_flags(
          "generate: expected at least one --prompt or --prompt-ids, or lines on standard input, found none");
    if (options_.lines && (!options_.prompts.empty() || options_.json))
      refuse_flags("--jsonl: expected no --prompt, --prompt-ids or --json beside it");
    if (options_.lines && model_.engine.one_launch)
      refuse_flags(
          "--one-launch: expected prompts, found lines on standard input, which may come at any time");
    if (options_.stream && !options_.lines) refuse_flags("--stream: expected --jsonl with it");
    // K/V memory is set aside for every sequence at once: no more of them than there are prompts.
    if (!model_.max_sequences_given && !options_.lines &&
        options_.prompts.size() < static_cast<size_t>(model_.engine.max_sequences)) {
      model_.engine.max_sequences = static_cast<int>(options_.prompts.size());
    }
    make_room_for_drafts(options_.request, &model_.engine);
    options_.target = checked_target(model_, true);
    return options_;
  }

 private:
  CLI::App* app_;
  ModelFlags model_;
  PromptFlags prompts_;
  GenerateOptions options_;
};

class ScoreCommand {
 public:
  explicit ScoreCommand(CLI::App* main) {
    app_ =
        main->add_subcommand("score", "Log-probabilities of a prompt's tokens, and the likeliest next ones");
    add_model_flags(app_, &model_);
    add_run_flags(app_, &model_);
    prompts_ = add_prompt_flags(app_);
    add_integer(app_, "--top", &options_.top, 0, kMaxInt,
                "Show the K likeliest next tokens of each position [0]");
    app_->add_flag("--json", options_.json, "One JSON document in place of a table");
  }

  bool parsed() const { return app_->parsed(); }

  ScoreOptions options() {
    const std::vector<Prompt> prompts = prompts_in_order(*app_, prompts_);
    if (prompts.size() != 1) {
      refuse_flags(fmt::format("score: expected one --prompt or --prompt-ids, found {}", prompts.size()));
    }
    options_.prompt = prompts.front();
    model_.engine.max_sequences = 1;
    model_.engine.max_logit_rows = model_.engine.max_rows;  // every row's logits are read
    options_.target = checked_target(model_, true);
    return options_;
  }

 private:
  CLI::App* app_;
  ModelFlags model_;
  PromptFlags prompts_;
  ScoreOptions options_;
};

class InspectCommand {
 public:
  explicit InspectCommand(CLI::App* main) {
    app_ = main->add_subcommand("inspect", "The memory plan, to the byte, touching no device");
    app_->footer(
        "The totals are what the engine allocates on the device for weights, K/V pages and the step.\n"
        "On top come the driver's context and graphs, and memory of the host.");
    add_model_flags(app_, &model_);
    add_integer(app_, "--max-sequences", &model_.engine.max_sequences, 1, kMaxInt,
                "Sequences decoding at once [16]");
    add_text(app_, "--device", "DEVICE", "cpu or cuda: whose plan [cuda]", [this](const std::string& text) {
      if (text != "cpu" && text != "cuda") {
        refuse_flags(fmt::format("--device: inspect plans for cpu or cuda, found \"{}\"", text));
      }
      set_device(text, model_.engine);
    });
    add_integer(app_, "--threads", &model_.engine.threads, 1, 4096,
                "Threads of the CPU backend [one per core]");
    app_->add_flag("--json", options_.json, "One JSON document in place of tables");
    model_.engine.device = DeviceKind::Cuda;
  }

  bool parsed() const { return app_->parsed(); }

  InspectOptions options() {
    options_.target = checked_target(model_, false);
    return options_;
  }

 private:
  CLI::App* app_;
  ModelFlags model_;
  InspectOptions options_;
};

}  // namespace

Command parse_command_line(int argc, const char* const* argv) {
  CLI::App app("rondo decodes large language models by replaying one captured step.", "rondo");
  app.set_version_flag("--version", std::string("rondo ") + version());
  app.require_subcommand(1);
  GenerateCommand generate(&app);
  ScoreCommand score(&app);
  TokenizeCommand tokenize(&app);
  InspectCommand inspect(&app);
  BenchCommand bench(&app);
  TraceCommand trace(&app);
  app.add_subcommand("doctor", "Devices, driver, toolkit, CPU features, and which backend auto takes");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return Help{app.help()};
  } catch (const CLI::CallForAllHelp&) {
    return Help{app.help("", CLI::AppFormatMode::All)};
  } catch (const CLI::CallForVersion& e) {
    return Help{std::string(e.what()) + "\n"};
  } catch (const CLI::RequiredError&) {
    refuse_flags(fmt::format(
        "expected one command: generate, score, tokenize, inspect, bench, trace or doctor, found {} (rondo "
        "--help says more)",
        argc > 1 ? fmt::format("\"{}\"", argv[1]) : "none"));
  } catch (const CLI::ParseError& e) {
    refuse_flags(fmt::format("{} (rondo --help says more)", e.what()));
  }
  if (generate.parsed()) return generate.options();
  if (score.parsed()) return score.options();
  if (tokenize.parsed()) return tokenize.options();
  if (inspect.parsed()) return inspect.options();
  if (bench.parsed()) return bench.options();
  if (trace.parsed()) return trace.options();
  return DoctorOptions{};
}

}  // namespace rondo::cli
