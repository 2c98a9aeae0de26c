// When a loop of the CPU backend is worth a second thread. Threads that wait for one spin for a moment and
// then sleep, and one that sleeps, or whose core another process has, comes late: a loop that is over in less
// than that (kWorthSharingNs) is done sooner by the calling thread alone. No bit depends on it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rondo {

// What a loop takes: multiply-adds, or as many operations of their cost, and bytes of weights and of K/V.
struct Work {
  int64_t operations = 0;
  int64_t bytes = 0;
};

// Of one core, as the demo checkpoint and the 1B shape run on an AMD EPYC with AVX-512; a factor of two
// either way moves few loops.
constexpr int64_t kOperationsPerNs = 20;
constexpr int64_t kBytesPerNsFromCache = 40;
constexpr int64_t kBytesPerNsFromMemory = 10;
constexpr int64_t kCacheBytes = 8 << 20;  // weights up to this size stay in caches from step to step

// Nanoseconds that one thread would take; `weights`: bytes of all that a step reads.
constexpr int64_t nanoseconds_alone(const Work& work, int64_t weights) {
  return std::max(work.operations / kOperationsPerNs,
                  work.bytes / (weights > kCacheBytes ? kBytesPerNsFromMemory : kBytesPerNsFromCache));
}

}  // namespace rondo
