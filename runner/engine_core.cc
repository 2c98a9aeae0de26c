#include "runner/engine_core.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "runner/plan.h"
#include "runner/step.h"

namespace rondo {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ReplayPolicy replay_policy(GraphMode mode) {
  switch (mode) {
    case GraphMode::Lazy: return ReplayPolicy::Lazy;
    case GraphMode::Off: return ReplayPolicy::Off;
    default: return ReplayPolicy::Start;
  }
}

}  // namespace

EngineCore::Turn::Turn(EngineCore& core) : core_(core) {
  if (getpid() != core.process_)
    throw Error(ErrorKind::Misuse,
                "this engine belongs to the process that made it; a forked child must open its own");
  if (core.in_use_.test_and_set(std::memory_order_acquire))
    throw Error(ErrorKind::Misuse, "the engine is in use by another call; one thread at a time may use it");
  try {
    if (!core.lost_.empty())
      throw Error(ErrorKind::DeviceLost,
                  "the device was lost earlier: " + core.lost_ + "; make a new process");
    core.backend_.device->activate();
  } catch (...) {
    core.in_use_.clear(std::memory_order_release);
    throw;
  }
}

EngineCore::Turn::~Turn() { core_.in_use_.clear(std::memory_order_release); }

template <class F>
auto EngineCore::guarded(F&& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::DeviceLost) {
      lost_ = error.what();
      throw;
    }
    try {  // copies already enqueued read pinned memory that the next step rewrites
      backend_.device->synchronize();
    } catch (const Error& second) {
      if (second.kind() == ErrorKind::DeviceLost) lost_ = second.what();
    }
    throw;
  }
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
                                ? fmt::format("K/V for {} positions in all (kv_positions) would fit",
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
  sampled_ = backend_.device->allocate_pinned(buffers_.sampled.bytes(), "sampled tokens (pinned)");
  logits_row_ = backend_.device->allocate_pinned(static_cast<uint64_t>(dims_.vocab_size) * sizeof(float),
                                                 "logits (pinned)");
  step_done_ = backend_.device->make_event();
  ops_ = backend_.make_ops(dims_, buffers_, weights_.model);
  scheduler_ = std::make_unique<Scheduler>(dims_, config_.eos_token_ids);
  replayer_ = std::make_unique<Replayer>(replay_policy(options.graph),
                                         backend_.make_recorder ? backend_.make_recorder() : nullptr);
  prepare();
}

void EngineCore::prepare() {
  // Every slot gets a valid state, the scrap slot for good: warm-up and padding rows run in it.
  backend_.device->fill(buffers_.seen.data, 0, buffers_.seen.bytes());
  inputs_->begin();
  for (int slot = 0; slot < dims_.slots(); ++slot) inputs_->write_slot(slot, {}, SlotParams{}, false);
  inputs_->upload();
  replayer_->prepare(
      dims_.buckets, [this](int rows) { run_step(*ops_, weights_.model, buffers_, bucket_of(dims_, rows)); },
      [this] { backend_.device->synchronize(); });
  backend_.device->synchronize();
}

EngineCore::~EngineCore() {
  if (getpid() != process_) return;  // a forked child has no threads and no device to wait for
  try {
    backend_.device->activate();
    backend_.device->synchronize();  // graphs and memory must not go while the stream uses them
  } catch (const Error&) {           // the device is lost: nothing runs any more
  }
}

void EngineCore::run(std::span<const Row> rows, std::span<const int32_t> logit_rows,
                     const std::vector<SlotWrite>& slots) {
  const Bucket bucket = bucket_of(dims_, static_cast<int>(rows.size()));
  inputs_->begin();
  std::copy(rows.begin(), rows.end(), inputs_->rows().begin());
  std::copy(logit_rows.begin(), logit_rows.end(), inputs_->logit_rows().begin());
  for (const SlotWrite& s : slots) inputs_->write_slot(s.slot, s.pages, s.params, true);
  inputs_->upload();
  replayer_->run(bucket.rows,
                 [this](int key) { run_step(*ops_, weights_.model, buffers_, bucket_of(dims_, key)); });
  ++counters_.steps;
  counters_.rows += rows.size();
  counters_.padded_rows += static_cast<uint64_t>(bucket.rows) - rows.size();
}

std::span<const Sampled> EngineCore::read_sampled(size_t count) {
  if (count) backend_.device->read(sampled_->data(), buffers_.sampled.data, count * sizeof(Sampled));
  step_done_->record();
  const auto start = Clock::now();
  step_done_->wait();
  counters_.wait_seconds += seconds_since(start);
  return {static_cast<const Sampled*>(sampled_->data()), count};
}

std::vector<Output> EngineCore::step() {
  const auto start = Clock::now();
  const double waited = counters_.wait_seconds;
  const StepPlan plan = scheduler_->plan();
  if (plan.rows.empty()) return scheduler_->take_outputs();
  std::vector<SlotWrite> slots;
  for (const StepPlan::Share& share : plan.shares)
    if (!share.sequence->slot_written)
      slots.push_back({share.sequence->slot, share.sequence->pages, slot_params(*share.sequence)});
  const auto sampled = guarded([&] {
    run(plan.rows, plan.logit_rows, slots);
    return read_sampled(plan.logit_rows.size());
  });
  auto outputs = scheduler_->commit(plan, sampled);
  for (const Output& output : outputs) counters_.tokens += output.token >= 0;
  counters_.host_seconds += seconds_since(start) - (counters_.wait_seconds - waited);
  return outputs;
}

void EngineCore::score(const std::vector<int32_t>& prompt,
                       const std::function<void(int64_t, std::span<const float>)>& each) {
  if (scheduler_->busy())
    throw Error(ErrorKind::Misuse, "score: sequences wait or run; finish or cancel them first");
  // A sequence of its own, checked and admitted as any other, whose rows all draw.
  Request request;
  request.prompt = prompt;
  request.max_new_tokens = 1;
  const SequenceId id = scheduler_->add(request);
  struct Remove {
    Scheduler& scheduler;
    SequenceId id;
    ~Remove() { scheduler.remove(id); }
  } remove{*scheduler_, id};
  scheduler_->plan();
  const Sequence& sequence = scheduler_->sequence(id);
  const auto length = static_cast<int64_t>(prompt.size());
  const int64_t most = std::min(dims_.max_rows(), dims_.max_logit_rows);
  for (int64_t first = 0; first < length; first += most) {
    std::vector<Row> rows;
    std::vector<int32_t> logit_rows;
    for (int64_t p = first; p < std::min(length, first + most); ++p) {
      logit_rows.push_back(static_cast<int32_t>(rows.size()));
      rows.push_back({prompt[static_cast<size_t>(p)], static_cast<int32_t>(p), sequence.slot, 1});
    }
    guarded([&] { run(rows, logit_rows, {{sequence.slot, sequence.pages, slot_params(sequence)}}); });
    for (size_t i = 0; i < rows.size(); ++i) {
      guarded([&] {
        backend_.device->read(logits_row_->data(),
                              buffers_.logits.as<float>() + i * static_cast<size_t>(dims_.vocab_size),
                              logits_row_->bytes());
        backend_.device->synchronize();
      });
      each(first + static_cast<int64_t>(i),
           {static_cast<const float*>(logits_row_->data()), static_cast<size_t>(dims_.vocab_size)});
    }
  }
}

Stats EngineCore::stats() const {
  Stats stats = counters_;
  const ReplayStats& replay = replayer_->stats();
  stats.replays = replay.replays;
  stats.eager_off = replay.eager_off;
  stats.eager_warm_up = replay.eager_warm_up;
  stats.waiting = scheduler_->waiting();
  stats.running = scheduler_->running();
  stats.pages_used = static_cast<uint64_t>(scheduler_->pages().used());
  stats.pages = static_cast<uint64_t>(scheduler_->pages().total());
  stats.weight_bytes = weights_.arena->bytes();
  for (const Arena* arena : arenas()) stats.device_bytes += arena->bytes();
  stats.device = backend_.device->description();
  stats.backend = backend_.name;
  const char* policies[] = {"start", "lazy", "off"};
  stats.graph = policies[static_cast<int>(replayer_->policy())];
  for (const auto& [rows, cost] : replay.recordings)
    stats.buckets.push_back(
        {rows, cost.capture_ms, cost.instantiate_ms, cost.upload_ms, cost.nodes, cost.device_bytes});
  return stats;
}

}  // namespace rondo
