// What a loop of steps, which one launch runs, shares with the host: what the host asks of it, on the device,
// and the letters that it sends back, in host memory that the device writes.
#pragma once

#include <cstdint>
#include <memory>

#include "buffers/device.h"
#include "buffers/step_buffers.h"

namespace rondo {

constexpr int kMaxLoopStops = 60;  // token ids that end a slot's sequence

// Steps of one launch, at most: as many as a sequence has positions, or as have their draws in 64 MiB; 256 at
// the least.
int loop_steps(const StepDims& dims);

// When a slot's sequence ends, as far as the device can tell.
struct LoopSlot {
  int32_t left = 0;  // tokens until it ends by its length
  int32_t stops = 0;
  int32_t stop_ids[kMaxLoopStops] = {};
};
static_assert(sizeof(LoopSlot) == 248);

struct LoopControl {
  int32_t steps = 0;   // to make at most
  int32_t rows = 0;    // logit rows that are drawn from
  int32_t listed = 0;  // whether the likeliest tokens are wanted too
  int32_t made = 0;    // steps, counted by the device
};

// One word each way, apart, since the one is polled while the other is written. Then, for each step, what was
// drawn: Sampled [loop_steps(), L] and TopToken [loop_steps(), L, kMaxTopTokens].
struct LoopMail {
  alignas(128) uint32_t made = 0;  // steps whose draws are there; written by the device
  alignas(128) uint32_t stop = 0;  // not 0: no further step; written by the host
};
static_assert(sizeof(LoopMail) == 256);

inline uint64_t loop_bytes(const StepDims& dims) {
  return sizeof(LoopControl) + static_cast<uint64_t>(dims.slots()) * sizeof(LoopSlot);
}

class LoopBuffers {
 public:
  LoopBuffers(Device& device, const StepDims& dims, const StepBuffers& buffers);

  // on the device
  LoopControl* control() const { return loop_.as<LoopControl>(); }
  LoopSlot* slots() const { return slots_in(loop_.data); }  // [slots]

  // What upload() sends there.
  LoopControl& asked_control() { return *static_cast<LoopControl*>(asked_->data()); }
  LoopSlot& asked_slot(int slot) { return slots_in(asked_->data())[slot]; }
  void upload();

  int steps() const { return steps_; }  // loop_steps()

  // in host memory that both see
  LoopMail& mail() const { return *static_cast<LoopMail*>(mail_->data()); }
  Sampled* sampled(int step) const;          // [L]
  TopToken* top(int step) const;             // [L, kMaxTopTokens]
  bool contains(const void* address) const;  // what the mail's memory holds

 private:
  static LoopSlot* slots_in(void* block) {
    return reinterpret_cast<LoopSlot*>(static_cast<std::byte*>(block) + sizeof(LoopControl));
  }

  Device& device_;
  int steps_;
  int64_t logit_rows_;
  View loop_;
  std::unique_ptr<Block> asked_;  // pinned
  std::unique_ptr<Block> mail_;   // pinned
};

}  // namespace rondo
