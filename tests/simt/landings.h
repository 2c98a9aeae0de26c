// Bulk copies and their landings, of one block: what the copy engine and its mbarriers do with them. Part of
// the executor: never built with -fsanitize=thread. Who waits, and who is woken, is the executor's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/simt/simt.h"

namespace simt {

class Landings {
 public:
  Landings();

  struct Landing {
    const void* word;
    unsigned prepared_by;
    unsigned arrivals;            // of each use
    bool announced = false;       // to the copy engine
    unsigned uses = 0;            // that are over: all of their copies have landed
    unsigned arrived = 0;         // of the use that is not over, like the next two
    uint32_t expected_bytes = 0;  // that arrivals announced
    uint32_t started_bytes = 0;
    bool complete() const { return arrived == arrivals && started_bytes == expected_bytes; }
  };

  struct Copy {
    const void* word;
    BulkCopy copy;  // its bytes are 0 once it has landed
    Where started;
    bool moved;  // its bytes, already
  };

  void clear();

  // What is wrong with the call, or null.
  const char* prepare(const void* word, int arrivals, unsigned thread);
  void announce(unsigned thread);
  const char* check_arrival(const void* word, uint64_t content, uint32_t bytes);
  const char* check_copy(const void* word, uint64_t content, const BulkCopy& copy);
  const char* check_wait(const void* word, uint64_t content, int parity);

  // After their checks. Whether the use is complete now: the bytes move when somebody waits for them, the
  // latest moment there is, or `at_once`, the first one; and where there are none it is over.
  bool arrive(const void* word, uint32_t bytes);
  bool start(const void* word, const BulkCopy& copy, Where at, bool at_once);
  void land(Landing& landing);

  Landing* find(const void* word);
  const Landing* find(const void* word) const;
  const Copy* first_under_way() const;

 private:
  const char* check_word(const void* word, uint64_t content);
  std::vector<Landing> landings_;
  std::vector<Copy> copies_;
};

}  // namespace simt
