#include "runner/text/pattern_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "runner/json.h"
#include "runner/text/utf8.h"

namespace rondo {
namespace {

// General categories: the same in both dialects. Scripts are not (PCRE2's \p{Han} is Script_Extensions).
constexpr std::array<std::string_view, 34> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P",  "Pc", "Pd",
    "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

// Letters that case folding also finds in one character: "st" in U+FB06. Oniguruma does that, PCRE2 does not.
constexpr std::array<std::string_view, 5> kLigatures = {"ff", "fi", "fl", "ss", "st"};

constexpr int kLargestRepeat = 1000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string all() {
    while (at_ < in_.size()) next();
    if (groups_.size() > 1) refuse_at(in_.size(), "a ) for every (");
    return std::move(out_);
  }

 private:
  struct Group {
    bool ignore_case = false;
    bool looks = false;  // around: matches no characters of its own
  };
  // What the pattern's last part was, so that a quantifier knows what it repeats.
  enum class Last { Nothing, Atom, Literal, Quantifier, Look };

  // One member of a class or one escape: a character, or a set of them in PCRE2's words.
  struct Member {
    std::optional<char32_t> code;
    std::string set;
  };

  [[noreturn]] void refuse_at(size_t at, const std::string& expected) const {
    const std::string_view rest = in_.substr(at, 12);
    refuse(where_, expected,
           rest.empty() ? "the end of the pattern"
                        : fmt::format("\"{}\" at byte {} of the pattern", printable(rest), at));
  }

  bool at(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool ignore_case() const { return groups_.back().ignore_case; }

  void put(char32_t code) { out_ += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(code)); }

  void literal(char32_t code) {
    if (ignore_case()) {
      if (code >= 0x80) refuse_at(at_, "only ASCII where case is ignored");
      const std::string pair{last_letter_, lower(static_cast<char>(code))};
      if (last_ == Last::Literal && std::find(kLigatures.begin(), kLigatures.end(), pair) != kLigatures.end())
        refuse_at(at_, "no letters that have a ligature (ff, fi, fl, ss, st) where case is ignored");
      last_letter_ = lower(static_cast<char>(code));
    }
    put(code);
    last_ = Last::Literal;
  }

  void next() {
    const char c = in_[at_];
    switch (c) {
      case '\\': {
        const Member member = escape();
        if (member.code) return literal(*member.code);
        out_ += member.set;
        last_ = Last::Atom;
        return;
      }
      case '[': return set();
      case '(': return open();
      case ')':
        if (groups_.size() == 1) refuse_at(at_, "a ( before it");
        last_ = groups_.back().looks ? Last::Look : Last::Atom;
        groups_.pop_back();
        out_ += c;
        ++at_;
        return;
      case '|':
        out_ += c;
        ++at_;
        last_ = Last::Nothing;
        return;
      case '?':
      case '*':
      case '+': return repeat();
      case '{': return interval();
      case '.':  // anything but a newline, in both; said so that no build option of PCRE2 matters
        out_ += "[^\\x{a}]";
        last_ = Last::Atom;
        ++at_;
        return;
      case '^':
      case '$': refuse_at(at_, "no ^ or $ (they stand for a line's ends here, for the text's elsewhere)");
      default: {
        const Character character = first_character(in_.substr(at_));
        literal(character.code);
        at_ += character.bytes;
      }
    }
  }

  void open() {
    struct Form {
      std::string_view text;
      bool looks;
    };
    static constexpr std::array<Form, 6> kForms = {
        {{"(?:", false}, {"(?>", false}, {"(?=", true}, {"(?!", true}, {"(?<=", true}, {"(?<!", true}}};
    Group group = {ignore_case(), false};
    if (at("(?i:")) {
      group.ignore_case = true;
      out_ += "(?i:";
      at_ += 4;
    } else if (at("(?")) {
      const auto form = std::find_if(kForms.begin(), kForms.end(), [&](const Form& f) { return at(f.text); });
      if (form == kForms.end()) refuse_at(at_, "(?: (?i: (?> (?= (?! (?<= or (?<! of the groups with a ?");
      group.looks = form->looks;
      out_ += form->text;
      at_ += form->text.size();
    } else {
      out_ += "(?:";  // nothing refers back to it
      ++at_;
    }
    groups_.push_back(group);
    if (groups_.size() > 32) refuse_at(at_, "groups nested at most 32 deep");
    last_ = Last::Nothing;
  }

  void check_repeatable() const {
    if (last_ == Last::Literal && ignore_case())
      refuse_at(at_, "no repeated letter where case is ignored (its ligatures differ)");
    if (last_ != Last::Atom && last_ != Last::Literal) refuse_at(at_, "something to repeat before it");
  }

  void repeat() {
    check_repeatable();
    out_ += in_[at_++];
    if (at("?") || at("+")) out_ += in_[at_++];  // lazy, possessive
    last_ = Last::Quantifier;
  }

  void interval() {
    check_repeatable();
    const size_t start = at_++;
    const std::optional<int> low = number();
    std::optional<int> high = low;
    const bool comma = at(",");
    if (comma) {
      ++at_;
      high = number();
    }
    if (!low || !at("}") || (high && *high < *low))
      refuse_at(start, "{n}, {n,} or {n,m}, and \\{ for a brace");
    ++at_;
    if (at("?") || at("+")) refuse_at(at_, "no ? or + behind {n,m} (the dialects differ)");
    out_ += !comma ? fmt::format("{{{}}}", *low)
            : high ? fmt::format("{{{},{}}}", *low, *high)
                   : fmt::format("{{{},}}", *low);
    last_ = Last::Quantifier;
  }

  std::optional<int> number() {
    const size_t start = at_;
    int value = 0;
    for (; at_ < in_.size() && is_digit(in_[at_]); ++at_) {
      value = value * 10 + (in_[at_] - '0');
      if (value > kLargestRepeat) refuse_at(start, fmt::format("repeats of at most {}", kLargestRepeat));
    }
    if (at_ == start) return std::nullopt;
    return value;
  }

  void set() {
    const size_t start = at_++;
    out_ += '[';
    if (at("^")) {
      out_ += '^';
      ++at_;
    }
    if (at("]")) refuse_at(start, "a class with something in it, and \\] for a bracket");
    while (!at("]")) {
      if (at_ >= in_.size()) refuse_at(start, "a ] that ends the class");
      const Member low = member();
      if (!low.code) {
        out_ += low.set;
        if (at("-") && in_.substr(at_, 2) != "-]") refuse_at(at_, "a range between two characters");
        continue;
      }
      put(*low.code);
      if (!at("-") || in_.substr(at_, 2) == "-]") continue;
      const size_t dash = at_++;
      const Member high = at_ < in_.size() ? member() : Member{};
      if (!high.code || *high.code < *low.code)
        refuse_at(dash, "a range between two characters, the lower first");
      out_ += '-';
      put(*high.code);
    }
    out_ += ']';
    ++at_;
    last_ = Last::Atom;
  }

  Member member() {
    if (at("\\")) return escape();
    if (at("[") || at("&&")) refuse_at(at_, "no class in a class and no && (\\[ or \\& for the characters)");
    const Character character = first_character(in_.substr(at_));
    if (ignore_case() && character.code >= 0x80) refuse_at(at_, "only ASCII where case is ignored");
    at_ += character.bytes;
    return {character.code, ""};
  }

  Member escape() {
    const size_t start = at_;
    if (++at_ >= in_.size()) refuse_at(start, "a character behind \\");
    const char c = in_[at_++];
    switch (c) {
      case 's': return {std::nullopt, "\\p{White_Space}"};  // PCRE2's \s also takes U+180E
      case 'S': return {std::nullopt, "\\P{White_Space}"};
      case 'd': return {std::nullopt, "\\p{Nd}"};
      case 'D': return {std::nullopt, "\\P{Nd}"};
      case 'n': return {U'\n', ""};
      case 'r': return {U'\r', ""};
      case 't': return {U'\t', ""};
      case 'f': return {U'\f', ""};
      case 'v': return {U'\v', ""};  // PCRE2's \v is a set
      case 'p':
      case 'P': {
        const size_t end = in_.find('}', at_);
        if (!at("{") || end == in_.npos) refuse_at(start, "\\p{L} or another general category");
        const std::string_view name = in_.substr(at_ + 1, end - at_ - 1);
        if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
          refuse_at(start, "\\p{L} or another general category");
        at_ = end + 1;
        return {std::nullopt, fmt::format("\\{}{{{}}}", c, name)};
      }
      case 'x':
      case 'u': return {hexadecimal(start, c == 'u'), ""};
      default:
        if (is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80)
          refuse_at(
              start,
              "\\s \\S \\d \\D \\n \\r \\t \\f \\v \\p{..} \\P{..} \\x.. \\u.... or \\ before punctuation");
        return {static_cast<char32_t>(c), ""};
    }
  }

  // \x2D, \x{10FFFF} or \u002D
  char32_t hexadecimal(size_t start, bool four) {
    const bool braces = !four && at("{");
    if (braces) ++at_;
    const size_t most = four ? 4 : braces ? 6 : 2;
    char32_t code = 0;
    size_t digits = 0;
    for (; at_ < in_.size() && digits < most; ++at_, ++digits) {
      const char c = lower(in_[at_]);
      if (is_digit(c)) {
        code = code * 16 + static_cast<char32_t>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        code = code * 16 + static_cast<char32_t>(c - 'a' + 10);
      } else {
        break;
      }
    }
    const bool complete = braces ? digits > 0 && at("}") : digits == most;
    const bool byte = !four && !braces && code >= 0x80;  // a byte of UTF-8 there, a character elsewhere
    const bool character = code < 0xD800 || (code > 0xDFFF && code <= 0x10FFFF);
    if (!complete || byte || !character) refuse_at(start, "a character as \\x2D, \\x{2D} or \\u002D");
    if (braces) ++at_;
    return code;
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
  std::vector<Group> groups_ = {Group{}};  // the open ones, the whole pattern first
  Last last_ = Last::Nothing;
  char last_letter_ = 0;
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).all();
}

}  // namespace rondo
