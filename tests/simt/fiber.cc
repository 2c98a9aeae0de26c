#include "tests/simt/fiber.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(SIMT_ASAN)
#include <pthread.h>
#endif

#if !defined(SIMT_USES_UCONTEXT)
// Saves the registers that a call preserves, then the stack pointer; the other fiber's come back in reverse
// order. swapcontext() would do, at ten times the cost: it makes a system call for the signal mask.
asm(R"(.text
.globl simt_switch_stack
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
#if defined(SIMT_ASAN)
  static thread_local size_t size = 0;
  static thread_local char* low = nullptr;
  if (!low) {  // asked once: it reads /proc/self/maps
    pthread_attr_t attributes;
    void* address = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &address, &size);
    pthread_attr_destroy(&attributes);
    low = static_cast<char*>(address);
  }
  stack_ = low;
  size_ = size;
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

void Fiber::entered() {
#if defined(SIMT_ASAN)
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
