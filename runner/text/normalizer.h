// What a tokenizer.json does to text before it is split: nothing, or Unicode's normal form C.
#pragma once

#include <string>
#include <string_view>

#include "runner/json.h"

namespace rondo {

// Of valid UTF-8.
std::string to_nfc(std::string_view text);

class Normalizer {
 public:
  // The member "normalizer": null, NFC, or a Sequence of NFC. Throws InvalidModel for any other, by name.
  static Normalizer read(const Json& json, const std::string& where);

  std::string operator()(std::string_view text) const { return nfc_ ? to_nfc(text) : std::string(text); }

 private:
  bool nfc_ = false;
};

}  // namespace rondo
