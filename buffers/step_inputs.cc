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
  tables_offset_ = logit_rows_offset_ + buffers.logit_rows.bytes();
  slots_offset_ = tables_offset_ + buffers.page_tables.bytes();
  for (size_t i = 0; i < kMirrors; ++i)
    ring_.push_back({device.allocate_pinned(slots_offset_ + buffers.slots.bytes(), "inputs (pinned)"),
                     device.make_event()});
}

std::byte* StepInputs::mirror() const { return static_cast<std::byte*>(ring_[current_].block->data()); }

void StepInputs::begin() {
  current_ = (current_ + 1) % ring_.size();
  ring_[current_].copied->wait();
  std::memset(mirror(), 0, tables_offset_);
}

std::span<Row> StepInputs::rows() {
  return {reinterpret_cast<Row*>(mirror()), static_cast<size_t>(dims_.max_rows())};
}

std::span<int32_t> StepInputs::logit_rows() {
  return {reinterpret_cast<int32_t*>(mirror() + logit_rows_offset_),
          static_cast<size_t>(dims_.max_logit_rows)};
}

void StepInputs::write_slot(int slot, std::span<const int32_t> pages, const SlotParams& params,
                            bool clear_seen) {
  const auto entries = static_cast<size_t>(dims_.pages_per_slot());
  const size_t table_bytes = entries * sizeof(int32_t), s = static_cast<size_t>(slot);
  auto* table = reinterpret_cast<int32_t*>(mirror() + tables_offset_ + s * table_bytes);
  std::fill(std::copy(pages.begin(), pages.end(), table), table + entries, 0);
  auto* slot_params = reinterpret_cast<SlotParams*>(mirror() + slots_offset_) + slot;
  *slot_params = params;
  device_.write(buffers_.page_tables.as<std::byte>() + s * table_bytes, table, table_bytes);
  device_.write(buffers_.slots.as<SlotParams>() + slot, slot_params, sizeof(SlotParams));
  const uint64_t seen_bytes = buffers_.seen.bytes() / static_cast<uint64_t>(dims_.slots());
  if (clear_seen) device_.fill(buffers_.seen.as<std::byte>() + s * seen_bytes, 0, seen_bytes);
}

void StepInputs::upload() {
  device_.write(buffers_.rows.data, mirror(), tables_offset_);
  ring_[current_].copied->record();
}

}  // namespace rondo
