#include "runner/text/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "runner/text/utf8.h"

namespace rondo {
namespace {

constexpr size_t kLongest = 1024;

bool is_space(char32_t code) {
  static constexpr std::array<char32_t, 8> kSingle = {0x20,   0x85,   0xA0,   0x1680,
                                                      0x2028, 0x2029, 0x202F, 0x205F};
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x2000 && code <= 0x200A) || code == 0x3000 ||
         std::find(kSingle.begin(), kSingle.end(), code) != kSingle.end();
}

size_t spaces_at_start(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Character character = first_character(text.substr(bytes));
    if (!is_space(character.code)) break;
    bytes += character.bytes;
  }
  return bytes;
}

size_t without_spaces_at_end(std::string_view text) {
  size_t bytes = text.size();
  while (bytes > 0) {
    const Character character = last_character(text.substr(0, bytes));
    if (!is_space(character.code)) break;
    bytes -= character.bytes;
  }
  return bytes;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<Entry> entries)
    : entries_(std::move(entries)),
      word_("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]", "characters of words") {
  const auto before = [](const Entry& a, const Entry& b) { return a.spelling < b.spelling; };
  const auto equal = [](const Entry& a, const Entry& b) { return a.spelling == b.spelling; };
  std::stable_sort(entries_.begin(), entries_.end(), before);
  entries_.erase(std::unique(entries_.begin(), entries_.end(), equal), entries_.end());
  for (const Entry& entry : entries_) begins_with_[static_cast<unsigned char>(entry.spelling[0])] = true;
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_with_[static_cast<unsigned char>(text[begin])]) continue;
    Match match;
    // The entries that go along with the text so far; the one that is no longer than that comes first.
    auto low = entries_.begin();
    auto high = entries_.end();
    for (size_t i = begin; i < text.size() && low != high; ++i) {
      const size_t depth = i - begin;
      const auto byte = [depth](const Entry& entry) {
        return depth < entry.spelling.size() ? static_cast<unsigned char>(entry.spelling[depth]) : -1;
      };
      const int wanted = static_cast<unsigned char>(text[i]);
      low = std::partition_point(low, high, [&](const Entry& entry) { return byte(entry) < wanted; });
      high = std::partition_point(low, high, [&](const Entry& entry) { return byte(entry) == wanted; });
      if (low != high && low->spelling.size() == depth + 1) match = {{begin, i + 1}, &low->token};
    }
    if (match.token != nullptr) return match;
  }
  return {};
}

bool AddedTokenFinder::stands_alone(std::string_view text, Range range) const {
  Pattern::Search search(word_);
  const auto is_word = [&](std::string_view character) {
    search.begin(character);
    return search.next().has_value();
  };
  if (range.begin > 0) {
    const size_t bytes = last_character(text.substr(0, range.begin)).bytes;
    if (is_word(text.substr(range.begin - bytes, bytes))) return false;
  }
  return range.end == text.size() ||
         !is_word(text.substr(range.end, first_character(text.substr(range.end)).bytes));
}

void AddedTokenFinder::split(std::string_view text, const std::function<void(std::string_view)>& on_text,
                             const std::function<void(int32_t)>& on_token) const {
  size_t done = 0;
  size_t from = 0;
  for (Match match = find(text, from); match.token != nullptr; match = find(text, from)) {
    from = match.range.end;
    const AddedToken& token = *match.token;
    if (token.single_word && !stands_alone(text, match.range)) continue;
    Range range = match.range;
    if (token.lstrip) range.begin = std::max(without_spaces_at_end(text.substr(0, range.begin)), done);
    if (token.rstrip) range.end += spaces_at_start(text.substr(range.end));
    if (range.begin > done) on_text(text.substr(done, range.begin - done));
    on_token(token.id);
    done = range.end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& where, int64_t vocabulary_size,
                                          const std::function<int32_t(const std::string&)>& vocabulary_id) {
  if (!json.is_array()) refuse(where, "an array", describe(json));
  std::vector<AddedToken> tokens;
  std::set<std::string> contents;
  std::set<int32_t> ids;
  int64_t next_id = vocabulary_size;
  for (size_t i = 0; i < json.size(); ++i) {
    JsonFields fields(json[i], fmt::format("{}[{}]", where, i));
    AddedToken token;
    token.id = static_cast<int32_t>(fields.integer("id", 0, std::numeric_limits<int32_t>::max()));
    token.content = fields.string("content");
    token.single_word = fields.boolean_or("single_word", false);
    token.lstrip = fields.boolean_or("lstrip", false);
    token.rstrip = fields.boolean_or("rstrip", false);
    token.special = fields.boolean_or("special", false);
    token.normalized = fields.boolean_or("normalized", !token.special);
    fields.refuse_others("an added token's option that is not understood");
    if (token.content.empty() || token.content.size() > kLongest)
      fields.refuse_field("content", fmt::format("1 to {} bytes of text", kLongest));
    if (!contents.insert(token.content).second) fields.refuse_field("content", "each text once");
    // A token's place in the file decides its id, not the id beside it; a file where they differ is not to be
    // trusted.
    const int32_t known = vocabulary_id(token.content);
    const int64_t id = known >= 0 ? known : next_id;
    if (token.id != id || !ids.insert(token.id).second) {
      fields.refuse_field(
          "id", fmt::format("{}, {}", id,
                            known >= 0 ? "which the vocabulary gives this text" : "the next that is free"));
    }
    if (id >= next_id) next_id = id + 1;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace rondo
