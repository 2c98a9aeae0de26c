#include "runner/engine_core.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "runner/plan.h"
#include "runner/step.h"
#include "runner/tune.h"

namespace rondo {
namespace {

constexpr size_t kMostLaunches = 4;  // a step, one ahead, and what callbacks that throw leave behind

ReplayPolicy replay_policy(GraphMode mode) {
  switch (mode) {
    case GraphMode::Lazy: return ReplayPolicy::Lazy;
    case GraphMode::Off: return ReplayPolicy::Off;
    default: return ReplayPolicy::Start;
  }
}

}  // namespace

EngineCore::Turn::Turn(EngineCore& core) : core_(core) {
  core.refuse_forked_child();
  if (core.in_use_.test_and_set(std::memory_order_acquire))
    throw Error(
        ErrorKind::Misuse,
        "the engine is in use by another call; one thread at a time may use it, add() and cancel() apart");
  try {
    core.inbox_.refuse_lost();
    core.guarded([&] { use_.emplace(*core.backend_.device); });
    core.inbox_.take(*core.scheduler_);
  } catch (...) {
    use_.reset();
    core.in_use_.clear(std::memory_order_release);
    throw;
  }
}

EngineCore::Turn::~Turn() {
  core_.inbox_.set_busy(core_.scheduler_->busy());
  use_.reset();  // the engine may be gone once another thread may use it
  core_.in_use_.clear(std::memory_order_release);
}

void EngineCore::refuse_forked_child() const {
  if (getpid() != process_)
    throw Error(ErrorKind::Misuse,
                "this engine belongs to the process that made it; a forked child must open its own");
}

SequenceId EngineCore::add(const Request& request) {
  refuse_forked_child();
  scheduler_->check(request);
  return inbox_.add(*scheduler_, request);
}

void EngineCore::cancel(SequenceId sequence) {
  refuse_forked_child();
  inbox_.cancel(sequence);
}

bool EngineCore::wait(double seconds) {
  refuse_forked_child();
  return inbox_.wait(seconds);
}

void EngineCore::guarded(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    const Error named(error.kind(), error.what() + underway());
    if (named.kind() == ErrorKind::DeviceLost) {
      inbox_.lose(named.what());
      throw named;
    }
    try {  // copies already enqueued read pinned memory that the next step rewrites
      backend_.device->synchronize();
      launches_.clear();
    } catch (const Error& second) {
      if (second.kind() == ErrorKind::DeviceLost) inbox_.lose(second.what() + underway());
    }
    throw named;
  }
}

// A launch counts from before its first copy. Returns its number.
uint64_t EngineCore::begin_launch(uint64_t step, size_t rows) {
  if (launches_.size() == kMostLaunches) launches_.erase(launches_.begin());
  const int bucket = bucket_of(dims_, static_cast<int>(rows)).rows;
  launches_.push_back({++launch_count_, step, rows, bucket, Launch::Form::Unfinished});
  return launch_count_;
}

// The stream has come to the end of this launch, and so of those in front of it.
void EngineCore::waited_for(uint64_t launch) {
  std::erase_if(launches_, [&](const Launch& l) { return l.number <= launch; });
}

std::string EngineCore::underway() const {
  std::string text;
  for (const Launch& launch : launches_) {
    const char* form = "";
    switch (launch.form) {
      case Launch::Form::Unfinished: form = "being enqueued"; break;
      case Launch::Form::Eager: form = "eager"; break;
      case Launch::Form::Replayed: form = "replayed"; break;
      case Launch::Form::Loop: form = "and those behind it, a loop"; break;
    }
    text += fmt::format("{}step {} ({} {} in the bucket of {}, {})", text.empty() ? "; under way: " : ", ",
                        launch.step, launch.rows, launch.rows == 1 ? "row" : "rows", launch.bucket, form);
  }
  return text;
}

EngineCore::EngineCore(const std::string& path, const EngineOptions& options) : process_(getpid()) {
  const bool directory = std::filesystem::is_directory(path);
  if (options.random_weights == directory)
    throw Error(ErrorKind::InvalidArgument,
                directory ? path + ": random weights are made from a config.json, and this is a directory"
                          : path + ": expected a checkpoint directory (config.json, model.safetensors)");
  config_ = directory ? load_model_config(path) : load_model_config_file(path);
  std::unique_ptr<Checkpoint> checkpoint;
  if (directory) checkpoint = std::make_unique<Checkpoint>(Checkpoint::open(path, config_));
  const DType dtype = checkpoint ? checkpoint->dtype() : config_.dtype;
  // All that can be wrong with the numbers is found before a device is touched.
  make_dims(config_, dtype, options, options.device == DeviceKind::Cuda);
  backend_ = make_backend(options);
  use_.emplace(*backend_.device);
  if (options.graph == GraphMode::Require && !backend_.make_recorder)
    throw Error(ErrorKind::InvalidArgument, "graph require: the cpu backend has no graphs; use auto or off");
  dims_ = make_dims(config_, dtype, options, backend_.name == "cuda");

  const EngineOptions plan_options = [&] {
    EngineOptions o = options;
    o.device = backend_.name == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu;
    return o;
  }();
  const uint64_t needed = plan_memory(path, plan_options).total_bytes, free = backend_.device->free_bytes();
  if (needed > free) {
    const uint64_t per_position =
        2 * static_cast<uint64_t>(dims_.layers * dims_.kv_size()) * dtype_bytes(dtype);
    const uint64_t pages =
        static_cast<uint64_t>(dims_.pages) * static_cast<uint64_t>(dims_.page_size) * per_position;
    const uint64_t rest = needed - pages;
    const uint64_t largest = free > rest ? (free - rest) / per_position : 0;
    throw Error(ErrorKind::OutOfMemory,
                fmt::format("{}: the plan needs {} bytes, {} of them for K/V, and {} are free; {}",
                            backend_.device->description(), needed, pages, free,
                            largest > static_cast<uint64_t>(dims_.page_size)
                                ? fmt::format("K/V for {} positions in all would fit: set kv_positions "
                                              "(--kv-positions), or lower max_context or max_sequences",
                                              largest / static_cast<uint64_t>(dims_.page_size) *
                                                  static_cast<uint64_t>(dims_.page_size))
                                : std::string("the weights alone do not fit")));
  }

  const ReadWeight read = checkpoint
                              ? ReadWeight([&](const std::string& name, uint64_t offset, void* to,
                                               uint64_t bytes) { checkpoint->read(name, offset, to, bytes); })
                              : random_weights(options.weights_seed, dtype);
  weights_ = load_weights(*backend_.device, config_, dtype, read, options.progress);
  std::vector<KvPages> layers;
  pages_ = std::make_unique<Arena>(*backend_.device, "pages",
                                   [&](Layout& layout) { layers = lay_out_pages(layout, dims_); });
  for (size_t i = 0; i < layers.size(); ++i) weights_.model.layers[i].pages = layers[i];
  step_ = std::make_unique<Arena>(*backend_.device, "step",
                                  [&](Layout& layout) { buffers_ = lay_out_step(layout, dims_); });
  inputs_ = std::make_unique<StepInputs>(*backend_.device, dims_, buffers_);
  page_ = backend_.device->allocate_pinned(page_bytes(), "one page (pinned)");
  logits_row_ = backend_.device->allocate_pinned(static_cast<uint64_t>(dims_.vocab_size) * sizeof(float),
                                                 "logits (pinned)");
  told_ =
      backend_.device->allocate_pinned(results_.size() * buffers_.sampled.bytes(), "sampled tokens (pinned)");
  buffers_.told = static_cast<Sampled*>(told_->data());
  for (Results& results : results_) {
    results.top = backend_.device->allocate_pinned(buffers_.top.bytes(), "top tokens (pinned)");
    results.done = backend_.device->make_event();
  }
  ops_ = backend_.make_ops(dims_, buffers_, weights_.model);
  if (options.prompt_chunk < 0 || options.prompt_chunk > dims_.max_rows())
    throw Error(ErrorKind::InvalidArgument, fmt::format("prompt_chunk: expected 0 to max_rows = {}, found {}",
                                                        dims_.max_rows(), options.prompt_chunk));
  scheduler_ = std::make_unique<Scheduler>(
      SchedulerOptions{dims_, config_.eos_token_ids, options.prompt_chunk, options.share_prefixes,
                       weights_.model.rope.original_length, options.on_event});
  replayer_ = std::make_unique<Replayer>(replay_policy(options.graph),
                                         backend_.make_recorder ? backend_.make_recorder() : nullptr);
  launches_.reserve(kMostLaunches);
  launch_ahead_ = options.launch_ahead && replayer_->policy() != ReplayPolicy::Off;
  prepare(options.tune);
  prepare_loops(options.one_launch);
  use_.reset();
}

void EngineCore::prepare(bool tuned) {
  // Every slot gets a valid state, the scrap slot for good: warm-up and padding rows run in it.
  backend_.device->fill(buffers_.history.data, 0, buffers_.history.bytes());
  backend_.device->fill(buffers_.biases.data, 0, buffers_.biases.bytes());
  clear_partial_results(*backend_.device, buffers_);
  inputs_->begin();
  for (int slot = 0; slot < dims_.slots(); ++slot) {
    inputs_->write_slot(slot, SlotParams{}, {});
    inputs_->write_pages(slot, 0, {}, true);
  }
  inputs_->upload();
  std::vector<Bucket> buckets;
  for (const int rows : dims_.buckets) buckets.push_back(bucket_of(dims_, rows));
  if (tuned) tune(*ops_, *backend_.device, weights_.model, buffers_, buckets);
  counters_.forms = list_forms(*ops_, buckets);
  replayer_->prepare(
      dims_.buckets, [this](int rows) { run_step(*ops_, weights_.model, buffers_, bucket_of(dims_, rows)); },
      [this] { backend_.device->synchronize(); });
  backend_.device->synchronize();
}

EngineCore::~EngineCore() {
  if (getpid() != process_) return;  // a forked child has no threads and no device to wait for
  try {
    use_.emplace(*backend_.device);
    backend_.device->synchronize();  // graphs and memory must not go while the stream uses them
  } catch (const Error&) {           // the device is lost: nothing runs any more
  }
}

uint64_t EngineCore::run(std::span<const Row> rows, std::span<const int32_t> logit_rows,
                         std::span<const Sequence* const> sequences) {
  const Range range(*backend_.device, "step");
  const uint64_t launch = begin_launch(scheduler_->steps(), rows.size());
  write_step(rows, logit_rows, sequences);
  replay(rows.size());
  return launch;
}

void EngineCore::write_step(std::span<const Row> rows, std::span<const int32_t> logit_rows,
                            std::span<const Sequence* const> sequences) {
  inputs_->begin();
  std::copy(rows.begin(), rows.end(), inputs_->rows().begin());
  std::copy(logit_rows.begin(), logit_rows.end(), inputs_->logit_rows().begin());
  for (const Sequence* sequence : sequences) write_inputs(*sequence);
  const int turn = static_cast<int>(next_results_);
  inputs_->set_turns(turn, turn);
  inputs_->upload();
}

void EngineCore::replay(size_t rows) {
  const Bucket bucket = bucket_of(dims_, static_cast<int>(rows));
  const uint64_t replays = replayer_->stats().replays;
  replayer_->run(bucket.rows,
                 [this](int key) { run_step(*ops_, weights_.model, buffers_, bucket_of(dims_, key)); });
  launches_.back().form = replayer_->stats().replays > replays ? Launch::Form::Replayed : Launch::Form::Eager;
  ++counters_.steps;
  counters_.rows += rows;
  counters_.padded_rows += static_cast<uint64_t>(bucket.rows) - rows;
}

// What the device does not know yet of a sequence's slot, and the page copies that must come before its rows.
void EngineCore::write_inputs(const Sequence& sequence) {
  if (!sequence.slot_written) {
    inputs_->write_slot(sequence.slot, slot_params(sequence, dims_.max_context - 1), slot_biases(sequence));
    inputs_->write_pages(sequence.slot, 0, sequence.pages, true);
    if (sequence.cached > 0)
      inputs_->write_history(sequence.slot,
                             std::span(sequence.tokens).first(static_cast<size_t>(sequence.cached)));
  } else if (sequence.tabled < static_cast<int64_t>(sequence.pages.size())) {
    inputs_->write_pages(sequence.slot, sequence.tabled,
                         std::span(sequence.pages).subspan(static_cast<size_t>(sequence.tabled)), false);
  }
  for (const PageCopy& copy : sequence.copies) {
    for (const Layer& layer : weights_.model.layers)
      for (const View& pages : {layer.pages.k, layer.pages.v}) {
        const uint64_t bytes = pages.bytes() / static_cast<uint64_t>(dims_.pages);
        auto* data = pages.as<std::byte>();
        backend_.device->copy(data + static_cast<uint64_t>(copy.to) * bytes,
                              data + static_cast<uint64_t>(copy.from) * bytes, bytes);
      }
    ++counters_.page_copies;
  }
}

// The step's logits as the callbacks want them, and then its draw again.
void EngineCore::call_back(const StepPlan& plan) {
  bool changed = false;
  for (const StepPlan::Share& share : plan.shares) {
    if (!share.sequence->on_logits || share.logit_row < 0) continue;
    float* row = buffers_.logits.as<float>() + share.logit_row * dims_.vocab_size;
    auto* host = static_cast<float*>(logits_row_->data());
    guarded([&] {
      backend_.device->read(host, row, logits_row_->bytes());
      backend_.device->synchronize();
    });
    share.sequence->on_logits(share.sequence->tokens, {host, static_cast<size_t>(dims_.vocab_size)});
    guarded([&] {
      backend_.device->write(row, host, logits_row_->bytes());
      backend_.device->synchronize();  // the next row's logits come to the same place
    });
    ++counters_.host_logit_rows;
    changed = true;
  }
  if (!changed) return;
  guarded([&] {
    const int turn = static_cast<int>(next_results_);
    inputs_->set_turns(turn ^ 1, turn);  // the step has taken its own
    inputs_->upload();                   // and its draw has moved the rows on
    ops_->sample(bucket_of(dims_, static_cast<int>(plan.rows.size())));
  });
  ++counters_.eager_samples;
}

Stats EngineCore::stats() const {
  Stats stats = counters_;
  const ReplayStats& replay = replayer_->stats();
  stats.replays = replay.replays;
  stats.eager_off = replay.eager_off;
  stats.eager_warm_up = replay.eager_warm_up;
  stats.waiting = scheduler_->waiting();
  stats.running = scheduler_->running();
  const SchedulerCounts& counts = scheduler_->counts();
  stats.preemptions = counts.preemptions;
  stats.prefix_lookups = counts.prefix_lookups;
  stats.prefix_hits = counts.prefix_hits;
  stats.prefix_tokens = counts.prefix_tokens;
  stats.forks = counts.forks;
  stats.wasted_rows += counts.wasted_rows;
  stats.tokens = counts.tokens;
  stats.drafted_tokens = counts.drafted_tokens;
  stats.accepted_drafts = counts.accepted_drafts;
  stats.finished = counts.finished;
  stats.pages_used = static_cast<uint64_t>(scheduler_->pages().used());
  stats.pages_shared = static_cast<uint64_t>(scheduler_->pages().shared());
  stats.pages_cached = static_cast<uint64_t>(scheduler_->pages().cached());
  stats.pages = static_cast<uint64_t>(scheduler_->pages().total());
  stats.weight_bytes = weights_.arena->bytes();
  for (const Arena* arena : arenas()) stats.device_bytes += arena->bytes();
  stats.device = backend_.device->description();
  stats.backend = backend_.name;
  stats.one_launch = one_launch_;
  const char* policies[] = {"start", "lazy", "off"};
  stats.graph = policies[static_cast<int>(replayer_->policy())];
  for (const auto& [rows, cost] : replay.recordings)
    stats.buckets.push_back(
        {rows, cost.capture_ms, cost.instantiate_ms, cost.upload_ms, cost.nodes, cost.device_bytes});
  return stats;
}

}  // namespace rondo
