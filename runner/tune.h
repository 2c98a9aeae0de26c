// Which form of a verb is the fastest on this device, by trying them: before steps are recorded, on the
// engine's own weights and buffers.
#pragma once

#include <vector>

#include "kernels/ops.h"
#include "runner/engine.h"

namespace rondo {

// Enqueues the verb for every layer, whose weights are too many for a cache to keep, or some times where a
// step runs it once; returns how often. add_project as the verb says. embed() has run over the rows.
int run_chain(Ops& ops, const Model& model, const StepBuffers& buffers, Verb verb, Bucket bucket);

// Chooses for each bucket and verb the form whose chain takes the device least, and the first where that is
// not clearly less than its own. What lies in the step's buffers is lost; rows must be of the scrap slot.
// Waits for the device. Which one wins depends on times, so that two runs may choose, and round, differently.
void tune(Ops& ops, Device& device, const Model& model, const StepBuffers& buffers,
          const std::vector<Bucket>& buckets);

// What each verb is made of at each bucket.
std::vector<FormStats> list_forms(const Ops& ops, const std::vector<Bucket>& buckets);

}  // namespace rondo
