// In place of tokenizer.cc in a build without PCRE2 and utf8proc: no text, and an error that says why.
#include "buffers/error.h"
#include "runner/text/tokenizer.h"

namespace rondo {

struct Tokenizer::Impl {};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::available() { return false; }

Tokenizer Tokenizer::open(const std::string& path) { return parse({}, path + "/tokenizer.json"); }

Tokenizer Tokenizer::parse(std::string_view, const std::string& name) {
  throw Error(
      ErrorKind::InvalidArgument,
      name +
          ": expected a rondo that reads it, found one built with RONDO_TEXT=OFF (it needs libpcre2-dev and "
          "libutf8proc-dev)");
}

std::vector<int32_t> Tokenizer::encode(std::string_view, bool) const { return {}; }
std::string Tokenizer::decode(std::span<const int32_t>, bool) const { return {}; }
std::string_view Tokenizer::bytes(int32_t) const { return {}; }
bool Tokenizer::is_special(int32_t) const { return false; }

}  // namespace rondo
