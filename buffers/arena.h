// Memory that never moves. A layout is computed by running one function over a Layout: without memory it
// counts, with memory it places; sizes are never written twice. An Arena owns the block that a layout was
// placed in and is sealed from then on.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "buffers/device.h"
#include "buffers/view.h"

namespace rondo {

// One named buffer of a layout. `offset` is in bytes from the arena's start, a multiple of
// Layout::kAlignment.
struct Placement {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class Layout {
 public:
  static constexpr uint64_t kAlignment = 256;  // what cuBLASLt, 16-byte loads and bulk copies can all rely on

  // `base` null: only counts, and the views' data stay null.
  explicit Layout(void* base = nullptr) : base_(static_cast<std::byte*>(base)) {}

  // Places `shape` elements of `dtype` behind all others. Throws Misuse for a name already taken,
  // InvalidArgument where the size does not fit in 64 bits.
  View place(const std::string& name, DType dtype, Shape shape);

  uint64_t bytes() const { return bytes_; }
  const std::vector<Placement>& placements() const { return placements_; }

 private:
  std::byte* base_;
  uint64_t bytes_ = 0;
  std::vector<Placement> placements_;
  std::unordered_set<std::string> names_;
};

class Arena {
 public:
  // Runs `lay_out` twice: to count, and, once `device` has given that many bytes, to place. `name` is used in
  // messages.
  Arena(Device& device, std::string name, const std::function<void(Layout&)>& lay_out);

  Arena(const Arena&) = delete;  // sealed: graphs hold its addresses
  Arena& operator=(const Arena&) = delete;

  const std::string& name() const { return name_; }
  uint64_t bytes() const { return block_->bytes(); }
  const std::vector<Placement>& placements() const { return placements_; }
  bool contains(const void* address) const;

  void* data() const { return block_->data(); }

 private:
  std::string name_;
  std::unique_ptr<Block> block_;
  std::vector<Placement> placements_;
};

}  // namespace rondo
