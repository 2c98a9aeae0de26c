#include "runner/sequence_pages.h"

#include <algorithm>

namespace rondo {

SequencePages::SequencePages(const StepDims& dims, bool share_prefixes, int64_t rope_original_length)
    : page_size_(dims.page_size),
      share_prefixes_(share_prefixes),
      rope_original_length_(rope_original_length),
      pool_(dims.pages) {
  pool_.on_forgotten = [this](int32_t page) { prefixes_.forget(page); };
}

uint64_t SequencePages::salt(const Sequence& sequence) const {
  return sequence.prompt_length > rope_original_length_ ? static_cast<uint64_t>(sequence.prompt_length) : 0;
}

std::span<const int32_t> SequencePages::page_tokens(const Sequence& sequence, size_t page) const {
  const auto size = static_cast<size_t>(page_size_);
  return std::span(sequence.tokens).subspan(page * size, size);
}

bool SequencePages::grow(Sequence& sequence, int64_t positions) {
  const int64_t missing = pages_for(positions) - static_cast<int64_t>(sequence.pages.size());
  return missing <= 0 || pool_.take(missing, sequence.pages);
}

bool SequencePages::own(Sequence& sequence, int64_t first, int64_t last) {
  for (int64_t i = first / page_size_; i < pages_for(last); ++i) {
    int32_t& page = sequence.pages[static_cast<size_t>(i)];
    if (pool_.exclusive(page)) continue;
    std::vector<int32_t> copy;
    if (!pool_.take(1, copy)) return false;
    sequence.copies.push_back({page, copy.front()});
    page = copy.front();
    sequence.tabled = std::min(sequence.tabled, i);
  }
  return true;
}

int64_t SequencePages::adopt_prefix(Sequence& sequence) {
  if (!share_prefixes_) return 0;
  const size_t most = (sequence.tokens.size() - 1) / static_cast<size_t>(page_size_);
  PrefixCache::Serial at = PrefixCache::root(salt(sequence));
  for (size_t i = 0; i < most; ++i) {
    const PrefixCache::Found found = prefixes_.find(at, page_tokens(sequence, i));
    if (found.serial == 0) break;
    pool_.share(found.page);
    sequence.pages.push_back(found.page);
    sequence.chain.push_back(at = found.serial);
  }
  return sequence.cached = static_cast<int64_t>(sequence.pages.size()) * page_size_;
}

void SequencePages::adopt(Sequence& sequence, const Sequence& source, int64_t positions) {
  const auto pages = static_cast<size_t>(pages_for(positions));
  for (size_t i = 0; i < pages; ++i) {
    pool_.share(source.pages[i]);
    sequence.pages.push_back(source.pages[i]);
  }
  const size_t full = std::min(source.chain.size(), static_cast<size_t>(positions / page_size_));
  sequence.chain.assign(source.chain.begin(), source.chain.begin() + static_cast<int64_t>(full));
  sequence.cached = positions;
}

void SequencePages::trim(Sequence& sequence) {
  const auto first = std::min(pages_for(sequence.cached), static_cast<int64_t>(sequence.pages.size()));
  std::vector<int32_t> rest(sequence.pages.begin() + first, sequence.pages.end());
  sequence.pages.resize(static_cast<size_t>(first));
  sequence.tabled = std::min(sequence.tabled, first);
  pool_.give_back(rest);
}

void SequencePages::committed(Sequence& sequence) {
  std::vector<int32_t> copied;
  for (const PageCopy& copy : sequence.copies) copied.push_back(copy.from);
  pool_.give_back(copied);
  sequence.copies.clear();
  if (!share_prefixes_) return;
  while (static_cast<int64_t>(sequence.chain.size() + 1) * page_size_ <= sequence.cached) {
    const size_t i = sequence.chain.size();
    const PrefixCache::Serial before = i ? sequence.chain.back() : PrefixCache::root(salt(sequence));
    bool added = false;
    sequence.chain.push_back(prefixes_.add(before, page_tokens(sequence, i), sequence.pages[i], added));
    if (added) pool_.keep(sequence.pages[i]);
  }
}

void SequencePages::release(Sequence& sequence) {
  std::vector<int32_t> copied;
  for (const PageCopy& copy : sequence.copies) copied.push_back(copy.from);
  pool_.give_back(copied);
  sequence.copies.clear();
  pool_.give_back(sequence.pages);
  sequence.chain.clear();
  sequence.cached = 0;
  sequence.tabled = 0;
}

}  // namespace rondo
