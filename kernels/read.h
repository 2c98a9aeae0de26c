// Reads memory and keeps nothing: how fast that goes is the ceiling that a step is held against.
#pragma once

#include <cstdint>
#include <memory>

namespace rondo {

class Reader {
 public:
  virtual ~Reader() = default;
  // Enqueues one pass over `bytes` at `data`, a multiple of 16 at a multiple of 16, as a verb is enqueued.
  // `sink` is a word of the device's memory that may be written to; what it holds afterwards means nothing.
  virtual void read(const void* data, uint64_t bytes, uint32_t* sink) = 0;
};

// `threads` as for make_cpu_ops.
std::unique_ptr<Reader> make_cpu_reader(int threads);

}  // namespace rondo
