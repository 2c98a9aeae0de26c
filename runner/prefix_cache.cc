#include "runner/prefix_cache.h"

#include <algorithm>

namespace rondo {

uint64_t PrefixCache::hash(Serial before, std::span<const int32_t> tokens) {
  uint64_t h = before * 0x9E3779B97F4A7C15u;
  for (int32_t token : tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0xFF51AFD7ED558CCDu;
    h ^= h >> 32;
  }
  return h;
}

PrefixCache::Found PrefixCache::find(Serial before, std::span<const int32_t> tokens) const {
  const auto [first, last] = entries_.equal_range(hash(before, tokens));
  for (auto it = first; it != last; ++it) {
    const Entry& entry = it->second;
    if (entry.before == before &&
        std::equal(tokens.begin(), tokens.end(), entry.tokens.begin(), entry.tokens.end()))
      return {entry.page, entry.serial};
  }
  return {};
}

PrefixCache::Serial PrefixCache::add(Serial before, std::span<const int32_t> tokens, int32_t page,
                                     bool& added) {
  const Found found = find(before, tokens);
  added = found.serial == 0;
  if (!added) return found.serial;
  const uint64_t h = hash(before, tokens);
  last_ += 2;  // even: roots are odd
  entries_.emplace(h, Entry{before, last_, page, {tokens.begin(), tokens.end()}});
  hash_of_page_[page] = h;
  return last_;
}

void PrefixCache::forget(int32_t page) {
  const auto known = hash_of_page_.find(page);
  if (known == hash_of_page_.end()) return;
  const auto [first, last] = entries_.equal_range(known->second);
  entries_.erase(std::find_if(first, last, [page](const auto& entry) { return entry.second.page == page; }));
  hash_of_page_.erase(known);
}

}  // namespace rondo
