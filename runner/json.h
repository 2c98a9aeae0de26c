// Strict reading of JSON files, on nlohmann_json: what that accepts and a checkpoint must not hold is refused
// here. Internal to the runner: no public header includes this.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace rondo {

using Json = nlohmann::json;

// Throws InvalidModel: "WHERE: expected EXPECTED, found FOUND (HINT)".
[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& found,
                         const std::string& hint = "");

// Text from a file made fit for a message: unprintable bytes escaped, cut after 80 characters.
std::string printable(std::string_view text);

// A value with its type, short enough for a message: `"32" (a string)`, `an array of 3`.
std::string describe(const Json& value);

// A value takes more memory than the two bytes it may have in the text.
struct JsonLimits {
  uint64_t values;    // in the whole text
  uint64_t elements;  // of one array or object inside the root
  uint64_t string_bytes = uint64_t{1} << 18;
};

// Reads an object and hands over its members one by one, in the file's order, so that a bad member is refused
// before the rest is kept. Throws InvalidModel with file, byte and cause for anything but one valid object:
// not UTF-8, NUL bytes or escapes, a byte order mark, nesting above 64, a duplicate key at any depth, a
// string above `string_bytes`, a number above 128 characters, more than `max_values` values. Memory stays
// proportional to the text.
void read_json_members(std::string_view text, const std::string& name, JsonLimits limits,
                       const std::function<void(const std::string& key, Json value)>& on_member);

// The same, as one object.
Json read_json_object(std::string_view text, const std::string& name, JsonLimits limits);

// The members of one object, taken by name, with what is left over refused in the end. `where` opens each
// message: the file, and the field for an object inside it. Keeps a reference to `object`. Every function
// that takes a key throws InvalidModel with field, value and what was expected. Null is refused unless a name
// says otherwise.
class JsonFields {
 public:
  JsonFields(const Json& object, std::string where);

  const std::string& where() const { return where_; }

  // The value, or null where it is absent; null and absent are one where transformers gives None its own
  // meaning.
  const Json* find(const char* key);
  const Json* find_non_null(const char* key);

  // An integer literal in [min, max]; 32.0 and 1e3 are not.
  int64_t integer(const char* key, int64_t min, int64_t max);
  int64_t integer_or(const char* key, int64_t min, int64_t max, int64_t absent);
  std::optional<int64_t> integer_or_null(const char* key, int64_t min, int64_t max);
  // A finite number, integers included, in [min, max].
  double number(const char* key, double min, double max);
  double number_or(const char* key, double min, double max, double absent);
  std::optional<double> number_or_null(const char* key, double min, double max);
  bool boolean_or(const char* key, bool absent);
  std::string string(const char* key);

  // Marks a key as understood, whatever its value.
  void ignore(std::string_view key);
  // Refuses the first member that no call above has named.
  void refuse_others(const std::string& hint) const;

  [[noreturn]] void refuse_field(const char* key, const std::string& expected,
                                 const std::string& hint = "") const;

 private:
  const Json& object_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
};

// One element or member in [min, max]; `where` names it. As JsonFields::integer.
int64_t json_integer(const Json& value, const std::string& where, int64_t min, int64_t max);
double json_number(const Json& value, const std::string& where, double min, double max);

}  // namespace rondo
