// A compiled regular expression and the search for it, by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace rondo {

// Bytes [begin, end) of a text.
struct Range {
  size_t begin = 0;
  size_t end = 0;
};

// Safe to use from several threads at once: what a search needs is in a Search.
class Pattern {
 public:
  // Of PCRE2's syntax. Throws InvalidModel where it does not compile or matches nothing at all, a match
  // without end.
  Pattern(const std::string& pcre2, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // The search through texts, one after the other, match by match.
  class Search {
   public:
    explicit Search(const Pattern& pattern);  // which outlives it
    ~Search();
    Search(Search&&) noexcept;
    Search& operator=(Search&&) noexcept;

    // `text` is valid UTF-8 and stays while it is searched; its ends are the ends for lookaround.
    void begin(std::string_view text);

    // The first match that begins at the end of the one before or behind it. Throws InvalidArgument where the
    // search would take more steps than PCRE2 allows.
    std::optional<Range> next();

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace rondo
