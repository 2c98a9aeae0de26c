// UTF-8: where text is not, and bytes that come in pieces made into text that is.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace rondo {

// The first byte that is no part of valid UTF-8; none where all of `text` is.
std::optional<size_t> invalid_utf8_at(std::string_view text);

// One character of valid UTF-8.
struct Character {
  char32_t code = 0;
  size_t bytes = 0;
};
Character first_character(std::string_view text);
Character last_character(std::string_view text);

void append_utf8(char32_t code, std::string& to);

// Bytes go in as they come, whole characters come out: one that is cut between two pieces waits for its rest,
// and each maximal part of one that is none becomes U+FFFD. What comes out in pieces is what would come out
// of all bytes at once.
class Utf8Stream {
 public:
  // The text that is whole now, the held back bytes' first.
  std::string take(std::string_view bytes);
  // No more bytes will come: a character that was begun is U+FFFD.
  std::string end();

 private:
  std::string held_;  // the begin of a character, at most three bytes
};

}  // namespace rondo
