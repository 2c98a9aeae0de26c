#include <fmt/format.h>

#include "runner/bench/measure.h"
#include "runner/cli/commands.h"
#include "runner/cli/output.h"
#include "runner/cli/terminal.h"

namespace rondo::cli {

int run(const BenchOptions& options) {
  if (!options.output.empty()) expect_writable(options.output);
  bench::Options bench = options.bench;
  bench::Report report;
  {
    StatusLine status;
    Progress load;
    bench.progress = [&status](const std::string& doing) { status.show(doing); };
    bench.engine.progress = [&load](uint64_t done, uint64_t total) { load.update(done, total); };
    report = bench::run(bench, [] { return caught_signal() != 0; });
  }
  if (options.output.empty()) {
    write_out(bench::render(report, options.format));
  } else {
    write_file(options.output, bench::render(report, options.format));
    write_out(bench::render(report, bench::Format::Md));
  }
  if (caught_signal() != 0) throw Interrupted{caught_signal()};
  int64_t differ = 0;
  for (const bench::Cell& cell : report.cells) differ += !cell.bit_equal.value_or(true);
  if (differ == 0) return 0;
  write_err(fmt::format("rondo: Internal: replay and eager left different bits in {} cells\n", differ));
  return 1;
}

int run(const TraceOptions& options) {
  expect_writable(options.output);
  bench::TraceOptions trace = options.trace;
  Progress load;
  trace.engine.progress = [&load](uint64_t done, uint64_t total) { load.update(done, total); };
  write_file(options.output, bench::trace_step(trace));
  return 0;
}

}  // namespace rondo::cli
