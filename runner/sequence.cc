#include "runner/sequence.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace rondo {
namespace {

static_assert(kMaxBiases == kMaxSlotBiases && kMaxTopLogprobs == kMaxTopTokens);

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kMaxNgram = 16;

// Written so that NaN fails.
void check_number(const char* what, float found, bool good, const char* expected) {
  if (!good || !std::isfinite(found))
    throw Error(ErrorKind::InvalidArgument, fmt::format("{}: expected {}, found {}", what, expected, found));
}

void check_count(const char* what, int64_t found, int64_t low, int64_t high) {
  if (found < low || found > high)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("{}: expected {} to {}, found {}", what, low, high, found));
}

std::vector<int32_t> all_stop_ids(const Request& request, const std::vector<int32_t>& eos_token_ids) {
  std::vector<int32_t> ids = request.stop_ids;
  if (!request.ignore_eos) ids.insert(ids.end(), eos_token_ids.begin(), eos_token_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

SlotParams slot_params(const Sequence& sequence, int64_t last_position) {
  const Sampling& s = sequence.sampling;
  SlotParams params;
  params.temperature = s.temperature;
  params.top_p = s.top_p;
  params.min_p = s.min_p;
  params.repetition_penalty = s.repetition_penalty;
  params.frequency_penalty = s.frequency_penalty;
  params.presence_penalty = s.presence_penalty;
  params.top_k = s.top_k;
  params.seed_low = static_cast<uint32_t>(s.seed);
  params.seed_high = static_cast<uint32_t>(s.seed >> 32);
  params.prompt_length = static_cast<int32_t>(sequence.prompt_length);
  params.biases = static_cast<int32_t>(s.logit_bias.size());
  if (sequence.min_new_tokens > 0) {
    params.held_back = static_cast<int32_t>(sequence.stop_ids.size());
    const int64_t length = sequence.prompt_length + sequence.min_new_tokens;
    params.min_length = static_cast<int32_t>(std::min<int64_t>(length, std::numeric_limits<int32_t>::max()));
  }
  params.top_logprobs = s.top_logprobs;
  params.last_position = static_cast<int32_t>(last_position);
  return params;
}

std::vector<SlotBias> slot_biases(const Sequence& sequence) {
  std::vector<SlotBias> list;
  for (const TokenBias& bias : sequence.sampling.logit_bias) list.push_back({bias.token, bias.bias});
  if (sequence.min_new_tokens > 0)
    for (int32_t token : sequence.stop_ids) list.push_back({token, kNever});
  return list;
}

void check_tokens(const char* what, std::span<const int32_t> tokens, int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_size)
      throw Error(ErrorKind::InvalidArgument, fmt::format("{}[{}]: expected a token id of 0 to {}, found {}",
                                                          what, i, vocab_size - 1, tokens[i]));
}

void check_sampling(const Sampling& s, int64_t vocab_size) {
  check_number("temperature", s.temperature, s.temperature >= 0, "0 (greedy) or more");
  check_number("top_p", s.top_p, s.top_p > 0 && s.top_p <= 1, "more than 0 and at most 1");
  check_number("min_p", s.min_p, s.min_p >= 0 && s.min_p <= 1, "0 to 1");
  check_number("repetition_penalty", s.repetition_penalty, s.repetition_penalty > 0, "more than 0");
  check_number("presence_penalty", s.presence_penalty, true, "a finite number");
  check_number("frequency_penalty", s.frequency_penalty, true, "a finite number");
  if (s.top_k < 0 || s.top_k > vocab_size)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("top_k: expected 0 (off) to vocab_size = {}, found {}", vocab_size, s.top_k));
  check_count("top_logprobs", s.top_logprobs, 0, kMaxTopLogprobs);
  check_count("logit_bias: entries", static_cast<int64_t>(s.logit_bias.size()), 0, kMaxBiases);
  std::set<int32_t> tokens;
  for (const TokenBias& bias : s.logit_bias) {
    check_tokens("logit_bias", {&bias.token, 1}, vocab_size);
    if (!tokens.insert(bias.token).second)
      throw Error(ErrorKind::InvalidArgument,
                  fmt::format("logit_bias: expected each token once, found token {} twice", bias.token));
    if (bias.bias != kNever) check_number("logit_bias", bias.bias, true, "a finite number or -infinity");
  }
}

void check_biases(const Sampling& sampling, size_t held_back) {
  if (sampling.logit_bias.size() + held_back > kMaxBiases)
    throw Error(ErrorKind::InvalidArgument, fmt::format("logit_bias and, with min_new_tokens, the stop ids: "
                                                        "expected at most {} together, found {} and {}",
                                                        kMaxBiases, sampling.logit_bias.size(), held_back));
}

void check_request(const Request& request, const StepDims& dims, const std::vector<int32_t>& eos_token_ids) {
  if (request.prompt.empty())
    throw Error(ErrorKind::InvalidArgument, "prompt: expected at least one token id, found none");
  check_tokens("prompt", request.prompt, dims.vocab_size);
  check_tokens("stop_ids", request.stop_ids, dims.vocab_size);
  if (request.max_new_tokens < 0)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("max_new_tokens: expected 0 or more, found {}", request.max_new_tokens));
  check_count("min_new_tokens", request.min_new_tokens, 0, request.max_new_tokens);
  check_sampling(request.sampling, dims.vocab_size);
  for (const auto& stop : request.stop_sequences) {
    if (stop.empty())
      throw Error(ErrorKind::InvalidArgument,
                  "stop_sequences: expected at least one token id in each, found none");
    check_tokens("stop_sequences", stop, dims.vocab_size);
  }
  check_biases(request.sampling,
               request.min_new_tokens > 0 ? all_stop_ids(request, eos_token_ids).size() : 0);
  check_count("draft_tokens", request.draft_tokens, 0, dims.max_rows());
  check_count("draft_ngram", request.draft_ngram, 1, kMaxNgram);
  if (static_cast<int64_t>(request.prompt.size()) > dims.max_context)
    throw Error(ErrorKind::ContextFull,
                fmt::format("prompt: {} tokens, and a sequence holds {} (max_context)", request.prompt.size(),
                            dims.max_context));
}

Sequence make_sequence(const Request& request, const std::vector<int32_t>& eos_token_ids) {
  Sequence sequence;
  sequence.tokens = request.prompt;
  sequence.sampling = request.sampling;
  sequence.stop_ids = all_stop_ids(request, eos_token_ids);
  sequence.stop_sequences = request.stop_sequences;
  sequence.min_new_tokens = request.min_new_tokens;
  sequence.priority = request.priority;
  sequence.draft_tokens = request.draft_tokens;
  sequence.draft_ngram = request.draft_ngram;
  sequence.on_logits = request.on_logits;
  return sequence;
}

}  // namespace rondo
