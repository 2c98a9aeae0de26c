#include "tests/simt/landings.h"

#include <cstring>

namespace simt {
namespace {

constexpr size_t kUsual = 256;  // landings of a block, and copies under way
constexpr int kPlaces = 8;      // of a piece
constexpr size_t kPlaceBytes = kPieceBytes / kPlaces;

bool misaligned(const void* p, size_t to) { return reinterpret_cast<uintptr_t>(p) % to != 0; }

bool under_way(const Landings::Copy& copy) { return copy.copy.bytes != 0; }
bool is_tile(const BulkCopy& copy) { return copy.tiles.base != nullptr; }

bool overlap(const BulkCopy& a, const BulkCopy& b) {
  const auto from = reinterpret_cast<uintptr_t>(a.to), other = reinterpret_cast<uintptr_t>(b.to);
  return from < other + b.bytes && other < from + a.bytes;
}

// ThreadSanitizer would count a call of memcpy() as an access by the thread that waits; what it is to see of
// a copy was shown to it when the copy started. One of 16 bytes is no call.
void land_bytes(const BulkCopy& copy) {
  auto* to = static_cast<volatile uint64_t*>(copy.to);
  auto* from = static_cast<const volatile uint64_t*>(copy.from);
  for (uint32_t i = 0; i < copy.bytes / sizeof(uint64_t); ++i) to[i] = from[i];
}

void land_tile(const BulkCopy& copy) {
  visit_pieces(copy.tiles, copy.corner, [&](int p, const char* from) {
    char* const to = static_cast<char*>(copy.to) + p * kPieceBytes;
    for (int i = 0; i < kPlaces; ++i) {
      uint64_t place[kPlaceBytes / sizeof(uint64_t)] = {};
      if (from) std::memcpy(place, from + i * kPlaceBytes, kPlaceBytes);
      std::memcpy(to + (i ^ p % kPlaces) * kPlaceBytes, place, kPlaceBytes);
    }
  });
}

void move(const BulkCopy& copy) { is_tile(copy) ? land_tile(copy) : land_bytes(copy); }

void end_use(Landings::Landing& landing) {
  ++landing.uses;
  landing.arrived = 0;
  landing.expected_bytes = landing.started_bytes = 0;
}

}  // namespace

// At once, since ThreadSanitizer would see fibers give back each other's memory where the vectors grow.
Landings::Landings() {
  landings_.reserve(kUsual);
  copies_.reserve(kUsual);
}

void Landings::clear() {
  landings_.clear();
  copies_.clear();
}

Landings::Landing* Landings::find(const void* word) {
  for (Landing& landing : landings_)
    if (landing.word == word) return &landing;
  return nullptr;
}
const Landings::Landing* Landings::find(const void* word) const {
  return const_cast<Landings*>(this)->find(word);
}

const Landings::Copy* Landings::first_under_way() const {
  for (const Copy& copy : copies_)
    if (under_way(copy)) return &copy;
  return nullptr;
}

const char* Landings::prepare(const void* word, int arrivals, unsigned thread) {
  if (misaligned(word, sizeof(uint64_t))) return "a landing's address must be a multiple of 8";
  if (find(word)) return "a landing is prepared twice";
  if (arrivals < 1 || arrivals >= 1 << 20) return "a landing takes from 1 to 2^20 - 1 arrivals";
  landings_.push_back({word, thread, unsigned(arrivals)});
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

const char* Landings::check_arrival(const void* word, uint64_t content, uint32_t bytes) {
  if (const char* wrong = check_word(word, content)) return wrong;
  const Landing& landing = *find(word);
  if (landing.complete())
    return bytes ? "a bulk copy to a landing whose earlier copy nobody has waited for yet"
                 : "an arrival at a landing whose copy nobody has waited for yet";
  if (landing.arrived == landing.arrivals) return "more arrivals at a landing than it was prepared for";
  return nullptr;
}

const char* Landings::check_copy(const void* word, uint64_t content, const BulkCopy& copy) {
  if (const char* wrong = check_word(word, content)) return wrong;
  const Landing& landing = *find(word);
  if (!landing.announced) return "a bulk copy to a landing before prepare_landings_done()";
  if (copy.bytes == 0 || copy.bytes % 16) return "a bulk copy takes a multiple of 16 bytes, and not 0";
  if (is_tile(copy) && misaligned(copy.to, kTileAlignment))
    return "a tile needs an address that is a multiple of 1024";
  if (misaligned(copy.to, 16) || misaligned(copy.from, 16))
    return "a bulk copy needs addresses that are multiples of 16";
  if (landing.expected_bytes == 0) return "a bulk copy to a landing without expect_bytes() before it";
  if (copy.bytes > landing.expected_bytes - landing.started_bytes)
    return "bulk copies to a landing have more bytes than expect_bytes() announced";
  for (const Copy& other : copies_)
    if (under_way(other) && overlap(other.copy, copy))
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

bool Landings::arrive(const void* word, uint32_t bytes) {
  Landing& landing = *find(word);
  ++landing.arrived;
  landing.expected_bytes += bytes;
  if (!landing.complete()) return false;
  if (landing.expected_bytes == 0) end_use(landing);
  return true;
}

bool Landings::start(const void* word, const BulkCopy& copy, Where at, bool at_once) {
  Copy* place = nullptr;
  for (Copy& c : copies_)
    if (!under_way(c)) place = &c;
  if (place)
    *place = {word, copy, at, at_once};
  else
    copies_.push_back({word, copy, at, at_once});
  if (at_once) move(copy);
  Landing& landing = *find(word);
  landing.started_bytes += copy.bytes;
  return landing.complete();
}

void Landings::land(Landing& landing) {
  for (Copy& c : copies_) {
    if (c.word != landing.word || !under_way(c)) continue;
    if (!c.moved) move(c.copy);
    c.copy.bytes = 0;
  }
  end_use(landing);
}

}  // namespace simt
