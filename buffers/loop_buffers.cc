#include "buffers/loop_buffers.h"

#include <algorithm>
#include <cstddef>
#include <new>

namespace rondo {
namespace {

constexpr int64_t kLeastSteps = 256;
constexpr int64_t kMostBytes = 64 << 20;

int64_t bytes_of_a_step(const StepDims& dims) {
  return dims.max_logit_rows * static_cast<int64_t>(sizeof(Sampled) + kMaxTopTokens * sizeof(TopToken));
}

}  // namespace

int loop_steps(const StepDims& dims) {
  const int64_t in_memory = kMostBytes / bytes_of_a_step(dims);
  return static_cast<int>(std::max(kLeastSteps, std::min(dims.max_context, in_memory)));
}

LoopBuffers::LoopBuffers(Device& device, const StepDims& dims, const StepBuffers& buffers)
    : device_(device),
      steps_(loop_steps(dims)),
      logit_rows_(dims.max_logit_rows),
      loop_(buffers.loop),
      asked_(device.allocate_pinned(loop_bytes(dims), "loop of steps (pinned)")),
      mail_(device.allocate_pinned(sizeof(LoopMail) + static_cast<uint64_t>(steps_ * bytes_of_a_step(dims)),
                                   "draws of a loop of steps (pinned)")) {
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
  return reinterpret_cast<TopToken*>(sampled(steps_)) + step * logit_rows_ * kMaxTopTokens;
}

bool LoopBuffers::contains(const void* address) const {
  const auto* start = static_cast<const std::byte*>(mail_->data());
  const auto* p = static_cast<const std::byte*>(address);
  return p >= start && p < start + mail_->bytes();
}

}  // namespace rondo
