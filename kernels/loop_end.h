// What a loop of steps adds to a step: the draws go to the host while the loop runs on, and it ends when
// there is nothing more to do.
#pragma once

#include <cstdint>

#include "buffers/loop_buffers.h"

namespace rondo {

class LoopEnd {
 public:
  virtual ~LoopEnd() = default;

  // Behind a step in the loop's body: writes the step's draws to the mail and counts them there;
  // makes padding of the rows of sequences that have ended, by a stop id, by their length or for want of a
  // number; and clears the loop's `condition` when none is left, the steps asked for are made, or the host
  // wants no more.
  virtual void enqueue(uint64_t condition) = 0;
};

}  // namespace rondo
