// The tokens that stand in the text as they are, such as <|im_start|>: found before anything is split.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/json.h"
#include "runner/text/normalizer.h"
#include "runner/text/pattern.h"

namespace rondo {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no letter or digit touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // is looked for in the normalized text, in its own normal form
  bool special = false;      // no text for readers
};

// A set of added tokens and the search for them: leftmost, and of those that begin together the longest.
class AddedTokenFinder {
 public:
  struct Entry {
    std::string spelling;  // what is found in the text; of equal ones the first counts. Not empty.
    AddedToken token;
  };

  explicit AddedTokenFinder(std::vector<Entry> entries);

  // Hands over all of `text` in order: stretches of it without a token (never empty), and tokens' ids.
  void split(std::string_view text, const std::function<void(std::string_view)>& on_text,
             const std::function<void(int32_t id)>& on_token) const;

 private:
  struct Match {
    Range range;
    const AddedToken* token = nullptr;
  };

  Match find(std::string_view text, size_t from) const;
  bool stands_alone(std::string_view text, Range range) const;

  std::vector<Entry> entries_;              // in the order of their spellings' bytes
  std::array<bool, 256> begins_with_ = {};  // whether a spelling begins with that byte
  Pattern word_;                            // one character of a word
};

// The member "added_tokens". `vocabulary_id` gives the model's id of a text, or -1; `vocabulary_size` is how
// many tokens the model has. Throws InvalidModel where an id is not the one that loading gives the token.
std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& where, int64_t vocabulary_size,
                                          const std::function<int32_t(const std::string&)>& vocabulary_id);

}  // namespace rondo
