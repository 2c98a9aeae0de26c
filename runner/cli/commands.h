// The program's commands. Each returns the exit status; what goes wrong is thrown and reported by main().
#pragma once

#include "runner/cli/options.h"

namespace rondo::cli {

int run(const GenerateOptions& options);
int run(const ScoreOptions& options);
int run(const TokenizeOptions& options);
int run(const InspectOptions& options);
int run(const BenchOptions& options);
int run(const TraceOptions& options);
int run(const DoctorOptions& options);
int run(const Help& help);

}  // namespace rondo::cli
