// The program `rondo`. Exit status: 0 done, 1 a fault of its own, 2 bad input (one line says which), 128 + n
// for signal n.
#include <exception>
#include <new>
#include <string>
#include <variant>

#include "runner/cli/commands.h"
#include "runner/cli/terminal.h"

namespace {

int report(const std::string& kind, const char* message, int status) noexcept {
  try {
    rondo::cli::write_err("rondo: " + kind + ": " + rondo::cli::one_line(message) + "\n");
  } catch (...) {
    rondo::cli::write_err("rondo: OutOfMemory: no memory left to say what went wrong\n");
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kOwnFault = 1;
  constexpr int kBadInput = 2;
  try {
    rondo::cli::catch_signals();
    const rondo::cli::Command command = rondo::cli::parse_command_line(argc, argv);
    return std::visit([](const auto& options) { return rondo::cli::run(options); }, command);
  } catch (const rondo::cli::BrokenPipe&) {
    return 0;
  } catch (const rondo::cli::Interrupted& interrupted) {
    return 128 + interrupted.signal;
  } catch (const rondo::Error& error) {
    return report(rondo::error_kind_name(error.kind()), error.what(), kBadInput);
  } catch (const std::bad_alloc&) {
    return report("OutOfMemory", "host memory ended; try a smaller --max-context or --max-sequences",
                  kBadInput);
  } catch (const std::exception& error) {
    return report("Internal", error.what(), kOwnFault);
  }
}
