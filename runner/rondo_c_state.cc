// runner/rondo.h over what the engine says of itself: counters, memory, texts.
#include <algorithm>
#include <cstring>
#include <memory>

#include "runner/rondo_c.h"

namespace rondo::c {
namespace {

// The plan that C sees, with the memory that it points into.
struct Plan : rondo_memory_plan {
  explicit Plan(MemoryPlan from) : rondo_memory_plan(), plan(std::move(from)) {
    for (const PlannedArena& arena : plan.arenas) buffer_count += arena.buffers.size();
    planned_buffers.reserve(buffer_count);
    for (const PlannedArena& arena : plan.arenas) {
      planned_arenas.push_back({arena.name.c_str(), arena.bytes,
                                planned_buffers.data() + planned_buffers.size(), arena.buffers.size()});
      for (const PlannedBuffer& buffer : arena.buffers)
        planned_buffers.push_back({buffer.name.c_str(), buffer.dtype.c_str(), buffer.shape.data(),
                                   buffer.shape.size(), buffer.bytes, buffer.offset});
    }
    arenas = planned_arenas.data();
    arena_count = planned_arenas.size();
    buckets = plan.buckets.data();
    bucket_count = plan.buckets.size();
    pages = plan.pages;
    page_size = plan.page_size;
    max_context = plan.max_context;
    max_sequences = plan.max_sequences;
    max_logit_rows = plan.max_logit_rows;
    total_bytes = plan.total_bytes;
  }

  const MemoryPlan plan;
  size_t buffer_count = 0;
  std::vector<rondo_planned_buffer> planned_buffers;
  std::vector<rondo_planned_arena> planned_arenas;
};

rondo_stats to_stats(const Stats& stats, const std::vector<rondo_bucket_stats>& buckets,
                     const std::vector<rondo_form>& forms) {
  rondo_stats c = {};
  c.steps = stats.steps;
  c.replays = stats.replays;
  c.eager_off = stats.eager_off;
  c.eager_warm_up = stats.eager_warm_up;
  c.eager_samples = stats.eager_samples;
  c.host_logit_rows = stats.host_logit_rows;
  c.loops = stats.loops;
  c.loop_steps = stats.loop_steps;
  c.steps_ahead = stats.steps_ahead;
  c.rows = stats.rows;
  c.padded_rows = stats.padded_rows;
  c.wasted_rows = stats.wasted_rows;
  c.tokens = stats.tokens;
  c.host_seconds = stats.host_seconds;
  c.wait_seconds = stats.wait_seconds;
  c.waiting = stats.waiting;
  c.running = stats.running;
  c.pages_used = stats.pages_used;
  c.pages_shared = stats.pages_shared;
  c.pages_cached = stats.pages_cached;
  c.pages = stats.pages;
  c.preemptions = stats.preemptions;
  c.prefix_lookups = stats.prefix_lookups;
  c.prefix_hits = stats.prefix_hits;
  c.prefix_tokens = stats.prefix_tokens;
  c.page_copies = stats.page_copies;
  c.forks = stats.forks;
  c.drafted_tokens = stats.drafted_tokens;
  c.accepted_drafts = stats.accepted_drafts;
  static_assert(sizeof(c.finished) == sizeof(stats.finished));
  std::copy(stats.finished.begin(), stats.finished.end(), c.finished);
  c.weight_bytes = stats.weight_bytes;
  c.device_bytes = stats.device_bytes;
  c.device = stats.device.c_str();
  c.backend = stats.backend.c_str();
  c.graph = stats.graph.c_str();
  c.one_launch = stats.one_launch.c_str();
  c.buckets = buckets.data();
  c.bucket_count = buckets.size();
  c.forms = forms.data();
  c.form_count = forms.size();
  c.step_bounds = StepTimes::bounds.data();
  c.step_counts = stats.step_times.counts.data();
  c.step_bound_count = StepTimes::bounds.size();
  c.step_seconds = stats.step_times.sum_seconds;
  return c;
}

constexpr size_t kFirstStats = offsetof(rondo_stats, form_count) + sizeof(rondo_stats::form_count);
static_assert(sizeof(rondo_stats) == kFirstStats);

}  // namespace
}  // namespace rondo::c

using namespace rondo::c;

rondo_status rondo_get_stats(rondo_engine* engine, rondo_stats* stats) {
  return guarded([&] {
    need(engine, "rondo_get_stats: engine");
    const size_t size = checked(stats, "rondo_get_stats: stats").struct_size;
    if (size < kFirstStats)
      throw rondo::Error(rondo::ErrorKind::InvalidArgument,
                         "rondo_stats: struct_size: expected at least " + std::to_string(kFirstStats) +
                             ", found " + std::to_string(size) + "; set it to sizeof(rondo_stats)");
    engine->stats = engine->engine.stats();
    engine->buckets.clear();
    for (const rondo::BucketStats& bucket : engine->stats.buckets)
      engine->buckets.push_back({bucket.rows, bucket.capture_ms, bucket.instantiate_ms, bucket.upload_ms,
                                 bucket.nodes, bucket.device_bytes});
    engine->forms.clear();
    for (const rondo::FormStats& form : engine->stats.forms)
      engine->forms.push_back({form.rows, form.verb.c_str(), form.kernels.c_str()});
    const rondo_stats filled = to_stats(engine->stats, engine->buckets, engine->forms);
    std::memset(stats, 0, size);
    std::memcpy(stats, &filled, std::min(size, sizeof(filled)));
    stats->struct_size = size;
  });
}

rondo_status rondo_plan_memory(const char* path, const rondo_options* options,
                               const rondo_memory_plan** plan) {
  return guarded([&] {
    need(path, "rondo_plan_memory: path");
    need(plan, "rondo_plan_memory: plan");
    *plan = std::make_unique<Plan>(rondo::plan_memory(path, to_options(options))).release();
  });
}

void rondo_free_plan(const rondo_memory_plan* plan) { delete static_cast<const Plan*>(plan); }

rondo_status rondo_doctor_report(char** text) {
  return guarded([&] {
    need(text, "rondo_doctor_report: text");
    *text = copy_out(rondo::doctor_report());
  });
}
