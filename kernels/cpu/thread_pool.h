// A few threads that run short loops. A step is some hundred loops of 10 us to 10 ms with gaps of a
// microsecond between them, so waiting threads spin for a moment before they sleep: a running engine pays no
// wake-ups, an idle one no CPU. A loop is cut into more pieces than there are threads, and each takes the
// next one when it is done with one: a thread that comes late, or whose core another process has for a while,
// keeps the others waiting for one piece at the most.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace rondo {

class ThreadPool {
 public:
  // `threads` counts the calling thread; 0: as many as the process may run on. Throws Error: InvalidArgument
  // for a negative or absurd number, OutOfMemory where the system gives no further thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();                           // in a forked child it joins nothing, for there is nothing to join
  ThreadPool(const ThreadPool&) = delete;  // threads hold its address
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // f(begin, end, thread) for contiguous pieces of [0, n), each a multiple of `grain` long but the last, and
  // returns when all are done. The pieces depend on n, grain and threads() only; who does which does not.
  // `thread`, below threads(), is whoever does it. f must not throw. One call at a time, not from inside f.
  // In a forked child the calling thread does all.
  template <class F>
  void parallel_for(int64_t n, int64_t grain, const F& f) {
    run(
        n, grain,
        [](const void* body, int64_t begin, int64_t end, int thread) {
          (*static_cast<const F*>(body))(begin, end, thread);
        },
        &f);
  }

 private:
  using Invoke = void (*)(const void* body, int64_t begin, int64_t end, int thread);
  struct Worker {
    ThreadPool* pool;
    int index;
    pthread_t handle;
  };

  void run(int64_t n, int64_t grain, Invoke invoke, const void* body);
  bool run_piece(int thread);  // the next of the loop; false where none is left
  void work(Worker& worker);
  void stop(size_t started);

  pid_t owner_;
  std::vector<Worker> workers_;
  // one loop, written before left_ and read by whoever has taken a piece of it
  int64_t n_ = 0;
  int64_t grain_ = 0;
  int64_t pieces_ = 0;
  Invoke invoke_ = nullptr;
  const void* body_ = nullptr;
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};    // raised once per loop, for who waits for one
  alignas(64) std::atomic<uint64_t> left_{0};     // the loop, 32 bits; pieces of it that nobody has taken
  alignas(64) std::atomic<uint32_t> pending_{0};  // pieces of it that have not ended
};

}  // namespace rondo
