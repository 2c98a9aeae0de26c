// One sequence as the scheduler keeps it, and what its slot tells the device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "buffers/step_buffers.h"
#include "runner/engine.h"

namespace rondo {

// A page whose content goes to another before the next step writes to that; `from` stays held until it has.
struct PageCopy {
  int32_t from = 0;
  int32_t to = 0;
};

struct Sequence {
  enum class State { Waiting, Running, Ended };
  SequenceId id = 0;
  State state = State::Waiting;
  FinishReason finish = FinishReason::None;
  uint64_t arrival = 0;         // among equals of priority, the smaller goes first
  std::vector<int32_t> tokens;  // the prompt's first
  int64_t prompt_length = 0;
  int64_t max_length = 0;  // of tokens; reaching it is FinishReason::Length
  int64_t cached = 0;      // tokens whose K and V are in pages

  // of the request
  Sampling sampling;
  std::vector<int32_t> stop_ids;  // sorted; the model's own among them unless ignored
  std::vector<std::vector<int32_t>> stop_sequences;
  int min_new_tokens = 0;
  int priority = 0;
  int draft_tokens = 0;
  int draft_ngram = 0;
  LogitsCallback on_logits;

  int slot = 0;               // 0: none
  bool slot_written = false;  // the device knows the slot's parameters, and its pages up to
  int64_t tabled = 0;         // this many
  std::vector<int32_t> pages;
  std::vector<PageCopy> copies;
  std::vector<uint64_t> chain;  // the prefix cache's names of its first pages, as far as they are full
  SequenceId after = 0;         // a fork: of the sequence whose K and V it waits for

  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - cached; }
  int64_t generated() const { return static_cast<int64_t>(tokens.size()) - prompt_length; }
};

// `last_position`: of any sequence.
SlotParams slot_params(const Sequence& sequence, int64_t last_position);
// The slot's bias list: logit_bias, then the stop ids that min_new_tokens holds back.
std::vector<SlotBias> slot_biases(const Sequence& sequence);

// Throw InvalidArgument naming what was expected and found, and ContextFull for a prompt that cannot fit.
void check_request(const Request& request, const StepDims& dims, const std::vector<int32_t>& eos_token_ids);
void check_sampling(const Sampling& sampling, int64_t vocab_size);
// `held_back`: stop ids that min_new_tokens holds back.
void check_biases(const Sampling& sampling, size_t held_back);
void check_tokens(const char* what, std::span<const int32_t> tokens, int64_t vocab_size);

// What a request asks for; neither id nor state.
Sequence make_sequence(const Request& request, const std::vector<int32_t>& eos_token_ids);

}  // namespace rondo
