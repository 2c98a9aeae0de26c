#include "runner/text/byte_level.h"

#include <array>

#include "runner/text/utf8.h"

namespace rondo {
namespace {

constexpr char32_t kFirstMoved = 0x100;
constexpr size_t kCharacters = 0x144;  // beyond the last one of the alphabet

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kCharacters> byte{};

  constexpr Alphabet() {
    for (int16_t& value : byte) value = -1;
    char32_t moved = kFirstMoved;  // bytes without a printable character of their own, in order
    for (int i = 0; i < 256; ++i) {
      const char32_t code = stands_for_itself(i) ? static_cast<char32_t>(i) : moved++;
      character[static_cast<size_t>(i)] = code;
      byte[code] = static_cast<int16_t>(i);
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

std::string byte_character(uint8_t byte) {
  std::string text;
  append_utf8(kAlphabet.character[byte], text);
  return text;
}

std::optional<std::string> token_bytes(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Character character = first_character(token);
    if (character.code >= kCharacters || kAlphabet.byte[character.code] < 0) return std::nullopt;
    bytes += static_cast<char>(kAlphabet.byte[character.code]);
    token.remove_prefix(character.bytes);
  }
  return bytes;
}

}  // namespace rondo
