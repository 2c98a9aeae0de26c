// Which pages a sequence holds: taken on demand, shared where the content is the same, copied before one of
// several holders writes. Host bookkeeping only.
#pragma once

#include <cstdint>
#include <vector>

#include "buffers/page_pool.h"
#include "runner/prefix_cache.h"
#include "runner/sequence.h"

namespace rondo {

class SequencePages {
 public:
  // rope_original_length: beyond it, K depends on the prompt's length (Rope::original_length), so that only
  // sequences of the same share.
  SequencePages(const StepDims& dims, bool share_prefixes, int64_t rope_original_length);
  SequencePages(const SequencePages&) = delete;  // the pool calls back

  int64_t pages_for(int64_t positions) const { return (positions + page_size_ - 1) / page_size_; }

  // Pages for the first `positions` positions; false, and nothing taken, where there are not enough.
  bool grow(Sequence& sequence, int64_t positions);
  // Pages that no other holds for positions first .. last - 1: of each that is shared, a copy is planned.
  // False where there is none to copy to; what was planned stays.
  bool own(Sequence& sequence, int64_t first, int64_t last);

  // A sequence without pages gets those that hold the K/V of its first tokens; at least one token is left to
  // compute. Returns how many positions they hold.
  int64_t adopt_prefix(Sequence& sequence);
  // The same from a sequence that begins with the same tokens and has at least `positions` of them cached.
  void adopt(Sequence& sequence, const Sequence& source, int64_t positions);

  // Gives back the pages behind the cached positions.
  void trim(Sequence& sequence);

  // The planned copies were made, and the first `cached` positions hold what they should.
  void committed(Sequence& sequence);
  // Gives all back: nothing is cached any more.
  void release(Sequence& sequence);

  PagePool& pool() { return pool_; }
  const PagePool& pool() const { return pool_; }

 private:
  uint64_t salt(const Sequence& sequence) const;
  std::span<const int32_t> page_tokens(const Sequence& sequence, size_t page) const;

  int64_t page_size_;
  bool share_prefixes_;
  int64_t rope_original_length_;
  PagePool pool_;
  PrefixCache prefixes_;
};

}  // namespace rondo
