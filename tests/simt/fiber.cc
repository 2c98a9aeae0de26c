#include "tests/simt/fiber.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(SIMT_USES_UCONTEXT)
// Saves the registers that a call preserves, then the stack pointer; the other fiber's come back in reverse
// order. swapcontext() would do, at ten times the cost: it makes a system call for the signal mask.
extern "C" void simt_switch_stack(void** save, void* to);
asm(R"(.text
.type simt_switch_stack,@function
simt_switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size simt_switch_stack,.-simt_switch_stack
)");
#endif

namespace simt {
namespace {

constexpr size_t kStackBytes =
    256 * 1024;  // room for AddressSanitizer's red zones and for unoptimised locals
constexpr uint64_t kCanary = 0x5AFE57ACC0DEBA5Eull;

}  // namespace

Fiber::Fiber() {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* low = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &size_);
  pthread_attr_destroy(&attributes);
  stack_ = static_cast<char*>(low);
#endif
#if defined(SIMT_TSAN)
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*entry)(), size_t number)
    : stack_(static_cast<char*>(std::aligned_alloc(64, kStackBytes))),
      size_(kStackBytes - number % 64 * 320),
      owned_(true) {
  if (!stack_) throw std::bad_alloc();
  std::memcpy(stack_, &kCanary, sizeof kCanary);
#if defined(SIMT_TSAN)
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
#if defined(SIMT_USES_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = size_;
  makecontext(&context_, entry, 0);
#else
  void** top = reinterpret_cast<void**>(stack_ + size_) - 8;
  std::memset(top, 0, 8 * sizeof *top);
  top[6] = reinterpret_cast<void*>(entry);  // the return address, above six saved registers
  stack_pointer_ = top;
#endif
}

Fiber::~Fiber() {
  if (!owned_) return;
#if defined(SIMT_TSAN)
  __tsan_destroy_fiber(tsan_fiber_);
#endif
  std::free(stack_);
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
#if defined(SIMT_TSAN)
  __tsan_switch_to_fiber(to.tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.asan_fake_stack_, to.stack_, to.size_);
#endif
#if defined(SIMT_USES_UCONTEXT)
  swapcontext(&from.context_, &to.context_);
#else
  simt_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.asan_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

#if defined(SIMT_TSAN)
void Fiber::release_for(const Fiber& fiber, const Fiber& running, void* key) {
  __tsan_switch_to_fiber(fiber.tsan_fiber_, __tsan_switch_to_fiber_no_sync);
  __tsan_release(key);
  __tsan_switch_to_fiber(running.tsan_fiber_, __tsan_switch_to_fiber_no_sync);
}
#else
void Fiber::release_for(const Fiber&, const Fiber&, void*) {}
#endif

bool Fiber::overflowed() const { return owned_ && std::memcmp(stack_, &kCanary, sizeof kCanary) != 0; }

}  // namespace simt
