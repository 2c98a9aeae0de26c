#include "runner/text/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <new>
#include <vector>

#include "runner/text/utf8.h"

namespace rondo {
namespace {

// The normal form keeps ASCII as it is.
bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int combining_class(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

void append_decomposed(char32_t code, std::vector<utf8proc_int32_t>& to) {
  std::array<utf8proc_int32_t, 32> parts{};  // the longest canonical decomposition has 4
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(code), parts.data(), parts.size(),
      static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary);
  for (utf8proc_ssize_t i = 0; i < count; ++i) to.push_back(parts[static_cast<size_t>(i)]);
}

// utf8proc's own ordering takes time that grows with the square of a run of marks.
void order_marks(std::vector<utf8proc_int32_t>& codes) {
  for (auto begin = codes.begin(); begin != codes.end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, codes.end(), [](auto code) { return combining_class(code) == 0; });
    std::stable_sort(begin, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

}  // namespace

std::string to_nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const Character character = first_character(rest);
    append_decomposed(character.code, codes);
    rest.remove_prefix(character.bytes);
  }
  order_marks(codes);
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (length < 0) throw std::bad_alloc();
  std::string composed;
  composed.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(static_cast<char32_t>(codes[static_cast<size_t>(i)]), composed);
  return composed;
}

Normalizer Normalizer::read(const Json& json, const std::string& where) {
  Normalizer normalizer;
  if (json.is_null()) return normalizer;
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  if (type == "NFC") {
    normalizer.nfc_ = true;
  } else if (type == "Sequence") {
    const Json* list = fields.find("normalizers");
    if (list == nullptr || !list->is_array()) fields.refuse_field("normalizers", "an array");
    for (size_t i = 0; i < list->size(); ++i)
      normalizer.nfc_ |= read((*list)[i], fmt::format("{}: normalizers[{}]", where, i)).nfc_;
  } else {
    fields.refuse_field("type", "NFC, Sequence, or no normalizer");
  }
  fields.refuse_others("a normalizer's option that is not understood");
  return normalizer;
}

}  // namespace rondo
