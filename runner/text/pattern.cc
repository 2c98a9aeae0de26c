#include "runner/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <new>

#include "buffers/error.h"
#include "runner/json.h"

namespace rondo {
namespace {

constexpr size_t kJitStackStart = size_t{32} << 10;
constexpr size_t kJitStackMost = size_t{8} << 20;

template <class T, void (*Free)(T*)>
struct Freer {
  void operator()(T* pointer) const { Free(pointer); }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code, pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data, pcre2_match_data_free>>;
using MatchContext =
    std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context, pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack, pcre2_jit_stack_free>>;

std::string pcre2_message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

template <class T>
T allocated(T pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

}  // namespace

struct Pattern::Compiled {
  Code code;
};

struct Pattern::Search::State {
  const pcre2_code* code;
  std::string_view text;
  MatchData match;
  MatchContext context;
  JitStack stack;
  size_t at = 0;
};

Pattern::Pattern(const std::string& pcre2, const std::string& where)
    : compiled_(std::make_unique<Compiled>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  compiled_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre2.data()), pcre2.size(),
                                      PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (!compiled_->code)
    refuse(where, "a pattern that PCRE2 compiles",
           fmt::format("\"{}\": {}", printable(pcre2), pcre2_message(error)));
  uint32_t empty = 0;
  pcre2_pattern_info(compiled_->code.get(), PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty != 0)
    refuse(where, "a pattern that matches at least one character", "one that also matches none");
  pcre2_jit_compile(compiled_->code.get(), PCRE2_JIT_COMPLETE);  // without it the interpreter finds the same
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

Pattern::Search::Search(const Pattern& pattern) : state_(std::make_unique<State>()) {
  state_->code = pattern.compiled_->code.get();
  state_->match.reset(allocated(pcre2_match_data_create_from_pattern(state_->code, nullptr)));
  state_->context.reset(allocated(pcre2_match_context_create(nullptr)));
  state_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMost, nullptr));  // none: no JIT here
  if (state_->stack) pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
}

Pattern::Search::~Search() = default;
Pattern::Search::Search(Search&&) noexcept = default;
Pattern::Search& Pattern::Search::operator=(Search&&) noexcept = default;

void Pattern::Search::begin(std::string_view text) {
  state_->text = text;
  state_->at = 0;
}

std::optional<Range> Pattern::Search::next() {
  State& s = *state_;
  if (s.at >= s.text.size()) return std::nullopt;
  const int rc = pcre2_match(s.code, reinterpret_cast<PCRE2_SPTR>(s.text.data()), s.text.size(), s.at,
                             PCRE2_NO_UTF_CHECK, s.match.get(), s.context.get());
  if (rc == PCRE2_ERROR_NOMATCH) {
    s.at = s.text.size();
    return std::nullopt;
  }
  if (rc == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  if (rc < 0) {
    throw Error(
        ErrorKind::InvalidArgument,
        fmt::format(
            "text: expected its split pattern to match within PCRE2's limits, found: {} (at byte {} of {})",
            pcre2_message(rc), s.at, s.text.size()));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(s.match.get());
  s.at = ends[1];
  return Range{ends[0], ends[1]};
}

}  // namespace rondo
