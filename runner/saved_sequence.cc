#include "runner/saved_sequence.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

namespace rondo {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are stored as they lie in memory");

constexpr char kMagic[] = "rondoseq";
constexpr uint32_t kVersion = 1;
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t bytes;
  uint64_t checksum;
};
static_assert(sizeof(Header) == 32);

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorKind::InvalidArgument, "saved sequence: " + why);
}

class Writer {
 public:
  template <class T>
  void operator()(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put(&value, sizeof(T));
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(static_cast<uint64_t>(values.size()));
    if constexpr (std::is_trivially_copyable_v<T>)
      put(values.data(), values.size() * sizeof(T));
    else
      for (const T& value : values) (*this)(value);
  }
  std::vector<std::byte> bytes;

 private:
  void put(const void* from, size_t n) {
    const auto* at = static_cast<const std::byte*>(from);
    bytes.insert(bytes.end(), at, at + n);
  }
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}
  template <class T>
  void operator()(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    take(&value, sizeof(T), 1);
  }
  void operator()(bool& value) {  // any other byte than 0 and 1 would not be a bool
    uint8_t byte = 0;
    (*this)(byte);
    value = byte != 0;
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    uint64_t count = 0;
    (*this)(count);
    if (count > left_.size())
      refuse(fmt::format("{} bytes are left where {} elements should come", left_.size(), count));
    values.resize(count);
    if constexpr (std::is_trivially_copyable_v<T>)
      take(values.data(), sizeof(T), count);
    else
      for (T& value : values) (*this)(value);
  }
  size_t left() const { return left_.size(); }

 private:
  void take(void* to, size_t size, size_t count) {
    if (count > left_.size() / size)
      refuse(fmt::format("{} bytes are left where {} should come", left_.size(), size * count));
    if (count) std::memcpy(to, left_.data(), size * count);
    left_ = left_.subspan(size * count);
  }
  std::span<const std::byte> left_;
};

// One list of fields for both directions.
template <class Archive, class Saved>
void visit(Archive& io, Saved& saved) {
  auto& m = saved.model;
  io(m.layers), io(m.kv_heads), io(m.head_dim), io(m.vocab_size), io(m.page_size), io(m.dtype),
      io(m.fingerprint);
  auto& s = saved.sequence;
  io(s.tokens), io(s.prompt_length), io(s.max_length), io(s.cached);
  io(s.stop_ids), io(s.stop_sequences), io(s.min_new_tokens), io(s.priority), io(s.draft_tokens),
      io(s.draft_ngram);
  auto& p = s.sampling;
  io(p.temperature), io(p.top_k), io(p.top_p), io(p.min_p), io(p.repetition_penalty), io(p.presence_penalty);
  io(p.frequency_penalty), io(p.seed), io(p.logit_bias), io(p.top_logprobs);
  io(saved.pages);
}

void check_sequence(const Sequence& s, const StepDims& dims) {
  check_tokens("saved tokens", s.tokens, dims.vocab_size);
  check_tokens("saved stop_ids", s.stop_ids, dims.vocab_size);
  check_sampling(s.sampling, dims.vocab_size);
  check_biases(s.sampling, s.min_new_tokens > 0 ? s.stop_ids.size() : 0);
  const auto length = static_cast<int64_t>(s.tokens.size());
  const bool ended = s.state == Sequence::State::Ended;
  const bool lengths_good = s.prompt_length >= 1 && s.prompt_length <= length && s.max_length >= length &&
                            s.cached >= 0 && s.cached < length && (!ended || s.cached == 0) &&
                            s.max_length - s.prompt_length <= std::numeric_limits<int>::max();
  const bool rest_good =
      s.min_new_tokens >= 0 && s.draft_tokens >= 0 && s.draft_ngram >= 1 && s.draft_ngram <= 16 &&
      std::is_sorted(s.stop_ids.begin(), s.stop_ids.end()) &&
      std::none_of(s.stop_sequences.begin(), s.stop_sequences.end(), [](auto& stop) { return stop.empty(); });
  if (!lengths_good || !rest_good) refuse("expected lengths and numbers that go together, found others");
  if (!ended && length > dims.max_context)
    throw Error(ErrorKind::ContextFull,
                fmt::format("saved sequence: {} tokens, and a sequence holds {} (max_context)", length,
                            dims.max_context));
}

}  // namespace

SavedModel saved_model(const StepDims& d, uint64_t fingerprint) {
  return {d.layers,   d.kv_heads, d.head_dim, d.vocab_size, d.page_size, static_cast<int64_t>(d.weight_dtype),
          fingerprint};
}

uint64_t checksum(std::span<const std::byte> bytes, uint64_t start) {
  uint64_t h = start;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
  }
  for (; i < bytes.size(); ++i) h = (h ^ static_cast<uint8_t>(bytes[i])) * 0x100000001B3u;
  return h ^ h >> 32;
}

std::vector<std::byte> to_bytes(const SavedSequence& saved) {
  Writer body;
  body(static_cast<uint8_t>(saved.sequence.state == Sequence::State::Ended));
  body(static_cast<int32_t>(saved.sequence.finish));
  visit(body, saved);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(header.magic));
  header.version = kVersion;
  header.bytes = sizeof(Header) + body.bytes.size();
  header.checksum = checksum(body.bytes);
  Writer all;
  all(header);
  all.bytes.insert(all.bytes.end(), body.bytes.begin(), body.bytes.end());
  return all.bytes;
}

SavedSequence from_bytes(std::span<const std::byte> bytes, const SavedModel& model, const StepDims& dims,
                         uint64_t page_bytes) {
  Header header{};
  if (bytes.size() < sizeof(Header))
    refuse(fmt::format("expected a header of {} bytes, found {}", sizeof(Header), bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (std::memcmp(header.magic, kMagic, sizeof(header.magic)) != 0)
    refuse("expected it to begin with 'rondoseq', found other bytes");
  if (header.version != kVersion || header.reserved != 0)
    refuse(fmt::format("expected version {}, found {}", kVersion, header.version));
  if (header.bytes != bytes.size())
    refuse(fmt::format("expected {} bytes, found {}", header.bytes, bytes.size()));
  const auto body = bytes.subspan(sizeof(Header));
  if (checksum(body) != header.checksum)
    refuse("its bytes are not those that were saved: the checksum differs");
  Reader reader(body);
  SavedSequence saved;
  bool ended = false;
  int32_t finish = 0;
  reader(ended);
  reader(finish);
  visit(reader, saved);
  if (reader.left() != 0) refuse(fmt::format("expected its end, found {} more bytes", reader.left()));
  if (finish < 0 || finish > static_cast<int32_t>(FinishReason::NumericalError) || (finish != 0) != ended)
    refuse(fmt::format("expected a finish reason of {}, found {}", ended ? "1 to 5" : "0", finish));
  saved.sequence.state = ended ? Sequence::State::Ended : Sequence::State::Waiting;
  saved.sequence.finish = static_cast<FinishReason>(finish);
  if (saved.model != model) {
    const auto text = [](const SavedModel& m) {
      return fmt::format("{} layers, {} K/V heads x {}, {} tokens, pages of {}, {}, weights {:016x}",
                         m.layers, m.kv_heads, m.head_dim, m.vocab_size, m.page_size, m.dtype, m.fingerprint);
    };
    refuse(fmt::format("expected the model {}, found {}", text(model), text(saved.model)));
  }
  check_sequence(saved.sequence, dims);
  const auto pages = static_cast<uint64_t>((saved.sequence.cached + dims.page_size - 1) / dims.page_size);
  if (saved.pages.size() != pages * page_bytes)
    refuse(fmt::format("expected {} bytes of K/V pages, found {}", pages * page_bytes, saved.pages.size()));
  return saved;
}

}  // namespace rondo
