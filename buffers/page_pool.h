// Which pages of the K/V arena are free, held, or kept for whoever may want the same content again. Host
// bookkeeping only. Page 0 is the scrap page and is never given out.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace rondo {

class PagePool {
 public:
  // `pages` as in StepDims: the scrap page included.
  explicit PagePool(int64_t pages);

  int64_t free() const { return unused() + cached_; }  // that take() can give
  int64_t used() const { return total() - free(); }
  int64_t shared() const { return shared_; }                               // held more than once
  int64_t cached() const { return cached_; }                               // held by nobody, and kept
  int64_t unused() const { return static_cast<int64_t>(unused_.size()); }  // neither held nor kept
  int64_t total() const { return static_cast<int64_t>(pages_.size()) - 1; }

  // `count` pages, each held once, or none at all and false. Pages that nobody holds and that were kept go
  // last, the longest kept first; `on_forgotten` is told of each.
  bool take(int64_t count, std::vector<int32_t>& pages);
  // One holder more, also of a page that was kept.
  void share(int32_t page);
  // One holder less of each, the last of them first; leaves `pages` empty.
  void give_back(std::vector<int32_t>& pages);

  bool exclusive(int32_t page) const { return at(page).holders == 1; }
  // The page keeps its content when nobody holds it any more, until it is needed.
  void keep(int32_t page) { at(page).kept = true; }

  std::function<void(int32_t page)> on_forgotten;

 private:
  struct Page {
    int32_t holders = 0;
    bool kept = false;
    int32_t before = 0, behind = 0;  // in the ring of kept pages, which page 0 closes
  };
  Page& at(int32_t page) { return pages_[static_cast<size_t>(page)]; }
  const Page& at(int32_t page) const { return pages_[static_cast<size_t>(page)]; }
  void link(int32_t page);
  void unlink(int32_t page);

  std::vector<Page> pages_;
  std::vector<int32_t> unused_;  // a stack: recently used pages come back first
  int64_t cached_ = 0;
  int64_t shared_ = 0;
};

}  // namespace rondo
