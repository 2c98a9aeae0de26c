// The threaded read: plain loads in order (prefetching made it slower).
#include "kernels/read.h"

#include <cstddef>

#include "kernels/cpu/thread_pool.h"

namespace rondo {
namespace {

typedef uint64_t Words __attribute__((vector_size(64), aligned(16), may_alias));
constexpr int64_t kWordsPerTurn = 4;  // a cache line each

class CpuReader final : public Reader {
 public:
  explicit CpuReader(int threads) : pool_(threads) {}

  void read(const void* data, uint64_t bytes, uint32_t* sink) override {
    const auto* words = static_cast<const Words*>(data);
    const auto turns = static_cast<int64_t>(bytes / (kWordsPerTurn * sizeof(Words)));
    pool_.parallel_for(turns, [words, sink](int64_t begin, int64_t end, int) {
      Words a{}, b{}, c{}, d{};
      for (int64_t i = begin; i < end; ++i) {
        const Words* p = words + kWordsPerTurn * i;
        a += p[0];
        b += p[1];
        c += p[2];
        d += p[3];
      }
      a += b + c + d;
      uint64_t sum = 0;
      for (int i = 0; i < 8; ++i) sum ^= a[i];
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
