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

  std::span<Row> rows();                  // [max_rows]
  std::span<int32_t> logit_rows();        // [max_logit_rows]
  void set_turns(int next, int current);  // 0 or 1; 0 where nobody sets them

  // Between begin() and upload() or end_without_rows(), each at most once per slot:
  // a slot's parameters and biases, those held back behind the others;
  void write_slot(int slot, const SlotParams& params, std::span<const SlotBias> biases);
  // entries `first` .. of its page table; `rest`: the entries behind them name the scrap page;
  void write_pages(int slot, int64_t first, std::span<const int32_t> pages, bool rest);
  // the tokens at its first positions, which this engine's rows did not put there.
  void write_history(int slot, std::span<const int32_t> tokens);

  // Enqueues rows, logit rows and turns: one copy.
  void upload();
  // Instead, for a step whose rows are on the device already.
  void end_without_rows();

 private:
  struct Mirror {
    // Rows, logit rows and turns as they lie in the arena, then page tables, slots, biases, and one
    // sequence's tokens.
    std::unique_ptr<Block> block;
    std::unique_ptr<Event> copied;
  };
  std::byte* mirror() const;

  Device& device_;
  StepDims dims_;
  StepBuffers buffers_;
  uint64_t logit_rows_offset_;
  uint64_t turns_offset_;
  uint64_t tables_offset_;
  uint64_t slots_offset_;
  uint64_t biases_offset_;
  uint64_t history_offset_;
  uint64_t history_used_ = 0;  // tokens of the mirror's place for them
  std::vector<Mirror> ring_;
  size_t current_ = 0;
};

}  // namespace rondo
