// How a model's prompts are read and its tokens shown: by its tokenizer.json, byte by byte, or as ids alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runner/cli/options.h"
#include "runner/text/tokenizer.h"

namespace rondo::cli {

class Text {
 public:
  // Reads the tokenizer.json of a checkpoint directory, or beside a config.json, where there is one. One that
  // is not understood is kept as a reason: token ids work without it.
  static Text open(const std::string& model);

  // Without a tokenizer a vocabulary of 256 byte values, and room for a few special ids, is text all the
  // same.
  void set_vocab_size(int64_t vocab_size);

  // Whether tokens have text.
  bool readable() const { return tokenizer_ || byte_level_; }
  // Why the tokenizer.json that is there is not used; empty where nothing is wrong.
  const std::string& refusal() const { return refusal_; }

  // Throws Error (InvalidArgument, or InvalidModel for a tokenizer that is not understood); `where` opens its
  // message.
  std::vector<int32_t> ids(const std::string& text, const std::string& where,
                           bool add_special_tokens = true) const;
  std::vector<int32_t> ids(const Prompt& prompt) const;

  // What a token stands for, part of a character where tokens cut one; empty for special tokens. See
  // Utf8Stream.
  std::string bytes(int32_t token) const;

 private:
  std::optional<Tokenizer> tokenizer_;
  std::string refusal_;
  bool byte_level_ = false;
  int64_t vocab_size_ = 0;
};

}  // namespace rondo::cli
