// A sequence as bytes: a header that is checked, then everything that it needs to go on.
//
//   "rondoseq" | u32 version | u32 0 | u64 bytes in all | u64 checksum of what follows | body
//
// All numbers little-endian. The body opens with the shape and a fingerprint of the model and of its pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "buffers/step_buffers.h"
#include "runner/sequence.h"

namespace rondo {

// Of what K and V are, and whose.
struct SavedModel {
  int64_t layers = 0, kv_heads = 0, head_dim = 0, vocab_size = 0, page_size = 0;
  int64_t dtype = 0;
  uint64_t fingerprint = 0;  // of some of the weights
  bool operator==(const SavedModel&) const = default;
};
SavedModel saved_model(const StepDims& dims, uint64_t fingerprint);

struct SavedSequence {
  SavedModel model;
  Sequence sequence;             // of its state, only whether it ended; no slot, no pages
  std::vector<std::byte> pages;  // K and V of the pages that hold its `cached` positions, in order
};

uint64_t checksum(std::span<const std::byte> bytes, uint64_t start = 0xCBF29CE484222325u);

std::vector<std::byte> to_bytes(const SavedSequence& saved);

// Throws InvalidArgument for whatever to_bytes() of the same model cannot have written. `page_bytes` of one
// page.
SavedSequence from_bytes(std::span<const std::byte> bytes, const SavedModel& model, const StepDims& dims,
                         uint64_t page_bytes);

}  // namespace rondo
