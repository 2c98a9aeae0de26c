// The alphabet of byte-level vocabularies: 256 printable characters that stand for the 256 bytes, as GPT-2
// has them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rondo {

// The character that stands for `byte`, as UTF-8.
std::string byte_character(uint8_t byte);

// The bytes that a token of the vocabulary stands for; none where it holds a character outside the alphabet.
// `token` is valid UTF-8.
std::optional<std::string> token_bytes(std::string_view token);

}  // namespace rondo
