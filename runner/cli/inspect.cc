#include <fmt/format.h>

#include "runner/cli/commands.h"
#include "runner/cli/session.h"
#include "runner/cli/terminal.h"

namespace rondo::cli {
namespace {

std::string as_json(const InspectOptions& options, const MemoryPlan& plan) {
  Json arenas = Json::array();
  Json totals = Json::object();
  for (const PlannedArena& arena : plan.arenas) {
    Json buffers = Json::array();
    for (const PlannedBuffer& buffer : arena.buffers) {
      buffers.push_back({{"name", buffer.name},
                         {"dtype", buffer.dtype},
                         {"shape", buffer.shape},
                         {"bytes", buffer.bytes},
                         {"offset", buffer.offset}});
    }
    arenas.push_back({{"name", arena.name}, {"bytes", arena.bytes}, {"buffers", std::move(buffers)}});
    totals[arena.name + "_bytes"] = arena.bytes;
  }
  totals["total_bytes"] = plan.total_bytes;
  return document({{"version", version()},
                   {"model", options.target.path},
                   {"device", options.target.engine.device == DeviceKind::Cpu ? "cpu" : "cuda"},
                   {"max_rows", options.target.engine.max_rows},
                   {"max_sequences", plan.max_sequences},
                   {"max_context", plan.max_context},
                   {"max_logit_rows", plan.max_logit_rows},
                   {"page_size", plan.page_size},
                   {"pages", plan.pages},
                   {"buckets", plan.buckets},
                   {"arenas", std::move(arenas)},
                   {"totals", std::move(totals)}});
}

std::string as_table(const InspectOptions& options, const MemoryPlan& plan) {
  std::string text;
  for (const PlannedArena& arena : plan.arenas) {
    text += fmt::format("{}: {} bytes in {} buffers\n", arena.name, arena.bytes, arena.buffers.size());
    text += fmt::format("  {:>14} {:>14}  {:<6} {:<26} {}\n", "offset", "bytes", "dtype", "shape", "name");
    for (const PlannedBuffer& buffer : arena.buffers) {
      text += fmt::format("  {:>14} {:>14}  {:<6} {:<26} {}\n", buffer.offset, buffer.bytes, buffer.dtype,
                          fmt::format("[{}]", fmt::join(buffer.shape, ", ")), buffer.name);
    }
    text += "\n";
  }
  text += fmt::format("row buckets     {}\n", fmt::join(plan.buckets, " "));
  text += fmt::format("K/V pages       {} of {} positions each, one of them the scrap page\n", plan.pages,
                      plan.page_size);
  text += fmt::format("sequences       {} of at most {} positions\n", plan.max_sequences, plan.max_context);
  text += fmt::format("logit rows      {}\n", plan.max_logit_rows);
  for (const PlannedArena& arena : plan.arenas) {
    text += fmt::format("{:<15} {:>14} bytes\n", arena.name, arena.bytes);
  }
  text += fmt::format("{:<15} {:>14} bytes ({:.2f} GB) on the {} device\n", "total", plan.total_bytes,
                      static_cast<double>(plan.total_bytes) / 1e9,
                      options.target.engine.device == DeviceKind::Cpu ? "cpu" : "cuda");
  text +=
      options.target.engine.device == DeviceKind::Cpu
          ? "The total is of weights, pages and step. Threads' scratch, copies of inputs and results, and "
            "the host's lists come on top.\n"
          : "The total is all that the engine allocates on the device. The driver's context and graphs, "
            "and memory of the host (pinned inputs and results, lists) come on top.\n";
  return text;
}

}  // namespace

int run(const InspectOptions& options) {
  const MemoryPlan plan = plan_memory(options.target.path, options.target.engine);
  write_out(options.json ? as_json(options, plan) : as_table(options, plan));
  return 0;
}

}  // namespace rondo::cli
