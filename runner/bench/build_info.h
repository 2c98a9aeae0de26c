// Where this program comes from; written in by the build.
#pragma once

namespace rondo::bench {

const char*
build_commit();  // "735383a1b2c3", with "-dirty" where files differ from it; "unknown" outside a checkout
const char* build_description();  // "Release, GNU 12.2.0, nvcc 13.0.88 for 80;90a"

}  // namespace rondo::bench
