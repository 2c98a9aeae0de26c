#include "runner/cli/sampling_flags.h"

#include <algorithm>
#include <limits>

#include "runner/cli/flags.h"

namespace rondo::cli {
namespace {

constexpr float kMaxReal = std::numeric_limits<float>::max();
constexpr float kMinReal = std::numeric_limits<float>::min();  // the least above 0 that is not subnormal
constexpr RealRange kFinite = {-kMaxReal, kMaxReal, "a finite number"};

void add_real(CLI::App* app, const std::string& name, float* value, const RealRange& range,
              const std::string& help) {
  add_text(app, name, "X", help, [=](const std::string& text) { *value = parse_real(name, text, range); });
}

}  // namespace

void add_sampling_flags(CLI::App* app, Sampling* sampling) {
  add_real(app, "--temperature", &sampling->temperature, {0, kMaxReal, "a number of 0 or more"},
           "0 is greedy [0]");
  add_integer(app, "--top-k", &sampling->top_k, 0, kMaxInt, "Sample from the K likeliest; 0 is off [0]");
  add_real(app, "--top-p", &sampling->top_p, {kMinReal, 1, "a number above 0 and at most 1"},
           "Sample from the likeliest that make up this share [1]");
  add_real(app, "--min-p", &sampling->min_p, {0, 1, "a number from 0 to 1"},
           "Drop what is less likely than this share of the likeliest [0]");
  add_real(app, "--repetition-penalty", &sampling->repetition_penalty,
           {kMinReal, kMaxReal, "a number above 0"}, "1 is off [1]");
  add_real(app, "--presence-penalty", &sampling->presence_penalty, kFinite,
           "Taken once from the logit of every token that was made [0]");
  add_real(app, "--frequency-penalty", &sampling->frequency_penalty, kFinite,
           "Taken as often as the token was made [0]");
  add_text(app, "--seed", "N", "Sequence i samples with seed N + i [0]",
           [sampling](const std::string& text) { sampling->seed = parse_seed("--seed", text); });
}

void add_draft_flags(CLI::App* app, Request* request) {
  add_integer(app, "--draft-tokens", &request->draft_tokens, 0, kMaxInt,
              "Check up to N tokens that followed the last ones before, in one step; 0 is off [0]");
  add_integer(app, "--draft-ngram", &request->draft_ngram, 1, 16, "Of how many last tokens, at most [3]");
}

void make_room_for_drafts(const Request& request, EngineOptions* engine) {
  if (request.draft_tokens == 0) return;
  const int64_t rows = int64_t{engine->max_sequences} * (1 + int64_t{request.draft_tokens});
  engine->max_logit_rows = static_cast<int>(std::min<int64_t>(rows, engine->max_rows));
}

}  // namespace rondo::cli
