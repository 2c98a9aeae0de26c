#include "runner/text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "runner/text/byte_level.h"

namespace rondo {
namespace {

// Options that would change the result, where they are more than nothing.
void expect_nothing(JsonFields& fields, const char* key) {
  const Json* value = fields.find_non_null(key);
  const bool empty = value == nullptr || (value->is_string() && value->get_ref<const std::string&>().empty());
  if (!empty) fields.refuse_field(key, "null", "rondo reads tokenizers of the byte-level BPE kind");
}

}  // namespace

Bpe Bpe::read(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  if (fields.find("type") != nullptr && fields.string("type") != "BPE")
    fields.refuse_field("type", "BPE", "rondo reads tokenizers of the byte-level BPE kind");
  expect_nothing(fields, "dropout");
  expect_nothing(fields, "continuing_subword_prefix");
  expect_nothing(fields, "end_of_word_suffix");
  if (fields.boolean_or("byte_fallback", false))
    fields.refuse_field("byte_fallback", "false", "rondo reads tokenizers of the byte-level BPE kind");
  // For what no token covers; here every byte is covered.
  fields.ignore("unk_token");
  fields.ignore("fuse_unk");
  Bpe bpe;
  bpe.ignore_merges_ = fields.boolean_or("ignore_merges", false);
  const Json* vocabulary = fields.find("vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) fields.refuse_field("vocab", "an object");
  const Json* merges = fields.find("merges");
  if (merges == nullptr || !merges->is_array()) fields.refuse_field("merges", "an array");
  fields.refuse_others("a model's option that is not understood");
  bpe.read_vocabulary(*vocabulary, where + ": vocab");
  bpe.read_merges(*merges, where + ": merges");
  return bpe;
}

void Bpe::read_vocabulary(const Json& json, const std::string& where) {
  for (const auto& [token, value] : json.items()) {
    const auto id = static_cast<int32_t>(
        json_integer(value, where + ": " + printable(token), 0, std::numeric_limits<int32_t>::max()));
    const auto [other, is_new] = tokens_.emplace(id, token);
    if (!is_new) {
      refuse(where, "each id once",
             fmt::format("{} for {} and {}", id, printable(other->second), printable(token)));
    }
    ids_.emplace(token, id);
    if (!ignore_merges_) continue;
    if (const auto bytes = token_bytes(token)) pieces_.emplace(*bytes, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t id = id_of(byte_character(static_cast<uint8_t>(byte)));
    // GPT-NeoX's vocabulary and its like leave out the bytes that no UTF-8 text has.
    const bool never = byte == 0xC0 || byte == 0xC1 || byte >= 0xF5;
    if (id < 0 && !never)
      refuse(where, "a token for each byte of UTF-8", fmt::format("none for byte {}", byte));
    byte_ids_.push_back(id);
  }
}

void Bpe::read_merges(const Json& json, const std::string& where) {
  const auto bad = [&](size_t rank, const std::string& expected, const std::string& found) {
    refuse(fmt::format("{}[{}]", where, rank), expected, found);
  };
  bool as_pairs = false;
  for (size_t rank = 0; rank < json.size(); ++rank) {
    const Json& merge = json[rank];
    if (rank == 0) as_pairs = merge.is_array();
    std::string left;
    std::string right;
    if (as_pairs) {
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string())
        bad(rank, "an array of two strings", describe(merge));
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      if (!merge.is_string()) bad(rank, "a string of two tokens", describe(merge));
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos)
        bad(rank, "two tokens with one space between them", describe(merge));
      left = text.substr(0, space);
      right = text.substr(space + 1);
    }
    const int32_t left_id = id_of(left);
    const int32_t right_id = id_of(right);
    const int32_t id = id_of(left + right);
    if (left_id < 0 || right_id < 0 || id < 0 || left.empty() || right.empty()) {
      bad(rank, "two tokens of the vocabulary that make up a third",
          fmt::format("\"{}\" and \"{}\"", printable(left), printable(right)));
    }
    // Of two merges of the same tokens the later one counts.
    merges_.insert_or_assign(pair(left_id, right_id), Merge{static_cast<int32_t>(rank), id});
  }
}

int32_t Bpe::id_of(const std::string& token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const auto whole = pieces_.find(std::string(piece)); whole != pieces_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  symbols.clear();
  for (size_t i = 0; i < piece.size(); ++i) {
    const auto at = static_cast<int32_t>(i);
    symbols.push_back({byte_ids_[static_cast<unsigned char>(piece[i])], 1, at - 1, at + 1});
  }
  symbols.back().next = -1;
  merge_all(scratch);
  for (int32_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next)
    ids.push_back(symbols[static_cast<size_t>(at)].id);
}

// Puts the merge of a symbol with the one behind it into the queue, where there is such a merge.
void Bpe::offer(Scratch& scratch, int32_t at) const {
  const Scratch::Symbol& left = scratch.symbols[static_cast<size_t>(at)];
  if (left.next < 0) return;
  const auto merge = merges_.find(pair(left.id, scratch.symbols[static_cast<size_t>(left.next)].id));
  if (merge == merges_.end()) return;
  scratch.queue.push_back({merge->second.rank, at, merge->second.id});
  std::push_heap(scratch.queue.begin(), scratch.queue.end());
}

void Bpe::merge_all(Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  scratch.queue.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) offer(scratch, static_cast<int32_t>(i));
  while (!scratch.queue.empty()) {
    std::pop_heap(scratch.queue.begin(), scratch.queue.end());
    const Scratch::Candidate best = scratch.queue.back();
    scratch.queue.pop_back();
    Scratch::Symbol& left = symbols[static_cast<size_t>(best.at)];
    if (left.bytes == 0 || left.next < 0) continue;
    Scratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    // A candidate outlives the symbols that it was made of.
    const auto merge = merges_.find(pair(left.id, right.id));
    if (merge == merges_.end() || merge->second.rank != best.rank) continue;
    left.id = best.id;
    left.bytes += right.bytes;
    left.next = right.next;
    right.bytes = 0;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.at;
    if (left.previous >= 0) offer(scratch, left.previous);
    offer(scratch, best.at);
  }
}

}  // namespace rondo
