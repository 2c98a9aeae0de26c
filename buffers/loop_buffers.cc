#include "buffers/loop_buffers.h"

#include <cstddef>
#include <new>

namespace rondo {
namespace {

uint64_t mail_bytes(const StepDims& dims) {
  const uint64_t of_a_row = sizeof(Sampled) + kMaxTopTokens * sizeof(TopToken);
  return sizeof(LoopMail) + uint64_t{kLoopSteps} * static_cast<uint64_t>(dims.max_logit_rows) * of_a_row;
}

}  // namespace

LoopBuffers::LoopBuffers(Device& device, const StepDims& dims, const StepBuffers& buffers)
    : device_(device),
      logit_rows_(dims.max_logit_rows),
      loop_(buffers.loop),
      asked_(device.allocate_pinned(loop_bytes(dims), "loop of steps (pinned)")),
      mail_(device.allocate_pinned(mail_bytes(dims), "draws of a loop of steps (pinned)")) {
  new (asked_->data()) LoopControl;
  for (int slot = 0; slot < dims.slots(); ++slot) new (&asked_slot(slot)) LoopSlot;
  new (mail_->data()) LoopMail;
}

void LoopBuffers::upload() { device_.write(loop_.data, asked_->data(), asked_->bytes()); }

Sampled* LoopBuffers::sampled(int step) const {
  auto* draws = static_cast<std::byte*>(mail_->data()) + sizeof(LoopMail);
  return reinterpret_cast<Sampled*>(draws) + step * logit_rows_;
}

TopToken* LoopBuffers::top(int step) const {
  return reinterpret_cast<TopToken*>(sampled(kLoopSteps)) + step * logit_rows_ * kMaxTopTokens;
}

bool LoopBuffers::contains(const void* address) const {
  const auto* start = static_cast<const std::byte*>(mail_->data());
  const auto* p = static_cast<const std::byte*>(address);
  return p >= start && p < start + mail_->bytes();
}

}  // namespace rondo
