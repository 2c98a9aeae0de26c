// `generate` with its requests on standard input, one JSON object a line.
#pragma once

#include "runner/cli/options.h"
#include "runner/cli/session.h"

namespace rondo::cli {

// Decodes whatever comes, many at a time, and writes a line when a sequence ends. The exit status: 0, or 2
// where a line was bad or a sequence ended by a numerical error; the others are not affected. Throws as run()
// does.
int generate_lines(const GenerateOptions& options, Session& session);

}  // namespace rondo::cli
