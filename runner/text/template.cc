#include "runner/text/template.h"

#include <fmt/format.h>

#include <limits>

namespace rondo {
namespace {

const Json& array(JsonFields& fields, const char* key) {
  const Json* list = fields.find(key);
  if (list == nullptr || !list->is_array()) fields.refuse_field(key, "an array");
  return *list;
}

// Of {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} the ids of one token.
std::vector<int32_t> special_ids(const Json& specials, const std::string& name, const std::string& where) {
  const auto special = specials.find(name);
  if (special == specials.end()) refuse(where, "an entry for " + printable(name), "none");
  JsonFields fields(*special, where + ": " + printable(name));
  std::vector<int32_t> ids;
  for (const Json& id : array(fields, "ids")) {
    ids.push_back(static_cast<int32_t>(
        json_integer(id, where + ": " + printable(name) + ": ids", 0, std::numeric_limits<int32_t>::max())));
  }
  return ids;
}

void read_processing(JsonFields& fields, const std::string& where, Template& around) {
  const Json* specials = fields.find("special_tokens");
  if (specials == nullptr || !specials->is_object()) fields.refuse_field("special_tokens", "an object");
  fields.ignore("pair");  // of two texts, which nothing here has
  std::vector<int32_t> before;
  std::vector<int32_t> behind;
  int texts = 0;
  for (const Json& piece : array(fields, "single")) {
    JsonFields kinds(piece, where + ": single");
    if (const Json* special = kinds.find("SpecialToken")) {
      JsonFields of(*special, where + ": single: SpecialToken");
      const std::vector<int32_t> ids = special_ids(*specials, of.string("id"), where + ": special_tokens");
      std::vector<int32_t>& to = texts == 0 ? before : behind;
      to.insert(to.end(), ids.begin(), ids.end());
    } else if (const Json* sequence = kinds.find("Sequence")) {
      JsonFields of(*sequence, where + ": single: Sequence");
      if (of.string("id") != "A") of.refuse_field("id", "A");
      ++texts;
    }
    kinds.refuse_others("a piece is either a SpecialToken or a Sequence");
  }
  if (texts != 1) refuse(where + ": single", "the Sequence A once", fmt::format("it {} times", texts));
  around.before.insert(around.before.begin(), before.begin(), before.end());
  around.behind.insert(around.behind.end(), behind.begin(), behind.end());
}

void read_into(const Json& json, const std::string& where, Template& around) {
  if (json.is_null()) return;
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  if (type == "Sequence") {
    const Json& list = array(fields, "processors");
    for (size_t i = 0; i < list.size(); ++i)
      read_into(list[i], fmt::format("{}: processors[{}]", where, i), around);
  } else if (type == "TemplateProcessing") {
    read_processing(fields, where, around);
  } else if (type == "ByteLevel") {  // of offsets, which are not made
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
  } else {
    fields.refuse_field("type", "TemplateProcessing, ByteLevel or Sequence");
  }
  fields.refuse_others("a post-processor's option that is not understood");
}

}  // namespace

Template read_template(const Json& json, const std::string& where) {
  Template around;
  read_into(json, where, around);
  return around;
}

}  // namespace rondo
