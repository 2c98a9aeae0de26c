// Which page holds the K and V of which tokens, so that sequences that begin alike share pages. A page's
// content is that of its own tokens and of all before them, so an entry is found by the entry in front of it
// and by its tokens, which are compared: equal hashes alone never share.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace rondo {

class PrefixCache {
 public:
  // The name of a content, never given twice. The first page of a sequence stands behind `root(salt)`; salts
  // keep apart what has the same tokens and other K and V.
  using Serial = uint64_t;
  static Serial root(uint64_t salt) { return salt << 1 | 1; }

  struct Found {
    int32_t page = 0;
    Serial serial = 0;  // 0: not found
  };
  Found find(Serial before, std::span<const int32_t> tokens) const;

  // The content has a page now: the entry's serial, or that of the entry which had the same content already,
  // whose page stays the one that is found. `added` says which.
  Serial add(Serial before, std::span<const int32_t> tokens, int32_t page, bool& added);

  // The page is about to hold something else.
  void forget(int32_t page);

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    Serial before = 0;
    Serial serial = 0;
    int32_t page = 0;
    std::vector<int32_t> tokens;
  };
  static uint64_t hash(Serial before, std::span<const int32_t> tokens);

  std::unordered_multimap<uint64_t, Entry> entries_;
  std::unordered_map<int32_t, uint64_t> hash_of_page_;
  Serial last_ = 0;
};

}  // namespace rondo
