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

  // One landing. It has had `uses` copies that have landed; the copy of the next use may be under way.
  struct Landing {
    const void* word;
    unsigned prepared_by;
    bool announced;  // to the copy engine
    unsigned uses;
    BulkCopy copy;  // under way; its bytes are 0 where none is
    Where started;
    bool under_way() const { return copy.bytes != 0; }
  };

  void clear() { landings_.clear(); }

  // What is wrong with the call, or null.
  const char* prepare(const void* word, unsigned thread);
  void announce(unsigned thread);
  const char* check_copy(const void* word, uint64_t content, const BulkCopy& copy);
  const char* check_wait(const void* word, uint64_t content, int parity);

  // After their checks. The bytes move when somebody waits for them, the latest moment there is.
  void start(const void* word, const BulkCopy& copy, Where at);
  void land(Landing& landing);

  Landing* find(const void* word);
  const Landing* first_under_way() const;

 private:
  const char* check_word(const void* word, uint64_t content);
  std::vector<Landing> landings_;
};

}  // namespace simt
