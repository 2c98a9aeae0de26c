#include "buffers/step_inputs.h"

#include <algorithm>
#include <cstring>

namespace rondo {
namespace {
constexpr size_t kMirrors = 3;  // one being filled, one being copied, one behind a step in flight
}

StepInputs::StepInputs(Device& device, const StepDims& dims, const StepBuffers& buffers)
    : device_(device), dims_(dims), buffers_(buffers) {
  const auto* rows = buffers.rows.as<std::byte>();
  const auto* logit_rows = buffers.logit_rows.as<std::byte>();
  logit_rows_offset_ =
      static_cast<uint64_t>(logit_rows - rows);  // the layout places them one behind the other
  turns_offset_ = static_cast<uint64_t>(buffers.turns.as<std::byte>() - rows);
  tables_offset_ = turns_offset_ + buffers.turns.bytes();
  slots_offset_ = tables_offset_ + buffers.page_tables.bytes();
  biases_offset_ = slots_offset_ + buffers.slots.bytes();
  history_offset_ = biases_offset_ + buffers.biases.bytes();
  const uint64_t bytes = history_offset_ + static_cast<uint64_t>(dims.max_context) * sizeof(int32_t);
  for (size_t i = 0; i < kMirrors; ++i)
    ring_.push_back({device.allocate_pinned(bytes, "inputs (pinned)"), device.make_event()});
}

std::byte* StepInputs::mirror() const { return static_cast<std::byte*>(ring_[current_].block->data()); }

void StepInputs::begin() {
  current_ = (current_ + 1) % ring_.size();
  ring_[current_].copied->wait();
  std::memset(mirror(), 0, tables_offset_);
  history_used_ = 0;
}

std::span<Row> StepInputs::rows() {
  return {reinterpret_cast<Row*>(mirror()), static_cast<size_t>(dims_.max_rows())};
}

std::span<int32_t> StepInputs::logit_rows() {
  return {reinterpret_cast<int32_t*>(mirror() + logit_rows_offset_),
          static_cast<size_t>(dims_.max_logit_rows)};
}

void StepInputs::set_turns(int next, int current) {
  auto* turns = reinterpret_cast<int32_t*>(mirror() + turns_offset_);
  turns[0] = next;
  turns[1] = current;
}

void StepInputs::write_slot(int slot, const SlotParams& params, std::span<const SlotBias> biases) {
  auto* slot_params = reinterpret_cast<SlotParams*>(mirror() + slots_offset_) + slot;
  *slot_params = params;
  device_.write(buffers_.slots.as<SlotParams>() + slot, slot_params, sizeof(SlotParams));
  if (biases.empty()) return;
  auto* list = reinterpret_cast<SlotBias*>(mirror() + biases_offset_) + slot * kMaxSlotBiases;
  std::copy(biases.begin(), biases.end(), list);
  device_.write(buffers_.biases.as<SlotBias>() + slot * kMaxSlotBiases, list, biases.size_bytes());
}

void StepInputs::write_pages(int slot, int64_t first, std::span<const int32_t> pages, bool rest) {
  const int64_t at = slot * dims_.pages_per_slot() + first;
  auto* table = reinterpret_cast<int32_t*>(mirror() + tables_offset_) + at;
  auto* end = std::copy(pages.begin(), pages.end(), table);
  if (rest) {
    auto* last = table + dims_.pages_per_slot() - first;
    std::fill(end, last, 0);
    end = last;
  }
  device_.write(buffers_.page_tables.as<int32_t>() + at, table,
                static_cast<uint64_t>(end - table) * sizeof(int32_t));
}

void StepInputs::write_history(int slot, std::span<const int32_t> tokens) {
  if (history_used_ + tokens.size() > static_cast<uint64_t>(dims_.max_context)) {
    device_.synchronize();  // its place is for one sequence; several that come with tokens take turns
    history_used_ = 0;
  }
  auto* at = reinterpret_cast<int32_t*>(mirror() + history_offset_) + history_used_;
  std::copy(tokens.begin(), tokens.end(), at);
  history_used_ += tokens.size();
  device_.write(buffers_.history.as<int32_t>() + slot * dims_.max_context, at, tokens.size_bytes());
}

void StepInputs::upload() {
  device_.write(buffers_.rows.data, mirror(), tables_offset_);
  end_without_rows();
}

void StepInputs::end_without_rows() { ring_[current_].copied->record(); }

}  // namespace rondo
