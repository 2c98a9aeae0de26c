#include "runner/cli/stop_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace rondo::cli {
namespace {

// How many bytes at the end of `text` are the begin of `stop`, and not all of it.
size_t begun(std::string_view text, std::string_view stop) {
  for (size_t bytes = std::min(text.size(), stop.size() - 1); bytes > 0; --bytes) {
    if (text.ends_with(stop.substr(0, bytes))) return bytes;
  }
  return 0;
}

}  // namespace

std::string StopText::take(const std::string& text) {
  if (found_) return {};
  held_ += text;
  size_t first = std::string::npos;
  size_t held_back = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    held_back = std::max(held_back, begun(held_, stop));
  }
  if (first != std::string::npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  std::string shown = held_.substr(0, held_.size() - held_back);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopText::end() { return std::exchange(held_, {}); }

}  // namespace rondo::cli
