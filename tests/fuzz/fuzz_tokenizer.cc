// A tokenizer.json from any bytes: a tokenizer that takes any text and gives text, or an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "buffers/error.h"
#include "runner/text/tokenizer.h"
#include "runner/text/utf8.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

void use(const rondo::Tokenizer& tokenizer) {
  using namespace std::string_literals;
  for (const std::string& text :
       {""s, "Hello, world's 123  \n\n end"s, "<s> e\xCC\x81\xCC\xA3 \xE6\xBC\xA2\xF0\x9F\x91\x8D_ \0"s}) {
    try {
      const std::vector<int32_t> ids = tokenizer.encode(text);
      check(!rondo::invalid_utf8_at(tokenizer.decode(ids)));
      rondo::Utf8Stream stream;
      std::string streamed;
      for (const int32_t id : ids) {
        check(id >= 0);
        streamed += stream.take(tokenizer.bytes(id));
      }
      check(streamed + stream.end() == tokenizer.decode(ids, false));
    } catch (const rondo::Error& error) {  // a pattern that backtracks without end
      check(error.kind() == rondo::ErrorKind::InvalidArgument);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    use(rondo::Tokenizer::parse(text, "tokenizer.json"));
  } catch (const rondo::Error& error) {
    check(error.kind() == rondo::ErrorKind::InvalidModel);
  }
  return 0;
}
