#include "runner/text/pre_tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "runner/text/pattern_syntax.h"

namespace rondo {
namespace {

// ByteLevel's own pattern, GPT-2's, already in PCRE2's words.
constexpr const char* kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";

constexpr size_t kMostSteps = 16;  // a piece goes through them by recursion

}  // namespace

// One text on its way through the steps.
class PreTokenizer::Run {
 public:
  Run(const std::vector<Step>& steps, const OnPiece& on_piece) : steps_(steps), on_piece_(on_piece) {
    for (const Step& step : steps) {
      const auto* split = std::get_if<Split>(&step);
      const auto* pattern = split == nullptr ? nullptr : std::get_if<Pattern>(&split->by);
      searches_.push_back(pattern == nullptr ? std::optional<Pattern::Search>() : Pattern::Search(*pattern));
    }
  }

  void piece(std::string_view text, size_t step) {
    if (text.empty()) return;
    if (step == steps_.size()) return on_piece_(text);
    const auto* split = std::get_if<Split>(&steps_[step]);
    if (split == nullptr) {
      if (text.front() == ' ') return piece(text, step + 1);
      const std::string prefixed = " " + std::string(text);
      return piece(prefixed, step + 1);
    }
    if (split->behavior == Behavior::Isolated) {  // the common one needs no list
      parts(text, step, [&](Part part) {
        piece(text.substr(part.range.begin, part.range.end - part.range.begin), step + 1);
      });
      return;
    }
    std::vector<Part> all;
    parts(text, step, [&](Part part) { all.push_back({part.range, part.match != split->invert}); });
    for (const Part& part : arranged(all, split->behavior))
      piece(text.substr(part.range.begin, part.range.end - part.range.begin), step + 1);
  }

 private:
  // Matches and what lies between them, which together are all of `text`.
  template <class F>
  void parts(std::string_view text, size_t step, F&& each) {
    const auto* word = std::get_if<std::string>(&std::get<Split>(steps_[step]).by);
    if (word == nullptr) searches_[step]->begin(text);
    size_t done = 0;
    while (done < text.size()) {
      std::optional<Range> match;
      if (word == nullptr) {
        match = searches_[step]->next();
      } else if (const size_t found = text.find(*word, done); found != text.npos) {
        match = Range{found, found + word->size()};
      }
      if (!match) match = Range{text.size(), text.size()};
      if (match->begin > done) each(Part{{done, match->begin}, false});
      if (match->end > match->begin) each(Part{*match, true});
      done = match->end;
    }
  }

  const std::vector<Step>& steps_;
  const OnPiece& on_piece_;
  std::vector<std::optional<Pattern::Search>> searches_;  // of each step that has a pattern
};

// Pieces of `parts` put together as `behavior` says, or left out.
std::vector<PreTokenizer::Part> PreTokenizer::arranged(const std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const bool follows_match = i > 0 && parts[i - 1].match;
    bool join = false;
    switch (behavior) {
      case Behavior::Removed:
        if (part.match) continue;
        break;
      case Behavior::Isolated: break;
      case Behavior::MergedWithPrevious:  // a match behind a match stands alone
        join = i > 0 && part.match && !follows_match;
        break;
      case Behavior::MergedWithNext: join = !part.match && follows_match; break;
      case Behavior::Contiguous: join = i > 0 && part.match == follows_match; break;
    }
    if (join) {
      out.back().range.end = part.range.end;
    } else {
      out.push_back(part);
    }
  }
  return out;
}

void PreTokenizer::split(std::string_view text, const OnPiece& on_piece) const {
  Run(steps_, on_piece).piece(text, 0);
}

PreTokenizer PreTokenizer::read(const Json& json, const std::string& where) {
  PreTokenizer pre_tokenizer;
  if (json.is_null())
    refuse(where, "a pre-tokenizer with ByteLevel", "null",
           "rondo reads tokenizers of the byte-level BPE kind");
  pre_tokenizer.read_step(json, where);
  if (!pre_tokenizer.ends_in_bytes_)
    refuse(where, "ByteLevel at the end", "none", "rondo reads tokenizers of the byte-level BPE kind");
  return pre_tokenizer;
}

void PreTokenizer::read_step(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  if (ends_in_bytes_) refuse(where, "nothing behind ByteLevel", type);
  if (steps_.size() >= kMostSteps) refuse(where, fmt::format("at most {} steps", kMostSteps), "more");
  if (type == "Sequence") {
    const Json* list = fields.find("pretokenizers");
    if (list == nullptr || !list->is_array()) fields.refuse_field("pretokenizers", "an array");
    fields.refuse_others("a pre-tokenizer's option that is not understood");
    for (size_t i = 0; i < list->size(); ++i)
      read_step((*list)[i], fmt::format("{}: pretokenizers[{}]", where, i));
    return;
  }
  if (type == "Split") {
    steps_.emplace_back(read_split(fields, where));
  } else if (type == "Digits") {
    const bool alone = fields.boolean_or("individual_digits", false);
    steps_.emplace_back(
        Split{Pattern("\\p{N}", where), alone ? Behavior::Isolated : Behavior::Contiguous, false});
  } else if (type == "ByteLevel") {
    if (fields.boolean_or("add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
    if (fields.boolean_or("use_regex", true))
      steps_.emplace_back(Split{Pattern(kByteLevelPattern, where), Behavior::Isolated, false});
    fields.ignore("trim_offsets");  // of offsets, which are not made
    ends_in_bytes_ = true;
  } else {
    fields.refuse_field("type", "Sequence, Split, Digits or ByteLevel",
                        "rondo reads tokenizers of the byte-level BPE kind");
  }
  fields.refuse_others("a pre-tokenizer's option that is not understood");
}

PreTokenizer::Split PreTokenizer::read_split(JsonFields& fields, const std::string& where) {
  struct Name {
    const char* name;
    Behavior behavior;
  };
  static constexpr std::array<Name, 5> kNames = {{{"Removed", Behavior::Removed},
                                                  {"Isolated", Behavior::Isolated},
                                                  {"MergedWithPrevious", Behavior::MergedWithPrevious},
                                                  {"MergedWithNext", Behavior::MergedWithNext},
                                                  {"Contiguous", Behavior::Contiguous}}};
  const std::string name = fields.string("behavior");
  std::optional<Behavior> behavior;
  for (const Name& known : kNames) {
    if (name == known.name) behavior = known.behavior;
  }
  if (!behavior)
    fields.refuse_field("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
  const Json* pattern = fields.find("pattern");
  if (pattern == nullptr) fields.refuse_field("pattern", "{\"Regex\": ..} or {\"String\": ..}");
  JsonFields kinds(*pattern, where + ": pattern");
  const bool regex = kinds.find("Regex") != nullptr;
  const std::string text = kinds.string(regex ? "Regex" : "String");
  kinds.refuse_others("a pattern is either a Regex or a String");
  if (text.empty()) fields.refuse_field("pattern", "one that is not empty");
  const bool invert = fields.boolean_or("invert", false);
  if (!regex) return {text, *behavior, invert};
  return {Pattern(to_pcre2(text, where + ": pattern"), where + ": pattern"), *behavior, invert};
}

}  // namespace rondo
