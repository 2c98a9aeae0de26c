#include "runner/bench/rig.h"

#include <algorithm>
#include <cstring>

#include "runner/step.h"

namespace rondo::bench {
namespace {

constexpr uint64_t kStagingBytes = 16 << 20;
constexpr uint64_t kLeastOfWeights = 256 << 20;  // of the CPU's ceiling: less may lie in a cache
constexpr uint64_t kGpuCeilingBytes = uint64_t{4}
                                      << 30;  // many times the L2, and long enough to hide its launch
constexpr int kPasses = 8;

// Any tokens will do, as long as neighbouring rows embed different ones.
int32_t some_token(int64_t i, int64_t vocab_size) {
  return static_cast<int32_t>((i * 7919 + 17) % vocab_size);
}

}  // namespace

StepRows decode_rows(int64_t sequences, int64_t context, int64_t vocab_size) {
  StepRows step;
  for (int64_t i = 0; i < sequences; ++i) {
    step.logit_rows.push_back(static_cast<int32_t>(i));
    step.rows.push_back(
        {some_token(i, vocab_size), static_cast<int32_t>(context - 1), static_cast<int32_t>(i + 1), 1});
  }
  return step;
}

std::vector<StepRows> prompt_rows(int64_t tokens, int64_t max_rows, int64_t vocab_size) {
  std::vector<StepRows> steps;
  for (int64_t first = 0; first < tokens; first += max_rows) {
    StepRows step;
    for (int64_t p = first; p < std::min(tokens, first + max_rows); ++p)
      step.rows.push_back({some_token(p, vocab_size), static_cast<int32_t>(p), 1, 1});
    steps.push_back(std::move(step));
  }
  steps.back().logit_rows.push_back(static_cast<int32_t>(steps.back().rows.size()) - 1);
  return steps;
}

Rig::Rig(const std::string& path, const EngineOptions& options)
    : core_(path, options),
      reader_(core_.backend().make_reader()),
      sink_(device().allocate(256, "a word for the read ceiling")) {
  const Arena* pages = core_.arenas()[1];
  fill_with_numbers(pages->data(), pages->bytes());
}

void Rig::fill_with_numbers(void* to, uint64_t bytes) {
  const uint64_t most = std::min(bytes, kStagingBytes);
  const auto staging = device().allocate_pinned(most, "random numbers (staging)");
  random_weights(1, dims().weight_dtype)("numbers", 0, staging->data(), most);
  for (uint64_t at = 0; at < bytes; at += most)
    device().write(static_cast<std::byte*>(to) + at, staging->data(), std::min(most, bytes - at));
  device().synchronize();
}

void Rig::use_threads(int threads) {
  threaded_ops_ = make_cpu_ops(dims(), buffers(), model(), threads);
  reader_ = make_cpu_reader(threads);
}

void Rig::seat(std::span<const int64_t> lengths) {
  std::vector<std::vector<int32_t>> tables(lengths.size());
  int32_t page = 1;  // behind the scrap page
  for (bool grew = true; grew;) {
    grew = false;
    for (size_t i = 0; i < tables.size(); ++i) {
      if (static_cast<int64_t>(tables[i].size()) * dims().page_size >= lengths[i]) continue;
      tables[i].push_back(page++);
      grew = true;
    }
  }
  core_.inputs().begin();
  for (size_t i = 0; i < tables.size(); ++i) {
    SlotParams params;
    params.prompt_length = static_cast<int32_t>(lengths[i]);
    params.last_position =
        params.prompt_length - 1;  // steps that are run again and again stay where they are
    const int slot = static_cast<int>(i) + 1;
    core_.inputs().write_slot(slot, params, {});
    core_.inputs().write_pages(slot, 0, tables[i], true);
  }
  core_.inputs().upload();
  device().synchronize();
}

void Rig::upload(const StepRows& step) {
  StepInputs& inputs = core_.inputs();
  inputs.begin();
  std::copy(step.rows.begin(), step.rows.end(), inputs.rows().begin());
  std::copy(step.logit_rows.begin(), step.logit_rows.end(), inputs.logit_rows().begin());
  inputs.upload();
}

void Rig::enqueue(Mode mode, int rows) {
  const auto step = [this](int key) { run_step(ops(), model(), buffers(), bucket_of(dims(), key)); };
  const int bucket = bucket_of(dims(), rows).rows;
  if (mode == Mode::Eager)
    step(bucket);
  else
    core_.replayer().run(bucket, step);
}

std::vector<std::byte> Rig::outcome(Mode mode, const StepRows& step) {
  const uint64_t rows = step.logit_rows.size();
  const uint64_t logits = rows * static_cast<uint64_t>(dims().vocab_size) * sizeof(float);
  const uint64_t drawn = rows * sizeof(Sampled);
  const auto host = device().allocate_pinned(logits + drawn, "logits (pinned)");
  device().fill(buffers().logits.data, 0xff,
                buffers().logits.bytes());  // what is left over from before must not agree
  device().fill(buffers().sampled.data, 0xff, buffers().sampled.bytes());
  upload(step);
  enqueue(mode, static_cast<int>(step.rows.size()));
  device().read(host->data(), buffers().logits.data, logits);
  device().read(static_cast<std::byte*>(host->data()) + logits, buffers().sampled.data, drawn);
  device().synchronize();
  const auto* bytes = static_cast<const std::byte*>(host->data());
  return {bytes, bytes + logits + drawn};
}

bool Rig::replay_is_eager(const StepRows& step) {
  return outcome(Mode::Eager, step) == outcome(Mode::Replay, step);
}

double Rig::read_ceiling(uint64_t bytes) {
  const Arena& weights = *core_.arenas()[0];
  if (bytes == 0 && has_graphs() && device().free_bytes() > 2 * kGpuCeilingBytes) bytes = kGpuCeilingBytes;
  if (bytes == 0 && weights.bytes() < kLeastOfWeights) bytes = kLeastOfWeights;
  if (bytes && !ceiling_memory_) {
    ceiling_memory_ = device().allocate(bytes, "memory for the read ceiling");
    fill_with_numbers(ceiling_memory_->data(), bytes);
  }
  const void* data = ceiling_memory_ ? ceiling_memory_->data() : weights.data();
  const uint64_t size = (ceiling_memory_ ? ceiling_memory_->bytes() : weights.bytes()) / 256 * 256;
  const auto start = device().make_timed_event(), end = device().make_timed_event();
  double best = 0;
  for (int pass = 0; pass <= kPasses; ++pass) {  // the first warms up
    start->record();
    reader_->read(data, size, sink());
    end->record();
    end->wait();
    if (pass) best = std::max(best, static_cast<double>(size) / (end->elapsed_ms(*start) * 1e6));
  }
  return best;
}

}  // namespace rondo::bench
