// The threaded read, as fast as is known: a word of each cache line, in four streams 128 KiB apart, for one
// stream keeps a core's prefetcher at two thirds of what it can (an AMD EPYC of the third generation).
#include "kernels/read.h"

#include <cstdint>
#include <cstring>

#include "kernels/cpu/thread_pool.h"

namespace rondo {
namespace {

constexpr uint64_t kLine = 64;
constexpr uint64_t kStream = 128 * 1024;
constexpr uint64_t kBlock = 4 * kStream;

uint64_t word(const char* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

class CpuReader final : public Reader {
 public:
  explicit CpuReader(int threads) : pool_(threads) {}

  void read(const void* data, uint64_t bytes, uint32_t* sink) override {
    const char* bytes_of = static_cast<const char*>(data);
    const auto lines = static_cast<int64_t>(bytes / kLine);
    pool_.parallel_for(lines, kBlock / kLine, [bytes_of, sink](int64_t begin, int64_t end, int) {
      const char* p = bytes_of + static_cast<uint64_t>(begin) * kLine;
      const char* stop = bytes_of + static_cast<uint64_t>(end) * kLine;
      uint64_t a = 0, b = 0, c = 0, d = 0;
      for (; p + kBlock <= stop; p += kBlock)
        for (const char* q = p; q < p + kStream; q += kLine) {
          a += word(q);
          b += word(q + kStream);
          c += word(q + 2 * kStream);
          d += word(q + 3 * kStream);
        }
      for (; p < stop; p += kLine) a += word(p);
      const uint64_t sum = a ^ b ^ c ^ d;
      // Never so in practice, and the compiler cannot know: the loads stay.
      if (sum == 0x5eed5eed5eed5eedu) __atomic_store_n(sink, static_cast<uint32_t>(sum), __ATOMIC_RELAXED);
    });
  }

 private:
  ThreadPool pool_;
};

}  // namespace

std::unique_ptr<Reader> make_cpu_reader(int threads) { return std::make_unique<CpuReader>(threads); }

}  // namespace rondo
