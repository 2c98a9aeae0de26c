#include "tests/simt/landings.h"

#include <cstring>

namespace simt {
namespace {

constexpr size_t kUsual = 256;  // landings of a block

bool misaligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to != 0; }

bool overlap(const BulkCopy& a, const BulkCopy& b) {
  const auto from = reinterpret_cast<uintptr_t>(a.to), other = reinterpret_cast<uintptr_t>(b.to);
  return from < other + b.bytes && other < from + a.bytes;
}

}  // namespace

// At once, since ThreadSanitizer would see fibers give back each other's memory where the vector grows.
Landings::Landings() { landings_.reserve(kUsual); }

Landings::Landing* Landings::find(const void* word) {
  for (Landing& landing : landings_)
    if (landing.word == word) return &landing;
  return nullptr;
}

const Landings::Landing* Landings::first_under_way() const {
  for (const Landing& landing : landings_)
    if (landing.under_way()) return &landing;
  return nullptr;
}

const char* Landings::prepare(const void* word, unsigned thread) {
  if (misaligned(word, sizeof(uint64_t))) return "a landing's address must be a multiple of 8";
  if (find(word)) return "a landing is prepared twice";
  landings_.push_back({word, thread, false, 0, {}, {}});
  return nullptr;
}

void Landings::announce(unsigned thread) {
  for (Landing& landing : landings_)
    if (landing.prepared_by == thread) landing.announced = true;
}

const char* Landings::check_word(const void* word, uint64_t content) {
  if (!find(word)) return "a landing is used before it is prepared";
  if (content != kPreparedLanding) return "a landing's word was written over";
  return nullptr;
}

const char* Landings::check_copy(const void* word, uint64_t content, const BulkCopy& copy) {
  if (const char* wrong = check_word(word, content)) return wrong;
  const Landing& landing = *find(word);
  if (!landing.announced) return "a bulk copy to a landing before prepare_landings_done()";
  if (copy.bytes == 0 || copy.bytes % 16) return "a bulk copy takes a multiple of 16 bytes, and not 0";
  if (misaligned(copy.to, 16) || misaligned(copy.from, 16))
    return "a bulk copy needs addresses that are multiples of 16";
  if (landing.under_way()) return "a bulk copy to a landing whose earlier copy nobody has waited for yet";
  for (const Landing& other : landings_)
    if (other.under_way() && overlap(other.copy, copy))
      return "a bulk copy goes where an earlier one has not landed: nobody has waited for it yet";
  return nullptr;
}

const char* Landings::check_wait(const void* word, uint64_t content, int parity) {
  if (const char* wrong = check_word(word, content)) return wrong;
  if (parity != 0 && parity != 1) return "a landing's parity is 0 or 1";
  if (parity == 1 && find(word)->uses == 0)
    return "a wait for parity 1 of a landing that has had no use: a GPU would not wait";
  return nullptr;
}

void Landings::start(const void* word, const BulkCopy& copy, Where at) {
  Landing& landing = *find(word);
  landing.copy = copy;
  landing.started = at;
}

void Landings::land(Landing& landing) {
  // ThreadSanitizer would count memcpy() as an access by the thread that waits; what it is to see of the copy
  // was shown to it when the copy started.
  auto* to = static_cast<volatile uint64_t*>(landing.copy.to);
  auto* from = static_cast<const volatile uint64_t*>(landing.copy.from);
  for (uint32_t i = 0; i < landing.copy.bytes / sizeof(uint64_t); ++i) to[i] = from[i];
  landing.copy = {};
  ++landing.uses;
}

}  // namespace simt
