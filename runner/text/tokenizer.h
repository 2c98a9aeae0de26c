// Text to token ids and back, by a checkpoint's tokenizer.json of the byte-level BPE kind (Llama 3, Qwen 2
// and 3, Mistral's Tekken). Gives the ids and the text that the Python package `tokenizers` gives.
// docs/text.md says what is understood; all else in the file is refused by name.
//
//   const rondo::Tokenizer tokenizer = rondo::Tokenizer::open("models/some-checkpoint");
//   const std::vector<int32_t> ids = tokenizer.encode("Hello, world");
//   rondo::Utf8Stream stream;  // runner/text/utf8.h
//   for (int32_t id : ids) std::cout << stream.take(tokenizer.bytes(id));
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

// Safe to use from several threads at once: nothing changes after it is opened.
class Tokenizer {
 public:
  // Whether this build can read one at all: false where it was configured with RONDO_TEXT=OFF.
  static bool available();
  // Reads `path`/tokenizer.json. Throws InvalidModel with file, field and what was expected; InvalidArgument
  // where available() is false.
  static Tokenizer open(const std::string& path);
  // The same from memory; `name` stands for the file in messages.
  static Tokenizer parse(std::string_view json, const std::string& name);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // With `add_special_tokens` the ids that the post-processor puts around every text, such as the BOS. Throws
  // InvalidArgument for text that is not UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;

  // Bytes that are not UTF-8 become U+FFFD; ids without a token are left out.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // What a token stands for, part of a character where tokens cut one. Empty where `id` has no token.
  std::string_view bytes(int32_t id) const;
  // Whether the token is a mark and no text for readers.
  bool is_special(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rondo
