// Text that ends a sequence where it occurs, whatever tokens it came in.
#pragma once

#include <string>
#include <vector>

namespace rondo::cli {

class StopText {
 public:
  StopText() = default;
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}  // none of them empty

  // The text that can be shown now: up to the first stop, and short of what could become one.
  std::string take(const std::string& text);
  // Whether a stop was found; it and all behind it are not shown.
  bool found() const { return found_; }
  // No more text will come: what was held back.
  std::string end();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace rondo::cli
