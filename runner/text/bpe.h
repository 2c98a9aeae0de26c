// Byte-pair encoding of pieces of bytes: the model of a tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runner/json.h"

namespace rondo {

class Bpe {
 public:
  // The member "model". Throws InvalidModel for what is not byte-level BPE, for a vocabulary without all 256
  // bytes, and for merges of what the vocabulary does not have.
  static Bpe read(const Json& json, const std::string& where);

  // What encode() works with; keep one to keep its memory.
  struct Scratch {
    struct Symbol {
      int32_t id = 0;
      int32_t bytes = 0;  // 0: merged into the one before it
      int32_t previous = -1;
      int32_t next = -1;
    };
    struct Candidate {
      int32_t rank = 0;
      int32_t at = 0;                                 // of the left symbol
      int32_t id = 0;                                 // of the two merged
      bool operator<(const Candidate& other) const {  // the queue's top is the lowest rank, then the leftmost
        return rank != other.rank ? rank > other.rank : at > other.at;
      }
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
  };

  // Appends the ids of one piece, shorter than 2 GiB. Takes n log n steps for n bytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  // As the file spells them: in the alphabet that stands for bytes.
  const std::unordered_map<int32_t, std::string>& tokens() const { return tokens_; }
  // -1 where the vocabulary does not have it.
  int32_t id_of(const std::string& token) const;

 private:
  struct Merge {
    int32_t rank = 0;
    int32_t id = 0;  // of the result
  };
  static uint64_t pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void read_vocabulary(const Json& json, const std::string& where);
  void read_merges(const Json& json, const std::string& where);
  void offer(Scratch& scratch, int32_t at) const;
  void merge_all(Scratch& scratch) const;

  bool ignore_merges_ = false;  // a piece that is a token as it stands is that token
  std::unordered_map<int32_t, std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_map<std::string, int32_t> pieces_;  // by their bytes; only with ignore_merges
  std::vector<int32_t> byte_ids_;
  std::unordered_map<uint64_t, Merge> merges_;
};

}  // namespace rondo
