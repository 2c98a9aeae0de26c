#include "runner/cli/text.h"

#include <fmt/format.h>

#include "runner/file.h"

namespace rondo::cli {
namespace {

constexpr int64_t kByteValues = 256;
constexpr int64_t kLargestByteVocabulary = 300;

}  // namespace

Text Text::open(const std::string& model) {
  constexpr std::string_view kConfig = "/config.json";
  const std::string folder =
      model.ends_with(kConfig) ? model.substr(0, model.size() - kConfig.size()) : model;
  Text text;
  if (!path_exists(folder + "/tokenizer.json")) return text;
  try {
    text.tokenizer_ = Tokenizer::open(folder);
  } catch (const Error& error) {
    text.refusal_ = error.what();
  }
  return text;
}

void Text::set_vocab_size(int64_t vocab_size) {
  vocab_size_ = vocab_size;
  byte_level_ =
      !tokenizer_ && refusal_.empty() && vocab_size >= kByteValues && vocab_size <= kLargestByteVocabulary;
}

std::vector<int32_t> Text::ids(const std::string& text, const std::string& where,
                               bool add_special_tokens) const {
  if (!refusal_.empty()) throw Error(ErrorKind::InvalidModel, refusal_);
  if (tokenizer_) {
    try {
      return tokenizer_->encode(text, add_special_tokens);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("{}: {}", where, error.what()));
    }
  }
  if (!byte_level_) {
    throw Error(
        ErrorKind::InvalidArgument,
        fmt::format(
            "{}: expected a tokenizer.json beside the model, or a byte-level vocabulary of {} to {} tokens, "
            "found neither, and {} tokens; give the token ids with --prompt-ids 1,2,3",
            where, kByteValues, kLargestByteVocabulary, vocab_size_));
  }
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::vector<int32_t> Text::ids(const Prompt& prompt) const {
  return prompt.is_text ? ids(prompt.text, "--prompt") : prompt.ids;
}

std::string Text::bytes(int32_t token) const {
  if (tokenizer_)
    return tokenizer_->is_special(token) ? std::string() : std::string(tokenizer_->bytes(token));
  if (!byte_level_ || token < 0 || token >= kByteValues) return {};
  return std::string(1, static_cast<char>(static_cast<unsigned char>(token)));
}

}  // namespace rondo::cli
