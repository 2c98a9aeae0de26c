#include "runner/bench/build_info.h"

#include "rondo_commit.h"

namespace rondo::bench {

const char* build_commit() { return RONDO_COMMIT; }
const char* build_description() { return RONDO_BUILD; }

}  // namespace rondo::bench
