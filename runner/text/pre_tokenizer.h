// How a tokenizer.json cuts text into the pieces that merges stay within.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runner/json.h"
#include "runner/text/pattern.h"

namespace rondo {

class PreTokenizer {
 public:
  using OnPiece = std::function<void(std::string_view piece)>;

  // The member "pre_tokenizer": Split, Digits and ByteLevel, alone or in a Sequence, a ByteLevel at the end.
  // Throws InvalidModel for any other, by name.
  static PreTokenizer read(const Json& json, const std::string& where);

  // Hands over the pieces of `text` in order, none of them empty.
  void split(std::string_view text, const OnPiece& on_piece) const;

 private:
  enum class Behavior { Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous };
  struct Split {
    std::variant<Pattern, std::string> by;  // a string is found as it is
    Behavior behavior = Behavior::Isolated;
    bool invert = false;
  };
  struct PrefixSpace {};  // one before a piece that does not begin with one
  using Step = std::variant<Split, PrefixSpace>;
  // A part of the text, and whether the pattern matched it.
  struct Part {
    Range range;
    bool match = false;
  };
  class Run;

  void read_step(const Json& json, const std::string& where);
  static Split read_split(JsonFields& fields, const std::string& where);
  static std::vector<Part> arranged(const std::vector<Part>& parts, Behavior behavior);

  std::vector<Step> steps_;
  bool ends_in_bytes_ = false;
};

}  // namespace rondo
