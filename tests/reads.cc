#include "tests/reads.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace rondo::test {

Reads& reads() {
  static Reads all;
  return all;
}

}  // namespace rondo::test

// In front of the C library's.
extern "C" ssize_t pread(int file, void* to, size_t bytes, off_t offset) {
  rondo::test::Reads& reads = rondo::test::reads();
  ++reads.calls;
  if (reads.interrupted_each && reads.calls % reads.interrupted_each == 0) {
    errno = EINTR;
    return -1;
  }
  if (reads.calls == reads.failing) {
    errno = reads.error;
    return -1;
  }
  return syscall(SYS_pread64, file, to, std::min<uint64_t>(bytes, reads.at_most), offset);
}
