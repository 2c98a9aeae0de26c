#include "runner/cli/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "buffers/error.h"

namespace rondo::cli {
namespace {

constexpr size_t kShownCharacters = 40;

std::string shown(const std::string& text) {
  return text.size() <= kShownCharacters ? text : text.substr(0, kShownCharacters) + "...";
}

[[noreturn]] void refuse_number(const std::string& option, const std::string& expected,
                                const std::string& text) {
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("{}: expected {}, found \"{}\"", option, expected, shown(text)));
}

// Nothing where the text is not, from its first to its last byte, a number that T can hold.
template <class T>
std::optional<T> whole(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (text.empty() || result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

}  // namespace

int64_t parse_integer(const std::string& option, const std::string& text, int64_t low, int64_t high) {
  const auto value = whole<int64_t>(text);
  if (!value || *value < low || *value > high)
    refuse_number(option, fmt::format("a whole number from {} to {}", low, high), text);
  return *value;
}

uint64_t parse_seed(const std::string& option, const std::string& text) {
  const auto value = whole<uint64_t>(text);
  if (!value) {
    refuse_number(option, fmt::format("a whole number from 0 to {}", std::numeric_limits<uint64_t>::max()),
                  text);
  }
  return *value;
}

float parse_real(const std::string& option, const std::string& text, const RealRange& range) {
  const auto value = whole<float>(text);
  // The comparison is written so that NaN fails it.
  if (!value || !std::isfinite(*value) || !(*value >= range.low && *value <= range.high)) {
    refuse_number(option, range.expected, text);
  }
  return *value;
}

std::vector<int32_t> parse_ids(const std::string& option, const std::string& text) {
  std::vector<int32_t> ids;
  size_t begin = 0;
  while (true) {
    const size_t comma = text.find(',', begin);
    const auto id = whole<int32_t>(text.substr(begin, comma - begin));
    if (!id || *id < 0)
      refuse_number(option, "token ids of 0 or more, divided by single commas (1,2,3)", text);
    ids.push_back(*id);
    if (comma == std::string::npos) return ids;
    begin = comma + 1;
  }
}

std::vector<int64_t> parse_ranges(const std::string& option, const std::string& text, int64_t low,
                                  int64_t high) {
  constexpr size_t kMost = 4096;
  const std::string expected =
      fmt::format("numbers or ascending ranges from {} to {}, divided by single commas (1-8,16)", low, high);
  std::vector<int64_t> values;
  size_t begin = 0;
  while (true) {
    const size_t comma = text.find(',', begin);
    const std::string part = text.substr(begin, comma - begin);
    const size_t dash = part.find('-', 1);
    const auto first = whole<int64_t>(part.substr(0, dash));
    const auto last = dash == std::string::npos ? first : whole<int64_t>(part.substr(dash + 1));
    if (!first || !last || *first < low || *last > high || *first > *last)
      refuse_number(option, expected, text);
    if (static_cast<size_t>(*last - *first) >= kMost - values.size())
      refuse_number(option, fmt::format("at most {} numbers", kMost), text);
    for (int64_t value = *first; value <= *last; ++value) values.push_back(value);
    if (comma == std::string::npos) return values;
    begin = comma + 1;
  }
}

}  // namespace rondo::cli
