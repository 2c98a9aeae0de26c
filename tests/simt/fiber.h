// A stack to run on, and the switch from one to another. Part of the executor: never built with
// -fsanitize=thread.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#error \
    "the executor switches stacks under ThreadSanitizer's feet: build it with -fno-sanitize=thread -DSIMT_TSAN"
#endif

#if defined(SIMT_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
#define SIMT_USES_UCONTEXT 1
#else
extern "C" void simt_switch_stack(void** save, void* to);
#endif
#if defined(SIMT_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {

class Fiber {
 public:
  // The calling OS thread's own stack.
  Fiber();
  // A stack of its own; `entry` starts when it is first switched to and must never return. `number` staggers
  // the tops: equal ones would share cache sets.
  Fiber(void (*entry)(), size_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  static void switch_to(Fiber& from, Fiber& to) {
#if defined(SIMT_TSAN)
    __tsan_switch_to_fiber(to.tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(&from.asan_fake_stack_, to.stack_, to.size_);
#endif
#if defined(SIMT_USES_UCONTEXT)
    swapcontext(&from.context_, &to.context_);
#else
    simt_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#endif
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(from.asan_fake_stack_, nullptr, nullptr);
#endif
  }
  // First thing on a new stack: tells AddressSanitizer that the switch is complete.
  static void entered();
  // To ThreadSanitizer: what `fiber`, which never runs again, did comes before whoever acquires the key.
  static void release_for(const Fiber& fiber, const Fiber& running, void* key);
  // Whether the stack was used up (the words at its end were written).
  bool overflowed() const;

 private:
  char* stack_ = nullptr;  // lowest address; null only for an OS thread's stack that no sanitizer asks about
  size_t size_ = 0;
  bool owned_ = false;
  void* asan_fake_stack_ = nullptr;
  void* tsan_fiber_ = nullptr;
#if defined(SIMT_USES_UCONTEXT)
  ucontext_t context_{};
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace simt
