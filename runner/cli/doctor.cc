#include "runner/cli/commands.h"
#include "runner/cli/terminal.h"

namespace rondo::cli {

int run(const DoctorOptions&) {
  std::string report = doctor_report();
  if (!report.ends_with('\n')) report += '\n';
  write_out(report);
  return 0;
}

int run(const Help& help) {
  write_out(help.text);
  return 0;
}

}  // namespace rondo::cli
