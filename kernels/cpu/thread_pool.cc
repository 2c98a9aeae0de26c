#include "kernels/cpu/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "buffers/error.h"
#include "hwy/cache_control.h"

namespace rondo {
namespace {

constexpr int kMostThreads = 1024;
constexpr auto kSpin =
    std::chrono::microseconds(40);  // longer than the gaps inside a step, shorter than anyone notices

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(
      std::max(1u, std::thread::hardware_concurrency()));  // more cores than a cpu_set_t can name
}

// Returns once `value` is no longer `old`.
void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      hwy::Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : owner_(getpid()) {
  if (threads < 0 || threads > kMostThreads)
    throw Error(ErrorKind::InvalidArgument, "threads: expected 0 (all cores) to " +
                                                std::to_string(kMostThreads) + ", found " +
                                                std::to_string(threads));
  const int total = threads == 0 ? std::min(usable_cores(), kMostThreads) : threads;
  workers_ = std::vector<Worker>(static_cast<size_t>(total) - 1);
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i].pool = this;
    workers_[i].index = static_cast<int>(i) + 1;
    const auto entry = [](void* p) -> void* {
      Worker* worker = static_cast<Worker*>(p);
      worker->pool->work(*worker);
      return nullptr;
    };
    if (pthread_create(&workers_[i].handle, nullptr, entry, &workers_[i]) != 0) {
      stop(i);
      throw Error(ErrorKind::OutOfMemory, "threads: expected " + std::to_string(total) +
                                              ", the system gave " + std::to_string(i + 1) +
                                              "; ask for fewer");
    }
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() == owner_) stop(workers_.size());
}

void ThreadPool::stop(size_t started) {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (size_t i = 0; i < started; ++i) pthread_join(workers_[i].handle, nullptr);
}

void ThreadPool::run_part(int thread) const {
  const int64_t begin = n_ * thread / threads(), end = n_ * (thread + 1) / threads();
  if (begin < end) invoke_(body_, begin, end, thread);
}

// Parts are taken in every loop, so that one which nobody has taken yet is known by the loop before. A thread
// that comes late for an earlier loop takes nothing.
bool ThreadPool::take(Worker& worker, uint32_t loop) {
  uint32_t before = loop - 1;
  return worker.taken.compare_exchange_strong(before, loop, std::memory_order_acq_rel,
                                              std::memory_order_relaxed);
}

void ThreadPool::run(int64_t n, Invoke invoke, const void* body) {
  n_ = n;
  invoke_ = invoke;
  body_ = body;
  if (workers_.empty() || n <= 1 || getpid() != owner_) {
    for (int t = 0; t < threads(); ++t) run_part(t);
    return;
  }
  pending_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  const uint32_t loop = epoch_.fetch_add(1, std::memory_order_release) + 1;
  epoch_.notify_all();
  run_part(0);
  for (auto worker = workers_.rbegin(); worker != workers_.rend(); ++worker) {
    if (!take(*worker, loop)) continue;
    run_part(worker->index);
    pending_.fetch_sub(1, std::memory_order_relaxed);
  }
  for (uint32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;)
    wait_for_change(pending_, left);
}

void ThreadPool::work(Worker& worker) {
  uint32_t loop = 0;
  while (true) {
    wait_for_change(epoch_, loop);
    loop = epoch_.load(std::memory_order_acquire);
    if (stopping_) return;
    if (!take(worker, loop)) continue;
    run_part(worker.index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

}  // namespace rondo
