// The regular expressions of a tokenizer.json, which are Oniguruma's, said in PCRE2's words.
#pragma once

#include <string>
#include <string_view>

namespace rondo {

// A PCRE2 pattern (for UTF and UCP) that matches what `pattern` matches. The two dialects spell much alike
// and mean different things by it, so that only what is known to mean the same is taken; anything else throws
// InvalidModel, naming the construct and its place. `pattern` is valid UTF-8; `where` opens each message.
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace rondo
