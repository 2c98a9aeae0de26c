#include "runner/drafting.h"

#include <algorithm>

namespace rondo {

std::vector<int32_t> prompt_lookup(std::span<const int32_t> tokens, int ngram, int count) {
  const auto length = static_cast<int64_t>(tokens.size());
  // One pass from the end: the longest match wins, and among equals the latest.
  int64_t best = 0, best_end = 0;
  for (int64_t end = length - 1; end > 0 && best < ngram; --end) {
    int64_t matched = 0;
    while (matched < ngram && matched < end &&
           tokens[static_cast<size_t>(end - 1 - matched)] ==
               tokens[static_cast<size_t>(length - 1 - matched)])
      ++matched;
    if (matched > best) {
      best = matched;
      best_end = end;
    }
  }
  if (best == 0 || count <= 0) return {};
  const auto first = tokens.begin() + best_end;
  return {first, first + std::min<int64_t>(count, length - best_end)};
}

}  // namespace rondo
