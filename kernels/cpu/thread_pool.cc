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
constexpr int kPiecesPerThread = 8;
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

// The loop's number stands beside what is left of it, so that a thread which comes late for an earlier loop
// takes nothing of it; and a loop cannot end, nor what it is be written anew, while a piece is taken.
bool ThreadPool::run_piece(int thread) {
  uint64_t left = left_.load(std::memory_order_acquire);
  do {
    if (static_cast<uint32_t>(left) == 0) return false;
  } while (
      !left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  const int64_t piece = pieces_ - static_cast<uint32_t>(left), grains = (n_ + grain_ - 1) / grain_;
  const int64_t begin = grains * piece / pieces_ * grain_, end = grains * (piece + 1) / pieces_ * grain_;
  invoke_(body_, begin, std::min(end, n_), thread);
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  return true;
}

void ThreadPool::run(int64_t n, int64_t grain, Invoke invoke, const void* body) {
  if (n <= 0) return;
  if (workers_.empty() || n <= grain || getpid() != owner_) return invoke(body, 0, n, 0);
  n_ = n;
  grain_ = grain;
  pieces_ = std::min(int64_t{kPiecesPerThread} * threads(), (n + grain - 1) / grain);
  invoke_ = invoke;
  body_ = body;
  pending_.store(static_cast<uint32_t>(pieces_), std::memory_order_relaxed);
  const uint32_t loop = epoch_.load(std::memory_order_relaxed) + 1;
  left_.store(uint64_t{loop} << 32 | static_cast<uint64_t>(pieces_), std::memory_order_release);
  epoch_.store(loop, std::memory_order_release);
  epoch_.notify_all();
  while (run_piece(0)) {
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
    while (run_piece(worker.index)) {
    }
  }
}

}  // namespace rondo
