// The executor: a block's threads as fibers, its barriers and warp collectives. Built without
// -fsanitize=thread, and with -DSIMT_TSAN where everything else has it: its own bookkeeping is shared by all
// fibers and would drown the kernels' races. For the same reason its containers hold only types of this file
// (an instantiation shared with an instrumented file could be linked in its instrumented form).
#include "tests/simt/simt.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/simt/fiber.h"
#include "tests/simt/landings.h"
#if defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {
namespace {

#if defined(SIMT_TSAN)
constexpr bool kTsan = true;
void tsan_release(void* key) { __tsan_release(key); }
void tsan_acquire(void* key) { __tsan_acquire(key); }
#else
constexpr bool kTsan = false;
void tsan_release(void*) {}
void tsan_acquire(void*) {}
#endif

constexpr size_t kMaxStaticShared = 48 * 1024;
constexpr unsigned kWarpSize = 32, kGroupWarps = 4;  // a warpgroup's

void enter_fiber();

// Fibers, kept from launch to launch; each OS thread has its own.
struct Pool {
  struct Item {
    std::unique_ptr<Fiber> fiber;
  };
  std::vector<Item> items;
  ~Pool();

  Fiber* add() {
    items.push_back({std::make_unique<Fiber>(enter_fiber, items.size())});
    return items.back().fiber.get();
  }
};
thread_local bool pool_is_gone = false;
Pool::~Pool() { pool_is_gone = true; }

Pool& pool() {
  static auto* late = new Pool;  // static destructors launch kernels after their thread's own pool has gone
  static thread_local Pool own;
  return pool_is_gone ? *late : own;
}

enum class State : uint8_t { fresh, ready, running, at_barrier, in_collective, at_landing, exited };

// A cache line: a block has up to 1024, each read at every turn of its thread.
struct alignas(64) Thread {
  State state = State::fresh;
  bool predicate = false;
  uint16_t count = 0;
  uint32_t mask = 0;
  Fiber* fiber = nullptr;
  Resolve resolve = nullptr;
  void* payload = nullptr;
  const void* landing = nullptr;  // that it waits for
  Where at{};
};
static_assert(sizeof(Thread) == 64);
struct Warp {
  uint32_t exited = 0;
  int waiting = 0;
  uint64_t products = 0;  // of tiles that it has multiplied, in a number
};
struct SharedVariable {
  const void* key;
  size_t bytes;
  void* address;
};
struct Index {
  unsigned value;
};
struct Index3 {
  uint3 value;
};
struct FreeFiber {
  Fiber* fiber;
};

// Not a byte more, so that AddressSanitizer bounds the array.
void* exact_allocation(size_t bytes, size_t alignment = 128) {
  void* p = nullptr;
  if (bytes && posix_memalign(&p, alignment, bytes)) throw std::bad_alloc();
  return p;
}

void poison(void* address, size_t bytes) {  // garbage, as on the device: NaN to every floating-point type
  if constexpr (kTsan) {                    // which would count memset() as a write by this thread
    for (volatile char* c = static_cast<char*>(address); bytes--; ++c) *c = char(0xFF);
  } else if (bytes) {
    std::memset(address, 0xFF, bytes);
  }
}

// One launch. Blocks run one after another; a block's threads run until they wait or end.
class Grid {
 public:
  Grid(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& body, const Options& options)
      : grid_(grid),
        block_(block),
        body_(body),
        options_(options),
        n_(block.x * block.y * block.z),
        dynamic_bytes_(dynamic_bytes),
        dynamic_(exact_allocation(dynamic_bytes, kTileAlignment)),
        random_(options.seed * 0x9E3779B97F4A7C15ull + 1) {
    if constexpr (kTsan) {  // it watches malloc too: allocate from this thread, before any fiber runs
      while (pool_.items.size() < n_) pool_.add();
      arena_ = static_cast<char*>(exact_allocation(2 * kMaxStaticShared));
    }
    for (auto& item : pool_.items) free_.push_back({item.fiber.get()});
    unsigned places = 1;
    while (places < n_) places *= 2;
    ready_.resize(places);
    order_.resize(n_);
    indices_.resize(n_);
    for (unsigned i = 0; i < n_; ++i)
      indices_[i] = {{i % block_.x, i / block_.x % block_.y, i / (block_.x * block_.y)}};
  }
  ~Grid() {
    if (!failure_.empty()) pool_.items.clear();  // some of its fibers are stuck inside the kernel
    if (kTsan)
      std::free(arena_);
    else
      for (auto& s : shared_) std::free(s.address);
    std::free(dynamic_);
  }
  Grid(const Grid&) = delete;
  Grid& operator=(const Grid&) = delete;

  void run_block(uint3 index) {
    blockIdx = index;
    blockDim = block_;
    gridDim = grid_;
    threads_.assign(n_, {});
    warps_.assign((n_ + kWarpSize - 1) / kWarpSize, {});
    for (unsigned i = 0; i < n_; ++i) order_[i].value = options_.order == Order::reverse ? n_ - 1 - i : i;
    if (options_.order == Order::random)
      for (unsigned i = n_; i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
    next_ = exited_ = waiting_ = head_ = tail_ = 0;
    landings_.clear();
    if (options_.poison_shared) {
      for (auto& s : shared_) poison(s.address, s.bytes);
      poison(dynamic_, dynamic_bytes_);
    }
    tsan_release(&start_);
    if (pick()) Fiber::switch_to(main_, current());
    if (failure_.empty() && exited_ != n_) failure_ = describe_deadlock();
    if (failure_.empty() && landings_.first_under_way()) failure_ = describe_forgotten_copy();
    if (failure_.empty()) failure_ = describe_divided_products();
    if (!failure_.empty())
      for (auto& t :
           threads_)  // those that are stuck inside the kernel will not say themselves that they ended
        if (t.fiber && t.state != State::exited) Fiber::release_for(*t.fiber, main_, &end_);
    tsan_acquire(&end_);
    if (!failure_.empty()) throw error(failure_);
  }

  // One CUDA thread from start to end, then on to the next.
  void run_thread() {
    tsan_acquire(&start_);
    try {
      body_();
    } catch (const std::exception& e) {
      fail(e.what(), threads_[running_].at);
    }
    tsan_release(&end_);
    threads_[running_].state = State::exited;
    warps_[running_ / kWarpSize].exited |= 1u << running_ % kWarpSize;
    ++exited_;
    Fiber& self = current();
    if (self.overflowed())
      fail("a thread's locals need more stack than the executor gives", threads_[running_].at);
    if (!kTsan) free_.push_back({&self});
    Fiber& next = pick() ? current() : main_;
    if (&next != &self) Fiber::switch_to(self, next);  // else the next thread starts here, with no switch
  }

  int barrier(int predicate, Where at) {
    Thread& self = threads_[running_];
    self.at = at;
    self.predicate = predicate != 0;
    self.state = State::at_barrier;
    char* key = &barrier_keys_[generation_ % 2];
    tsan_release(key);
    if (++waiting_ < n_) {
      yield();
    } else {
      int count = 0;
      for (auto& other : threads_) {
        count += other.predicate;
        if (other.at.line != at.line ||
            (other.at.file != at.file && std::strcmp(other.at.file, at.file) != 0))
          fail("threads of one block meet at different __syncthreads()", other.at);
      }
      waiting_ = 0;
      ++generation_;
      for (Index i : order_) {
        threads_[i.value].count = static_cast<uint16_t>(count);
        wake(i.value);
      }
    }
    tsan_acquire(key);
    return self.count;
  }

  void collective(uint32_t mask, void* payload, Resolve resolve, Where at) {
    Thread& self = threads_[running_];
    Warp& warp = warps_[running_ / kWarpSize];
    const unsigned lane = running_ % kWarpSize, base = running_ - lane;
    const uint32_t existing = n_ - base >= kWarpSize ? ~0u : (1u << (n_ - base)) - 1;
    if (!(mask >> lane & 1)) fail("a lane calls a warp collective whose mask leaves it out", at);
    if (mask & ~existing) fail("a warp collective's mask names lanes past the end of the block", at);
    if (mask & warp.exited) fail("a warp collective waits for a lane that has exited", at);
    self.mask = mask;
    self.resolve = resolve;
    self.payload = payload;
    self.at = at;
    self.state = State::in_collective;
    const int lanes = mask == ~0u ? int(kWarpSize) : __builtin_popcount(mask);
    if (++warp.waiting < lanes) return yield();
    for (unsigned l = 0; l < kWarpSize; ++l) {
      payloads_[l] = nullptr;
      if (!(mask >> l & 1)) continue;
      const Thread& other = threads_[base + l];
      if (other.state != State::in_collective) return yield();  // the ones that wait have another mask
      if (other.resolve != resolve || other.mask != mask)
        fail("lanes of one warp meet in different collectives", at);
      payloads_[l] = other.payload;
    }
    resolve(payloads_, mask);
    warp.waiting -= lanes;
    for (unsigned k = 0; k < kWarpSize; ++k) {
      const unsigned l = options_.order == Order::forward ? kWarpSize - 1 - k : k;
      if (mask >> l & 1) wake_first(base + l);
    }
  }

  void prepare_landing(const void* word, int arrivals, Where at) {
    if (!is_shared(word, sizeof(uint64_t))) fail("a landing lies outside the block's shared memory", at);
    check(landings_.prepare(word, arrivals, running_), at);
  }
  void prepare_landings_done() { landings_.announce(running_); }

  void arrive(const void* word, uint64_t content, uint32_t bytes, Where at) {
    check(landings_.check_arrival(word, content, bytes), at);
    tsan_release(use_key(word, landings_.find(word)->uses % 2));
    if (landings_.arrive(word, bytes)) wake_waiting(word);
  }

  void check_bulk_copy(const void* word, uint64_t content, const BulkCopy& copy, Where at) {
    check(landings_.check_copy(word, content, copy), at);
    if (!is_shared(copy.to, copy.bytes)) fail("a bulk copy runs past the block's shared memory", at);
    if (is_shared(copy.from, 1)) fail("a bulk copy takes its bytes from global memory, not from shared", at);
  }
  void start_bulk_copy(const void* word, const BulkCopy& copy, Where at) {
    tsan_release(use_key(word, landings_.find(word)->uses % 2));
    if (landings_.start(word, copy, at, options_.order == Order::reverse)) wake_waiting(word);
  }

  void wait_landed(const void* word, uint64_t content, int parity, Where at) {
    check(landings_.check_wait(word, content, parity), at);
    Thread& self = threads_[running_];
    const unsigned use = landings_.find(word)->uses;
    if (int(use % 2) == parity) {
      if (!landings_.find(word)->complete()) {
        self.at = at;
        self.landing = word;
        self.state = State::at_landing;
        yield();
      }
      Landings::Landing& landing = *landings_.find(word);
      if (landing.uses == use) landings_.land(landing);
      if (landing.uses != use + 1)
        fail("a landing was used again while a thread still waited for its use before: it would miss it", at);
    }
    tsan_acquire(use_key(word, unsigned(parity)));
  }

  void check_product_tile(const void* tile, size_t bytes, Where at) {
    if (reinterpret_cast<uintptr_t>(tile) % kTileAlignment)
      fail("a tile needs an address that is a multiple of 1024", at);
    if (!is_shared(tile, bytes)) fail("a product's tile runs past the block's shared memory", at);
    const unsigned group = running_ / (kWarpSize * kGroupWarps);
    if ((group + 1) * kWarpSize * kGroupWarps > n_) fail("a product of tiles takes a whole warpgroup", at);
  }
  void note_products(uint64_t number) {
    uint64_t& all = warps_[running_ / kWarpSize].products;
    all = all * 0x9E3779B97F4A7C15ull + number;
  }

  void* shared(const void* key, size_t bytes) {
    for (auto& s : shared_)
      if (s.key == key) return s.address;
    const size_t step = kTsan ? (bytes + 127) / 128 * 128 : bytes;
    if (static_bytes_ + step > kMaxStaticShared)
      fail("static shared memory over 48 KiB", threads_[running_].at);
    void* address = kTsan ? arena_ + static_bytes_ : exact_allocation(bytes);
    static_bytes_ += step;
    shared_.push_back({key, bytes, address});
    poison(address, bytes);
    return address;
  }
  void* dynamic() const { return dynamic_; }

  [[noreturn]] void fail(const char* what, Where at) {
    char text[600];
    const uint3 t = threadIdx, b = blockIdx;
    std::snprintf(text, sizeof text, "%s: block (%u,%u,%u) thread (%u,%u,%u) at %s:%u", what, b.x, b.y, b.z,
                  t.x, t.y, t.z, at.file ? at.file : "(no barrier or collective yet)", at.line);
    failure_ = text;
    Fiber::switch_to(current(), main_);  // for good: the launch throws and the block's fibers are dropped
    std::abort();
  }

 private:
  dim3 grid_, block_;
  const std::function<void()>& body_;
  const Options options_;
  Pool& pool_ = pool();
  const unsigned n_;  // threads of a block
  unsigned running_ = 0, next_ = 0, exited_ = 0, waiting_ = 0, generation_ = 0;
  unsigned head_ = 0, tail_ = 0;  // of the ring ready_, whose size is a power of two: [head_, tail_)
  size_t dynamic_bytes_, static_bytes_ = 0;
  void* dynamic_;
  uint64_t random_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Index> order_, ready_;
  std::vector<Index3> indices_;
  void* payloads_[kWarpSize] = {};  // of the collective that is resolved
  std::vector<SharedVariable> shared_;
  std::vector<FreeFiber> free_;
  Landings landings_;
  Fiber main_;
  std::string failure_;
  char* arena_ = nullptr;  // static shared memory under ThreadSanitizer
  char barrier_keys_[2] = {}, start_ = 0, end_ = 0;

  Fiber& current() { return *threads_[running_].fiber; }
  Index& slot(unsigned k) { return ready_[k & (ready_.size() - 1)]; }

  // To ThreadSanitizer: who waits for a use is not ordered behind what belongs to the next.
  static void* use_key(const void* word, unsigned parity) {
    return const_cast<char*>(static_cast<const char*>(word)) + parity;
  }

  void check(const char* wrong, Where at) {
    if (wrong) fail(wrong, at);
  }

  // All in one shared variable, or in the dynamic shared memory.
  bool is_shared(const void* address, size_t bytes) const {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    const auto within = [&](const void* part, size_t size) {
      const auto at = reinterpret_cast<uintptr_t>(part);
      return begin >= at && begin - at <= size && bytes <= size - (begin - at);
    };
    for (auto& s : shared_)
      if (within(s.address, s.bytes)) return true;
    return within(dynamic_, dynamic_bytes_);
  }

  uint64_t random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    return random_ ^= random_ << 17;
  }

  void wake(unsigned i) {
    threads_[i].state = i == running_ ? State::running : State::ready;
    if (i != running_) slot(tail_++).value = i;
  }

  void wake_waiting(const void* landing) {
    for (Index i : order_)
      if (threads_[i.value].state == State::at_landing && threads_[i.value].landing == landing) wake(i.value);
  }

  // In front of other warps: a warp goes as far as it can while its lanes' stacks are in the cache.
  void wake_first(unsigned i) {
    if (options_.order != Order::forward || i == running_) return wake(i);
    threads_[i].state = State::ready;
    slot(--head_).value = i;
  }

  // Chooses the next thread: forward = first come, first served, warp by warp; reverse = newest first; random
  // = any.
  bool pick() {
    const bool some_fresh = next_ < n_, some_ready = head_ != tail_;
    if (!some_fresh && !some_ready) return false;
    const bool start = some_fresh && (!some_ready || options_.order == Order::forward ||
                                      (options_.order == Order::random && (random() & 1)));
    if (start) {
      running_ = order_[next_++].value;
      threads_[running_].fiber = fiber_for(running_);
    } else if (options_.order == Order::forward) {
      running_ = slot(head_++).value;
    } else {
      if (options_.order == Order::random)
        std::swap(slot(tail_ - 1), slot(head_ + random() % (tail_ - head_)));
      running_ = slot(--tail_).value;
    }
    threads_[running_].state = State::running;
    threadIdx = indices_[running_].value;
    here.lane = running_ % kWarpSize;
    here.warp = running_ / kWarpSize;
    return true;
  }

  Fiber* fiber_for(unsigned thread) {
    if (kTsan) return pool_.items[thread].fiber.get();  // one each, to be able to race with the others
    if (free_.empty()) free_.push_back({pool_.add()});
    Fiber* fiber = free_.back().fiber;
    free_.pop_back();
    return fiber;
  }

  void yield() {
    Fiber& self = current();
    Fiber::switch_to(self, pick() ? current() : main_);
  }

  std::string describe_deadlock() const {
    unsigned at_barrier = 0, in_warp = 0, at_landing = 0;
    const Thread* example = nullptr;
    const void* landing = nullptr;
    for (auto& t : threads_) {
      if (t.state == State::at_barrier) ++at_barrier, example = &t;
      if (t.state == State::in_collective) ++in_warp, example = &t;
      if (t.state == State::at_landing) {
        ++at_landing, example = &t;
        if (!landing || landings_.find(t.landing)->arrived) landing = t.landing;  // that lacks the least
      }
    }
    char text[600];
    const uint3 b = blockIdx, t = indices_[static_cast<size_t>(example - threads_.data())].value;
    std::snprintf(
        text, sizeof text,
        "deadlock in block (%u,%u,%u): %u threads have exited, %u wait at __syncthreads(), %u in a warp "
        "collective, %u for a bulk copy that nobody starts%s; one is thread (%u,%u,%u) at %s:%u",
        b.x, b.y, b.z, exited_, at_barrier, in_warp, at_landing,
        landing ? describe_landing(landing).c_str() : "", t.x, t.y, t.z, example->at.file, example->at.line);
    return text;
  }

  std::string describe_landing(const void* word) const {
    const Landings::Landing& landing = *landings_.find(word);
    char text[200];
    std::snprintf(text, sizeof text,
                  " or an arrival that nobody makes (a landing has %u of %u arrivals and copies of %u of %u "
                  "announced bytes)",
                  landing.arrived, landing.arrivals, landing.started_bytes, landing.expected_bytes);
    return text;
  }

  // On a GPU it would land in the memory of whichever block comes next.
  std::string describe_forgotten_copy() const {
    char text[600];
    const uint3 b = blockIdx;
    const Where at = landings_.first_under_way()->started;
    std::snprintf(
        text, sizeof text,
        "a block ended with a bulk copy under way that nobody waited for: block (%u,%u,%u), started "
        "at %s:%u",
        b.x, b.y, b.z, at.file, at.line);
    return text;
  }

  // Empty where the warps of each warpgroup have multiplied the same tiles.
  std::string describe_divided_products() const {
    for (size_t w = 0; w < warps_.size(); ++w) {
      if (warps_[w].products == warps_[w / kGroupWarps * kGroupWarps].products) continue;
      char text[200];
      std::snprintf(text, sizeof text,
                    "warps of one warpgroup multiply different tiles: block (%u,%u,%u) warp %zu", blockIdx.x,
                    blockIdx.y, blockIdx.z, w);
      return text;
    }
    return {};
  }
};

thread_local Grid* grid = nullptr;

void enter_fiber() {
  Fiber::entered();
  for (;;) grid->run_thread();  // the fiber outlives the launch: its next thread may be another grid's
}

// What tests and cudaFuncSetAttribute set, for all OS threads.
struct Settings {
  std::mutex mutex;
  Options options;
  std::unordered_map<const void*, size_t> dynamic_limit;
};
Settings& settings() {
  static auto* s = new Settings;  // never destroyed: static destructors may still launch
  return *s;
}

}  // namespace

void set_options(const Options& options) {
  std::lock_guard<std::mutex> lock(settings().mutex);
  settings().options = options;
}
Options options() {
  std::lock_guard<std::mutex> lock(settings().mutex);
  return settings().options;
}
void set_dynamic_shared_limit(const void* kernel, size_t bytes) {
  std::lock_guard<std::mutex> lock(settings().mutex);
  settings().dynamic_limit[kernel] = bytes;
}
size_t dynamic_shared_limit(const void* kernel) {
  std::lock_guard<std::mutex> lock(settings().mutex);
  auto found = settings().dynamic_limit.find(kernel);
  return found == settings().dynamic_limit.end() ? kDefaultSharedBytes : found->second;
}

LaunchProblem check_launch(const void* kernel, dim3 g, dim3 b, size_t dynamic_shared) {
  const uint64_t threads = uint64_t(b.x) * b.y * b.z;
  if (threads == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 || threads > 1024)
    return LaunchProblem::configuration;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
    return LaunchProblem::configuration;
  return dynamic_shared > dynamic_shared_limit(kernel) ? LaunchProblem::shared_memory : LaunchProblem::none;
}

void run(const void* kernel, dim3 g, dim3 b, size_t dynamic_shared, const std::function<void()>& body,
         bool in_order) {
  switch (check_launch(kernel, g, b, dynamic_shared)) {
    case LaunchProblem::none: break;
    case LaunchProblem::configuration: throw error("invalid launch configuration");
    case LaunchProblem::shared_memory: throw error("dynamic shared memory over the kernel's limit");
  }
  if (grid) throw error("launch from inside a kernel");
  const Options chosen = options();
  Grid it(g, b, dynamic_shared, body, chosen);
  grid = &it;
  struct Reset {
    ~Reset() { grid = nullptr; }
  } reset;
  const uint64_t blocks = uint64_t(g.x) * g.y * g.z;
  for (uint64_t k = 0; k < blocks; ++k) {
    const uint64_t i = chosen.order == Order::reverse && !in_order ? blocks - 1 - k : k;
    it.run_block({unsigned(i % g.x), unsigned(i / g.x % g.y), unsigned(i / (uint64_t(g.x) * g.y))});
  }
}

int barrier(int predicate, Where at) { return grid->barrier(predicate, at); }
void collective(uint32_t mask, void* payload, Resolve resolve, Where at) {
  grid->collective(mask, payload, resolve, at);
}
void prepare_landing(const void* word, int arrivals, Where at) { grid->prepare_landing(word, arrivals, at); }
void prepare_landings_done() { grid->prepare_landings_done(); }
void arrive(const void* word, uint64_t content, uint32_t bytes, Where at) {
  grid->arrive(word, content, bytes, at);
}
void check_bulk_copy(const void* word, uint64_t content, const BulkCopy& copy, Where at) {
  grid->check_bulk_copy(word, content, copy, at);
}
void start_bulk_copy(const void* word, const BulkCopy& copy, Where at) {
  grid->start_bulk_copy(word, copy, at);
}
void wait_landed(const void* word, uint64_t content, int parity, Where at) {
  grid->wait_landed(word, content, parity, at);
}
void check_product_tile(const void* tile, size_t bytes, Where at) {
  grid->check_product_tile(tile, bytes, at);
}
void note_products(uint64_t number) { grid->note_products(number); }
void* shared(const void* key, size_t bytes) { return grid->shared(key, bytes); }
void* dynamic_shared() { return grid->dynamic(); }
void trap(Where at) { grid->fail("__trap()", at); }
void fail(const char* what, Where at) { grid->fail(what, at); }

}  // namespace simt
