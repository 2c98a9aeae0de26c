// The device of the CPU backend.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <string>

#include "buffers/arena.h"
#include "buffers/device.h"
#include "buffers/error.h"

namespace rondo {
namespace {

// Anonymous pages: an absurd size fails here with a clear error, and memory that is never touched costs
// nothing.
class MappedBlock : public Block {
 public:
  using Block::Block;
  ~MappedBlock() override {
    if (data()) munmap(data(), bytes());
  }
};

class HostEvent : public Event {
 public:
  void record() override { when_ = Clock::now(); }
  void wait() override {}
  bool reached() override { return true; }
  double elapsed_ms(const Event& start) const override {
    return std::chrono::duration<double, std::milli>(when_ - static_cast<const HostEvent&>(start).when_)
        .count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point when_;
};

class HostDevice : public Device {
 public:
  std::string description() const override { return "cpu"; }

  std::string platform() override {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("model name") && line.find(": ") != std::string::npos)
        return line.substr(line.find(": ") + 2);
    return "CPU of an unknown model";
  }

  DeviceState state() override { return {}; }

  uint64_t free_bytes() const override {
    const long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) : 0;
  }

  int enter() override { return 0; }
  void leave(int) override {}

  std::unique_ptr<Block> allocate(uint64_t bytes, const std::string& what) override {
    if (bytes == 0) return std::make_unique<MappedBlock>(nullptr, 0);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
      throw Error(ErrorKind::OutOfMemory,
                  what + ": the host has no " + std::to_string(bytes) + " bytes to give");
    madvise(p, bytes, MADV_HUGEPAGE);  // a hint: weights are read end to end, and small pages cost TLB misses
    return std::make_unique<MappedBlock>(p, bytes);
  }

  std::unique_ptr<Block> allocate_pinned(uint64_t bytes, const std::string& what) override {
    return allocate(bytes, what);
  }

  std::unique_ptr<Event> make_event() override { return std::make_unique<HostEvent>(); }
  std::unique_ptr<Event> make_timed_event() override { return std::make_unique<HostEvent>(); }
  void write(void* to, const void* from_pinned, uint64_t bytes) override {
    std::memcpy(to, from_pinned, bytes);
  }
  void read(void* to_pinned, const void* from, uint64_t bytes) override {
    std::memcpy(to_pinned, from, bytes);
  }
  void copy(void* to, const void* from, uint64_t bytes) override { std::memcpy(to, from, bytes); }
  void fill(void* to, int byte, uint64_t bytes) override { std::memset(to, byte, bytes); }
  void synchronize() override {}
};

}  // namespace

std::unique_ptr<Device> make_host_device() { return std::make_unique<HostDevice>(); }

}  // namespace rondo
