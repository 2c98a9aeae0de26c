#include "runner/text/tokenizer.h"

#include <fmt/format.h>

#include <limits>
#include <set>
#include <unordered_map>
#include <utility>

#include "buffers/error.h"
#include "runner/file.h"
#include "runner/json.h"
#include "runner/text/added_tokens.h"
#include "runner/text/bpe.h"
#include "runner/text/byte_level.h"
#include "runner/text/normalizer.h"
#include "runner/text/pre_tokenizer.h"
#include "runner/text/template.h"
#include "runner/text/utf8.h"

namespace rondo {
namespace {

// The largest vocabularies have some 260,000 tokens and 600,000 merges of three values each.
constexpr uint64_t kMostBytes = uint64_t{64} << 20;
constexpr JsonLimits kLimits = {uint64_t{1} << 23, uint64_t{1} << 21};

struct Token {
  std::string bytes;
  bool special = false;
};

}  // namespace

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  Template around;
  AddedTokenFinder as_written;  // added tokens, found before the text is normalized
  AddedTokenFinder normalized;  // and after
  std::unordered_map<int32_t, Token> tokens;

  void add_text(std::string_view text, Bpe::Scratch& scratch, std::vector<int32_t>& ids) const {
    pre_tokenizer.split(text, [&](std::string_view piece) { bpe.encode(piece, scratch, ids); });
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::available() { return true; }

Tokenizer Tokenizer::open(const std::string& path) {
  const std::string file = path + "/tokenizer.json";
  return parse(read_text_file(file, kMostBytes), file);
}

Tokenizer Tokenizer::parse(std::string_view json, const std::string& name) {
  const Json root = read_json_object(json, name, kLimits);
  JsonFields fields(root, name);
  if (fields.find("version") != nullptr && fields.string("version") != "1.0")
    fields.refuse_field("version", "\"1.0\"");
  for (const char* key : {"truncation", "padding"}) {
    if (fields.find_non_null(key) != nullptr)
      fields.refuse_field(key, "null", "it would change every text; reset it and save the tokenizer again");
  }
  const auto member = [&](const char* key) -> const Json& {
    static const Json null;
    const Json* value = fields.find(key);
    return value == nullptr ? null : *value;
  };
  const auto at = [&](const char* key) { return name + ": " + key; };

  Bpe bpe = Bpe::read(member("model"), at("model"));
  const Normalizer normalizer = Normalizer::read(member("normalizer"), at("normalizer"));
  PreTokenizer pre_tokenizer = PreTokenizer::read(member("pre_tokenizer"), at("pre_tokenizer"));
  Template around = read_template(member("post_processor"), at("post_processor"));
  JsonFields decoder(member("decoder"), at("decoder"));
  if (decoder.string("type") != "ByteLevel")
    decoder.refuse_field("type", "ByteLevel", "rondo reads tokenizers of the byte-level BPE kind");
  for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) decoder.ignore(key);
  decoder.refuse_others("a decoder's option that is not understood");

  std::unordered_map<int32_t, Token> tokens;
  for (const auto& [id, token] : bpe.tokens()) tokens[id].bytes = token_bytes(token).value_or(token);
  std::vector<AddedTokenFinder::Entry> as_written;
  std::vector<AddedTokenFinder::Entry> normalized;
  if (const Json* added = fields.find("added_tokens")) {
    const auto known = [&](const std::string& content) { return bpe.id_of(content); };
    std::vector<AddedToken> list = read_added_tokens(*added, at("added_tokens"), bpe.size(), known);
    std::set<std::string> specials;
    for (const AddedToken& token : list) {
      if (token.special) specials.insert(token.content);
    }
    for (AddedToken& token : list) {
      if (bpe.id_of(token.content) < 0 && tokens.contains(token.id))
        refuse(at("added_tokens"), "ids that the vocabulary does not use", fmt::format("{}", token.id));
      // It is found, and shown again, in this form.
      const std::string form = token.normalized ? normalizer(token.content) : token.content;
      tokens[token.id] = {token_bytes(form).value_or(form), specials.contains(form)};
      (token.normalized ? normalized : as_written).push_back({form, std::move(token)});
    }
  }
  fields.refuse_others("a part of a tokenizer that is not understood");
  return Tokenizer(std::make_unique<Impl>(Impl{normalizer, std::move(pre_tokenizer), std::move(bpe),
                                               std::move(around), AddedTokenFinder(std::move(as_written)),
                                               AddedTokenFinder(std::move(normalized)), std::move(tokens)}));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (const auto bad = invalid_utf8_at(text)) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("text: expected UTF-8, found the byte 0x{:02x} at byte {}",
                            static_cast<unsigned char>(text[*bad]), *bad));
  }
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max() / 4)) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("text: expected at most {} bytes, found {}",
                            std::numeric_limits<int32_t>::max() / 4, text.size()));
  }
  const Impl& impl = *impl_;
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = impl.around.before;
  Bpe::Scratch scratch;
  const auto on_token = [&](int32_t id) { ids.push_back(id); };
  impl.as_written.split(
      text,
      [&](std::string_view stretch) {
        const std::string normal = impl.normalizer(stretch);
        impl.normalized.split(
            normal, [&](std::string_view plain) { impl.add_text(plain, scratch, ids); }, on_token);
      },
      on_token);
  if (add_special_tokens) ids.insert(ids.end(), impl.around.behind.begin(), impl.around.behind.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  Utf8Stream stream;
  std::string text;
  for (const int32_t id : ids) {
    if (!(skip_special_tokens && is_special(id))) text += stream.take(bytes(id));
  }
  return text + stream.end();
}

std::string_view Tokenizer::bytes(int32_t id) const {
  const auto token = impl_->tokens.find(id);
  return token == impl_->tokens.end() ? std::string_view() : token->second.bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  const auto token = impl_->tokens.find(id);
  return token != impl_->tokens.end() && token->second.special;
}

}  // namespace rondo
