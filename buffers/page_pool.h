// Which pages of the K/V arena are free. Host bookkeeping only. Page 0 is the scrap page and is never given
// out.
#pragma once

#include <cstdint>
#include <vector>

namespace rondo {

class PagePool {
 public:
  // `pages` as in StepDims: the scrap page included.
  explicit PagePool(int64_t pages);

  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t used() const { return total_ - free(); }
  int64_t total() const { return total_; }

  // `count` pages, or none at all and false.
  bool take(int64_t count, std::vector<int32_t>& pages);
  void give_back(std::vector<int32_t>& pages);  // leaves `pages` empty

 private:
  int64_t total_;
  std::vector<int32_t> free_;  // a stack: recently used pages come back first
};

}  // namespace rondo
