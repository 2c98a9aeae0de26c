// Files that the program writes.
#pragma once

#include <string>

namespace rondo::cli {

// All of `text`, in place of what the file held. Throws Error (InvalidArgument) with the system's reason.
void write_file(const std::string& path, const std::string& text);

}  // namespace rondo::cli
