#include "runner/json.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>
#include <vector>

#include "buffers/error.h"

namespace rondo {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxNumber = 128;  // characters of a number, true, false or null

constexpr int kNumberOverflow = 406;  // nlohmann_json's id for a number that no double holds

// What the library's lexer takes without a word (a byte order mark; NUL, to it the end of the text), and
// tokens so long that its buffers would outgrow the file.
void check_tokens(std::string_view text, const std::string& name, uint64_t most_string_bytes) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    refuse(name, "JSON", "a byte order mark", "save as UTF-8 without one");
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    refuse(name, "JSON", fmt::format("a NUL byte at byte {}", nul));
  }
  bool in_string = false;
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (i - start > most_string_bytes) {
        refuse(name, fmt::format("strings of at most {} bytes", most_string_bytes),
               fmt::format("a longer one at byte {}", start));
      }
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
        start = i + 1;
      }
    } else if (c == '"') {
      in_string = true;
      start = i;
    } else if (std::string_view(" \t\r\n,:[]{}").find(c) != std::string_view::npos) {
      start = i + 1;
    } else if (i - start > kMaxNumber) {
      refuse(name, "JSON", fmt::format("{} at byte {}", printable(text.substr(start, kMaxNumber)), start));
    }
  }
}

// Builds one member of the root object at a time.
class MemberReader : public nlohmann::json_sax<Json> {
 public:
  using OnMember = std::function<void(const std::string&, Json)>;

  MemberReader(const std::string& name, JsonLimits limits, const OnMember& on_member)
      : name_(name), limits_(limits), on_member_(on_member) {}

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_unsigned(number_unsigned_t value) override { return scalar(value); }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return false; }  // not part of text JSON
  bool string(string_t& value) override {
    refuse_nul(value);
    return scalar(std::move(value));
  }

  bool start_object(std::size_t) override {
    if (!in_root_) {
      in_root_ = true;
      return true;
    }
    return open(Json::object());
  }

  bool key(string_t& key) override {
    refuse_nul(key);
    if (open_.empty()) {
      if (!root_keys_.insert(key).second) refuse_duplicate(key);
      root_key_ = std::move(key);
    } else {
      if (open_.back()->contains(key)) refuse_duplicate(key);
      keys_.back() = std::move(key);
    }
    return true;
  }

  bool end_object() override {
    if (open_.empty()) return true;  // the root
    return close();
  }

  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...": only what follows the place is
    // for users.
    std::string_view what = error.what();
    if (const size_t tag = what.find("] "); tag != what.npos) what.remove_prefix(tag + 2);
    if (const size_t place = what.find(": "); place != what.npos) what.remove_prefix(place + 2);
    if (error.id == kNumberOverflow) refuse(where(), "a finite number", printable(token));
    const std::string after = root_key_.empty() ? "" : " after " + where();
    refuse(name_, "a JSON object",
           fmt::format("an error at byte {}{}: {}", position, after, printable(what)));
  }

 private:
  // The file and the field that was named last.
  std::string where() const {
    std::string text = name_ + ": " + printable(root_key_);
    for (const std::string& key : keys_) {
      if (!key.empty()) text += ": " + printable(key);
    }
    return text;
  }

  void count_value() {
    if (++values_ > limits_.values) {
      refuse(name_, fmt::format("at most {} values", limits_.values), "more");
    }
  }

  [[noreturn]] void refuse_duplicate(const std::string& key) const {
    refuse(name_, "each key once", fmt::format("{} twice in one object", printable(key)));
  }

  void refuse_nul(const std::string& text) const {
    if (text.find('\0') != text.npos) refuse(name_, "strings without NUL", printable(text));
  }

  // Where the next value belongs, as an address that stays good while that value is open.
  Json* place(Json value) {
    if (open_.empty()) {
      member_ = std::move(value);
      return &member_;
    }
    Json& parent = *open_.back();
    if (parent.size() >= limits_.elements) {
      refuse(where(), fmt::format("at most {} elements", limits_.elements), "more");
    }
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent[keys_.back()];
    slot = std::move(value);
    return &slot;
  }

  bool scalar(Json value) {
    if (!in_root_) refuse(name_, "a JSON object", describe(value));
    count_value();
    place(std::move(value));
    if (open_.empty()) on_member_(root_key_, std::move(member_));
    return true;
  }

  bool open(Json container) {
    if (!in_root_) refuse(name_, "a JSON object", "an array");
    count_value();
    if (open_.size() + 2 > kMaxDepth)
      refuse(name_, fmt::format("nesting of at most {}", kMaxDepth), "deeper nesting");
    open_.push_back(place(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    if (open_.empty()) on_member_(root_key_, std::move(member_));
    return true;
  }

  const std::string& name_;
  const JsonLimits limits_;
  const OnMember& on_member_;
  bool in_root_ = false;
  uint64_t values_ = 0;
  std::set<std::string> root_keys_;
  std::string root_key_;
  Json member_;                    // the root's member being read
  std::vector<Json*> open_;        // containers inside member_ that have not ended, outermost first
  std::vector<std::string> keys_;  // the key last seen in each of them
};

}  // namespace

void refuse(const std::string& where, const std::string& expected, const std::string& found,
            const std::string& hint) {
  std::string message = fmt::format("{}: expected {}, found {}", where, expected, found);
  if (!hint.empty()) message += fmt::format(" ({})", hint);
  throw Error(ErrorKind::InvalidModel, message);
}

std::string printable(std::string_view text) {
  constexpr size_t kMost = 80;
  std::string out;
  for (const char c : text) {
    if (out.size() >= kMost) return out + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
    case Json::value_t::string:
      return fmt::format("\"{}\" (a string)", printable(value.get_ref<const std::string&>()));
    case Json::value_t::array: return fmt::format("an array of {}", value.size());
    case Json::value_t::object: return fmt::format("an object of {}", value.size());
    case Json::value_t::number_float: return value.dump() + " (not an integer that fits in 64 bits)";
    default: return value.dump();
  }
}

void read_json_members(std::string_view text, const std::string& name, JsonLimits limits,
                       const std::function<void(const std::string& key, Json value)>& on_member) {
  check_tokens(text, name, limits.string_bytes);
  MemberReader reader(name, limits, on_member);
  Json::sax_parse(text.begin(), text.end(), &reader);
}

Json read_json_object(std::string_view text, const std::string& name, JsonLimits limits) {
  Json object = Json::object();
  read_json_members(text, name, limits,
                    [&](const std::string& key, Json value) { object[key] = std::move(value); });
  return object;
}

int64_t json_integer(const Json& value, const std::string& where, int64_t min, int64_t max) {
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                               : value.is_number_integer();
  const int64_t integer = fits ? value.get<int64_t>() : 0;
  if (!fits || integer < min || integer > max) {
    refuse(where, fmt::format("an integer from {} to {}", min, max), describe(value));
  }
  return integer;
}

double json_number(const Json& value, const std::string& where, double min, double max) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= min && number <= max)) {
    refuse(where, fmt::format("a number from {} to {}", min, max),
           value.is_number() ? value.dump() : describe(value));
  }
  return number;
}

JsonFields::JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) refuse(where_, "an object", describe(object));
}

const Json* JsonFields::find(const char* key) {
  known_.emplace(key);
  const auto member = object_.find(key);
  return member == object_.end() ? nullptr : &*member;
}

const Json* JsonFields::find_non_null(const char* key) {
  const Json* value = find(key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

int64_t JsonFields::integer(const char* key, int64_t min, int64_t max) {
  const Json* value = find(key);
  if (value == nullptr) refuse_field(key, fmt::format("an integer from {} to {}", min, max));
  return json_integer(*value, where_ + ": " + key, min, max);
}

int64_t JsonFields::integer_or(const char* key, int64_t min, int64_t max, int64_t absent) {
  return find(key) == nullptr ? absent : integer(key, min, max);
}

std::optional<int64_t> JsonFields::integer_or_null(const char* key, int64_t min, int64_t max) {
  if (find_non_null(key) == nullptr) return std::nullopt;
  return integer(key, min, max);
}

double JsonFields::number(const char* key, double min, double max) {
  const Json* value = find(key);
  if (value == nullptr) refuse_field(key, fmt::format("a number from {} to {}", min, max));
  return json_number(*value, where_ + ": " + key, min, max);
}

double JsonFields::number_or(const char* key, double min, double max, double absent) {
  return find(key) == nullptr ? absent : number(key, min, max);
}

std::optional<double> JsonFields::number_or_null(const char* key, double min, double max) {
  if (find_non_null(key) == nullptr) return std::nullopt;
  return number(key, min, max);
}

bool JsonFields::boolean_or(const char* key, bool absent) {
  const Json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) refuse_field(key, "true or false");
  return value->get<bool>();
}

std::string JsonFields::string(const char* key) {
  const Json* value = find(key);
  if (value == nullptr || !value->is_string()) refuse_field(key, "a string");
  return value->get<std::string>();
}

void JsonFields::ignore(std::string_view key) { known_.emplace(key); }

void JsonFields::refuse_others(const std::string& hint) const {
  for (const auto& [key, value] : object_.items()) {
    if (!known_.contains(key)) {
      throw Error(ErrorKind::InvalidModel, fmt::format("{}: {}: not understood, found {} ({})", where_,
                                                       printable(key), describe(value), hint));
    }
  }
}

void JsonFields::refuse_field(const char* key, const std::string& expected, const std::string& hint) const {
  const auto member = object_.find(key);
  refuse(where_ + ": " + key, expected, member == object_.end() ? "nothing" : describe(*member), hint);
}

}  // namespace rondo
