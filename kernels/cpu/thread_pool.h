// A few threads that run short loops. A step is some hundred loops of 10 us to 10 ms with gaps of a
// microsecond between them, so waiting threads spin for a moment before they sleep: a running engine pays no
// wake-ups, an idle one no CPU. Nobody waits for a thread that has not begun: its part is the calling
// thread's where that gets to it first, as when another process has the core.
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

  // f(begin, end, thread) for `threads()` contiguous parts of [0, n) that depend on n and threads() only, and
  // returns when all are done. Empty parts are not called. `thread` is the part's number, and no two parts of
  // one number run at once, whichever thread does them. f must not throw. One call at a time, not from
  // inside f. In a forked child the calling thread does every part.
  template <class F>
  void parallel_for(int64_t n, const F& f) {
    run(
        n,
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
    std::atomic<uint32_t> taken{0};  // the last loop of which somebody has taken the part of this index
  };
  static bool take(Worker& worker, uint32_t loop);

  void run(int64_t n, Invoke invoke, const void* body);
  void run_part(int thread) const;
  void work(Worker& worker);
  void stop(size_t started);

  pid_t owner_;
  std::vector<Worker> workers_;
  // one loop, written before epoch_ is raised and read by whoever has taken a part of it
  int64_t n_ = 0;
  Invoke invoke_ = nullptr;
  const void* body_ = nullptr;
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};    // raised once per loop
  alignas(64) std::atomic<uint32_t> pending_{0};  // parts of this loop that have not ended, the first apart
};

}  // namespace rondo
