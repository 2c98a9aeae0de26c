// What reading a file may do to a program, for tests: where reads.cc is linked, pread() does as it is told
// here.
#pragma once

#include <cstdint>

namespace rondo::test {

struct Reads {
  uint64_t interrupted_each = 0;  // each n-th call ends with EINTR and reads nothing; 0: none
  uint64_t at_most = UINT64_MAX;  // bytes of one call
  uint64_t failing = 0;           // the n-th call from now fails; 0: none
  int error = 0;                  // with this
  uint64_t calls = 0;
};
Reads& reads();

// Reads are as told until it goes.
class ReadsAs {
 public:
  explicit ReadsAs(const Reads& wanted) { reads() = wanted; }
  ~ReadsAs() { reads() = {}; }
  ReadsAs(const ReadsAs&) = delete;  // there is one pread()
};

}  // namespace rondo::test
