// Where buffers live. One Device per engine: it owns the stream that all of the engine's work is ordered by.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace rondo {

// Owns some bytes at an address that does not change until it is destroyed.
class Block {
 public:
  Block(void* data, uint64_t bytes) : data_(data), bytes_(bytes) {}
  virtual ~Block() = default;
  Block(const Block&) = delete;  // one owner
  Block& operator=(const Block&) = delete;

  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void* data_;
  uint64_t bytes_;
};

// A point in the device's stream.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record() = 0;   // here, behind everything enqueued so far
  virtual void wait() = 0;     // until the recorded point is reached; returns at once if none was recorded
  virtual bool reached() = 0;  // whether wait() would return at once
  // Milliseconds that the device took from `start` to here. Both are timed events, recorded and waited for.
  virtual double elapsed_ms(const Event& start) const = 0;
};

// What says whether a measurement was disturbed. Zeros and empty words: it cannot be told.
struct DeviceState {
  int clock_mhz = 0;  // of the multiprocessors, now
  int max_clock_mhz = 0;
  int memory_clock_mhz = 0;
  std::string slowed;  // why the clocks are held down now: "power cap"; empty: they are not
};

// Calls are made by one thread at a time, any thread that is between enter() and leave(): DeviceUse. Copies
// are enqueued: the host side of a copy must be pinned memory that stays untouched until an event behind it,
// or synchronize(), has been waited for. Every call throws Error: OutOfMemory, DeviceLost, or Misuse in a
// forked child.
class Device {
 public:
  virtual ~Device() = default;

  virtual std::string description() const = 0;  // "NVIDIA H200 (cuda:0)"
  virtual std::string platform() = 0;           // "driver 580.159.04, CUDA 13.0", a CPU's model
  virtual DeviceState state() = 0;
  virtual uint64_t free_bytes() const = 0;  // what allocate() may hope for
  // Makes the calling thread fit to use the device; leave() is given what enter() found in the thread, and
  // puts it back.
  virtual int enter() = 0;
  virtual void leave(int found) = 0;
  virtual std::unique_ptr<Block> allocate(uint64_t bytes, const std::string& what) = 0;  // uninitialised
  virtual std::unique_ptr<Block> allocate_pinned(uint64_t bytes, const std::string& what) = 0;  // host memory
  virtual std::unique_ptr<Event> make_event() = 0;
  virtual std::unique_ptr<Event> make_timed_event() = 0;  // for elapsed_ms(); costs the device a little more
  virtual void write(void* to, const void* from_pinned, uint64_t bytes) = 0;
  virtual void read(void* to_pinned, const void* from, uint64_t bytes) = 0;
  virtual void copy(void* to, const void* from, uint64_t bytes) = 0;  // within the device
  virtual void fill(void* to, int byte, uint64_t bytes) = 0;
  virtual void synchronize() = 0;
  // A named range on the calling thread in a profiler's timeline, where the backend has a profiler.
  virtual void begin_range(const char* name) { static_cast<void>(name); }
  virtual void end_range() {}
};

// The calling thread's use of a device, for as long as it lives: it ends in the thread that it began in, and
// other uses may begin and end within.
class DeviceUse {
 public:
  explicit DeviceUse(Device& device) : device_(device), found_(device.enter()) {}
  ~DeviceUse() { device_.leave(found_); }
  DeviceUse(const DeviceUse&) = delete;  // ends once
  DeviceUse& operator=(const DeviceUse&) = delete;

 private:
  Device& device_;
  int found_;
};

// A named range for as long as it lives.
class Range {
 public:
  Range(Device& device, const char* name) : device_(device) { device_.begin_range(name); }
  ~Range() { device_.end_range(); }
  Range(const Range&) = delete;  // ends once

 private:
  Device& device_;
};

// Host memory and no stream: everything has happened when the call returns.
std::unique_ptr<Device> make_host_device();

}  // namespace rondo
