#include "runner/bench/cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "runner/model_config.h"
#include "runner/plan.h"

namespace rondo::bench {
namespace {

constexpr int64_t kDefaultContext = 512;
constexpr int64_t kStepsOnGpu = 100;
constexpr int64_t kStepsOnCpu = 10;
constexpr int kMostRows = 4096;

ModelConfig config_of(const std::string& path) {
  return std::filesystem::is_directory(path) ? load_model_config(path) : load_model_config_file(path);
}

// The buckets that an engine has by itself.
std::vector<int> all_buckets(const ModelConfig& config) {
  EngineOptions options;
  options.max_rows = kMostRows;
  options.max_context = 1;
  return make_dims(config, config.dtype, options, false).buckets;
}

int bucket_for(const std::vector<int>& buckets, int64_t rows) {
  return *std::lower_bound(buckets.begin(), buckets.end(), static_cast<int>(rows));
}

int64_t in_pages(int64_t positions, int64_t page_size) {
  return (positions + page_size - 1) / page_size * page_size;
}

// Buckets, rows, slots and K/V for the points that are not left out.
void fit_engine(Plan& plan, const std::vector<int>& buckets, int64_t max_context) {
  EngineOptions& engine = plan.engine;
  std::set<int> needed;
  int64_t sequences = 1, positions = 1, longest = 1;
  for (const Point& point : plan.points) {
    if (!point.left_out.empty()) continue;
    longest = std::max(longest, point.context);
    if (point.prompt) {
      for (int64_t rest = point.rows; rest > 0; rest -= plan.prompt_rows)
        needed.insert(bucket_for(buckets, std::min(rest, plan.prompt_rows)));
      positions = std::max(positions, in_pages(point.context, engine.page_size));
    } else {
      needed.insert(bucket_for(buckets, point.rows));
      sequences = std::max(sequences, point.rows);
      positions = std::max(positions, point.rows * in_pages(point.context, engine.page_size));
    }
  }
  if (needed.empty()) needed.insert(1);
  engine.buckets.assign(needed.begin(), needed.end());
  engine.max_rows = engine.buckets.back();
  engine.max_sequences = static_cast<int>(sequences);
  engine.max_logit_rows = static_cast<int>(sequences);
  engine.max_context = max_context ? max_context : longest;
  engine.kv_positions =
      std::max(in_pages(positions, engine.page_size), in_pages(engine.max_context, engine.page_size));
}

}  // namespace

Plan make_plan(const Options& options, bool cuda, uint64_t free_bytes, uint64_t spare_bytes) {
  const ModelConfig config = config_of(options.path);
  const std::vector<int> buckets = all_buckets(config);
  Plan plan;
  plan.engine = options.engine;
  plan.engine.device = cuda ? DeviceKind::Cuda : DeviceKind::Cpu;
  plan.steps = options.steps ? options.steps : cuda ? kStepsOnGpu : kStepsOnCpu;
  plan.threads = options.threads.empty() ? std::vector<int64_t>{0} : options.threads;
  if (cuda && !options.threads.empty())
    throw Error(ErrorKind::InvalidArgument, "--threads: expected the cpu backend with it, found cuda");

  plan.modes = options.modes;
  if (plan.modes.empty())
    plan.modes =
        cuda ? std::vector<Mode>{Mode::Eager, Mode::Replay, Mode::Ahead} : std::vector<Mode>{Mode::Eager};
  bool graphs = false;
  for (Mode mode : plan.modes) graphs |= mode != Mode::Eager;
  if (graphs && !cuda)
    throw Error(ErrorKind::InvalidArgument,
                "--graph: the cpu backend has no graphs: expected eager, found replay or ahead");
  plan.engine.graph = graphs ? GraphMode::Require : GraphMode::Off;

  std::vector<int64_t> contexts = options.contexts;
  if (contexts.empty()) contexts = {std::min(kDefaultContext, config.max_position_embeddings)};
  for (int64_t context : contexts)
    for (int64_t rows : options.rows)
      if (options.decode) plan.points.push_back({false, rows, context, ""});
  for (int64_t tokens : options.prompts)
    if (!options.verbs) plan.points.push_back({true, tokens, tokens, ""});

  plan.prompt_rows = std::min<int64_t>(options.max_rows, kMostRows);
  while (true) {
    fit_engine(plan, buckets, options.engine.max_context);
    const uint64_t needed = plan_memory(options.path, plan.engine).total_bytes + spare_bytes;
    if (needed <= free_bytes) return plan;
    Point* largest = nullptr;
    for (Point& point : plan.points)
      if (point.left_out.empty() &&
          (!largest || (point.prompt ? 1 : point.rows) * point.context >
                           (largest->prompt ? 1 : largest->rows) * largest->context))
        largest = &point;
    if (!largest) return plan;  // the weights alone do not fit: opening the engine says so
    largest->left_out = fmt::format("needs {:.1f} GB, {:.1f} are free", static_cast<double>(needed) / 1e9,
                                    static_cast<double>(free_bytes) / 1e9);
  }
}

}  // namespace rondo::bench
