// Guesses at a sequence's next tokens that cost nothing to make.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rondo {

// Where the last `ngram` tokens occurred before, what followed there: at most `count` tokens, of the latest
// occurrence. Where there is none, the same with one token less in the n-gram, down to one; else nothing.
std::vector<int32_t> prompt_lookup(std::span<const int32_t> tokens, int ngram, int count);

}  // namespace rondo
