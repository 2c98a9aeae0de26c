// Files that the program writes.
#pragma once

#include <string>

namespace rondo::cli {

// All of `text`, in place of what the file held. Throws Error (InvalidArgument) with the system's reason.
void write_file(const std::string& path, const std::string& text);

// Throws the same where that will not go, and leaves what is there as it is: to be asked before the work.
void expect_writable(const std::string& path);

}  // namespace rondo::cli
