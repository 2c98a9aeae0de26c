#include "runner/text/utf8.h"

#include <cstdint>

namespace rondo {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  size_t bytes = 0;  // of the whole character; 0: no character begins with this byte
  uint8_t low = 0x80;
  uint8_t high = 0xBF;  // range of the second byte, narrower where a longer form or a surrogate would be
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

// How far the bytes at the start of `text` go along with one character, and whether they complete it.
struct Begin {
  size_t bytes = 0;
  bool whole = false;
  bool cut = false;  // `text` ended before anything was wrong
};

Begin begin_of(std::string_view text) {
  const Lead lead = lead_of(static_cast<uint8_t>(text[0]));
  if (lead.bytes == 0) return {1};
  for (size_t i = 1; i < lead.bytes; ++i) {
    if (i == text.size()) return {i, false, true};
    const auto byte = static_cast<uint8_t>(text[i]);
    const bool fits = i == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!fits) return {i};
  }
  return {lead.bytes, true};
}

}  // namespace

std::optional<size_t> invalid_utf8_at(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Begin begin = begin_of(text.substr(at, 4));
    if (!begin.whole) return at;
    at += begin.bytes;
  }
  return std::nullopt;
}

Character first_character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const size_t bytes = lead_of(byte(0)).bytes;
  char32_t code = bytes == 1 ? byte(0) : byte(0) & (0x7F >> bytes);
  for (size_t i = 1; i < bytes; ++i) code = code << 6 | (byte(i) & 0x3F);
  return {code, bytes};
}

Character last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return first_character(text.substr(at));
}

void append_utf8(char32_t code, std::string& to) {
  const auto rest = [&](int shift) { to += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) {
    to += static_cast<char>(code);
  } else if (code < 0x800) {
    to += static_cast<char>(0xC0 | code >> 6);
    rest(0);
  } else if (code < 0x10000) {
    to += static_cast<char>(0xE0 | code >> 12);
    rest(6);
    rest(0);
  } else {
    to += static_cast<char>(0xF0 | code >> 18);
    rest(12);
    rest(6);
    rest(0);
  }
}

std::string Utf8Stream::take(std::string_view bytes) {
  held_ += bytes;
  std::string text;
  size_t at = 0;
  while (at < held_.size()) {
    const std::string_view rest = std::string_view(held_).substr(at);
    const Begin begin = begin_of(rest);
    if (begin.cut) break;
    text += begin.whole ? rest.substr(0, begin.bytes) : kReplacement;
    at += begin.bytes;
  }
  held_.erase(0, at);
  return text;
}

std::string Utf8Stream::end() {
  const std::string text(held_.empty() ? std::string_view() : kReplacement);
  held_.clear();
  return text;
}

}  // namespace rondo
