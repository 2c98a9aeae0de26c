#include "buffers/page_pool.h"

#include <cstddef>

namespace rondo {

PagePool::PagePool(int64_t pages) : total_(pages - 1) {
  free_.reserve(static_cast<size_t>(total_));
  for (int64_t page = total_; page >= 1; --page) free_.push_back(static_cast<int32_t>(page));
}

bool PagePool::take(int64_t count, std::vector<int32_t>& pages) {
  if (count > free()) return false;
  pages.insert(pages.end(), free_.end() - count, free_.end());
  free_.resize(free_.size() - static_cast<size_t>(count));
  return true;
}

void PagePool::give_back(std::vector<int32_t>& pages) {
  free_.insert(free_.end(), pages.begin(), pages.end());
  pages.clear();
}

}  // namespace rondo
