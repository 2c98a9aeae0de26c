#include "buffers/page_pool.h"

#include <cstddef>

namespace rondo {

PagePool::PagePool(int64_t pages) : pages_(static_cast<size_t>(pages)) {
  unused_.reserve(pages_.size());
  for (auto page = static_cast<int32_t>(pages - 1); page >= 1; --page) unused_.push_back(page);
}

void PagePool::link(int32_t page) {
  at(page).before = at(0).before;
  at(page).behind = 0;
  at(at(0).before).behind = page;
  at(0).before = page;
  ++cached_;
}

void PagePool::unlink(int32_t page) {
  at(at(page).before).behind = at(page).behind;
  at(at(page).behind).before = at(page).before;
  --cached_;
}

bool PagePool::take(int64_t count, std::vector<int32_t>& pages) {
  if (count > free()) return false;
  for (; count > 0; --count) {
    int32_t page = 0;
    if (!unused_.empty()) {
      page = unused_.back();
      unused_.pop_back();
    } else {
      page = at(0).behind;
      unlink(page);
      at(page).kept = false;
      if (on_forgotten) on_forgotten(page);
    }
    at(page).holders = 1;
    pages.push_back(page);
  }
  return true;
}

void PagePool::share(int32_t page) {
  if (at(page).holders == 0) unlink(page);
  if (++at(page).holders == 2) ++shared_;
}

void PagePool::give_back(std::vector<int32_t>& pages) {
  for (; !pages.empty(); pages.pop_back()) {
    const int32_t page = pages.back();
    const int32_t left = --at(page).holders;
    if (left == 1) --shared_;
    if (left > 0) continue;
    if (at(page).kept)
      link(page);
    else
      unused_.push_back(page);
  }
}

}  // namespace rondo
