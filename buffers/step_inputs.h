// The host's side of the input block: a small ring of pinned mirrors, each guarded by an event, so that a
// mirror is rewritten only when its copies have been made. Copies stay outside the graph: a captured copy
// would freeze its address.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "buffers/device.h"
#include "buffers/step_buffers.h"

namespace rondo {

class StepInputs {
 public:
  StepInputs(Device& device, const StepDims& dims, const StepBuffers& buffers);

  // Starts the next step's inputs: waits until the mirror is free, makes all rows padding and all logit rows
  // 0.
  void begin();

  std::span<Row> rows();            // [max_rows]
  std::span<int32_t> logit_rows();  // [max_logit_rows]

  // Enqueues a slot's page table (entries behind `pages` name the scrap page) and parameters; at most once
  // per slot between begin() and upload(). `clear_seen` also forgets which tokens the slot has seen.
  void write_slot(int slot, std::span<const int32_t> pages, const SlotParams& params, bool clear_seen);

  // Enqueues rows and logit rows: one copy.
  void upload();

 private:
  struct Mirror {
    std::unique_ptr<Block> block;  // rows and logit rows as in the arena, then page tables, then slots
    std::unique_ptr<Event> copied;
  };
  std::byte* mirror() const;

  Device& device_;
  StepDims dims_;
  StepBuffers buffers_;
  uint64_t logit_rows_offset_;
  uint64_t tables_offset_;
  uint64_t slots_offset_;
  std::vector<Mirror> ring_;
  size_t current_ = 0;
};

}  // namespace rondo
