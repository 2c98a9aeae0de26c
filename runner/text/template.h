// What a tokenizer.json puts around the ids of a text, such as the BOS.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runner/json.h"

namespace rondo {

struct Template {
  std::vector<int32_t> before;
  std::vector<int32_t> behind;
};

// The member "post_processor": null, ByteLevel, TemplateProcessing with one text, or a Sequence of them.
// Throws InvalidModel for any other, by name.
Template read_template(const Json& json, const std::string& where);

}  // namespace rondo
