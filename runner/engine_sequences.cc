// What an engine does with single sequences beside stepping them: forks, guesses, saved ones, scores.
#include <algorithm>
#include <cstring>

#include "runner/engine_core.h"
#include "runner/saved_sequence.h"

namespace rondo {

SequenceId EngineCore::fork(SequenceId sequence, const Sampling& sampling) {
  const SequenceId id = scheduler_->fork(sequence, sampling);
  inbox_.know(id);
  return id;
}

void EngineCore::remove(SequenceId sequence) {
  scheduler_->remove(sequence);
  inbox_.forget(sequence);
}

int EngineCore::verify(SequenceId sequence, const std::vector<int32_t>& drafts) {
  const StepPlan plan = scheduler_->plan_verify(sequence, drafts);
  drop_flight();  // its draw behind the last token is made again, with the drafts
  return make_step(plan);
}

uint64_t EngineCore::page_bytes() const {
  const Layer& layer = weights_.model.layers.front();
  return (layer.pages.k.bytes() + layer.pages.v.bytes()) / static_cast<uint64_t>(dims_.pages) *
         static_cast<uint64_t>(dims_.layers);
}

// Calls move(address of a page's K or V in a layer, offset in a page of all layers, bytes).
template <class F>
static void for_each_part(const Model& model, int64_t pages, int32_t page, const F& move) {
  uint64_t offset = 0;
  for (const Layer& layer : model.layers)
    for (const View& view : {layer.pages.k, layer.pages.v}) {
      const uint64_t bytes = view.bytes() / static_cast<uint64_t>(pages);
      move(view.as<std::byte>() + static_cast<uint64_t>(page) * bytes, offset, bytes);
      offset += bytes;
    }
}

// Of the first bytes of the embedding and of the last layer's down projection.
uint64_t EngineCore::fingerprint() {
  if (fingerprint_ != 0) return fingerprint_;
  uint64_t sum = checksum({});
  for (const View& weight : {weights_.model.embedding, weights_.model.layers.back().down_proj.weight}) {
    const uint64_t bytes = std::min({uint64_t{65536}, weight.bytes(), page_->bytes()});
    guarded([&] {
      backend_.device->read(page_->data(), weight.data, bytes);
      backend_.device->synchronize();
    });
    sum = checksum({static_cast<const std::byte*>(page_->data()), bytes}, sum);
  }
  return fingerprint_ = sum | 1;
}

std::vector<std::byte> EngineCore::save(SequenceId id) {
  const Sequence& sequence = scheduler_->sequence(id);
  SavedSequence saved;
  saved.model = saved_model(dims_, fingerprint());
  saved.sequence = sequence;
  if (!sequence.copies.empty())
    saved.sequence.cached = 0;  // a page is still to be copied: a step failed before
  const int64_t page_size = dims_.page_size;
  const auto pages = static_cast<size_t>((saved.sequence.cached + page_size - 1) / page_size);
  for (size_t i = 0; i < pages; ++i) {
    auto* host = static_cast<std::byte*>(page_->data());
    guarded([&] {
      for_each_part(weights_.model, dims_.pages, sequence.pages[i],
                    [&](std::byte* at, uint64_t offset, uint64_t bytes) {
                      backend_.device->read(host + offset, at, bytes);
                    });
      backend_.device->synchronize();
    });
    saved.pages.insert(saved.pages.end(), host, host + page_->bytes());
  }
  return to_bytes(saved);
}

SequenceId EngineCore::restore(std::span<const std::byte> bytes) {
  SavedSequence saved = from_bytes(bytes, saved_model(dims_, fingerprint()), dims_, page_->bytes());
  Sequence& sequence = scheduler_->restore(
      std::move(saved.sequence), std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end()));
  inbox_.know(sequence.id);
  const int64_t page_size = dims_.page_size;
  const auto pages = static_cast<size_t>((sequence.cached + page_size - 1) / page_size);
  try {
    for (size_t i = 0; i < pages; ++i) {
      auto* host = static_cast<std::byte*>(page_->data());
      std::memcpy(host, saved.pages.data() + i * page_->bytes(), page_->bytes());
      guarded([&] {
        for_each_part(weights_.model, dims_.pages, sequence.pages[i],
                      [&](std::byte* at, uint64_t offset, uint64_t n) {
                        backend_.device->write(at, host + offset, n);
                      });
        backend_.device->synchronize();
      });
    }
  } catch (...) {
    remove(sequence.id);
    throw;
  }
  return sequence.id;
}

void EngineCore::score(const std::vector<int32_t>& prompt,
                       const std::function<void(int64_t, std::span<const float>)>& each) {
  if (scheduler_->busy())
    throw Error(ErrorKind::Misuse, "score: sequences wait or run; finish or cancel them first");
  drop_flight();
  Request request;
  request.prompt = prompt;
  scheduler_->check(request);
  const auto length = static_cast<int64_t>(prompt.size());
  struct Lent {
    Scheduler& scheduler;
    Sequence sequence;
    ~Lent() { scheduler.take_back(sequence); }
  } lent{*scheduler_, scheduler_->lend(length)};
  Sequence& sequence = lent.sequence;
  sequence.tokens = prompt;
  sequence.prompt_length = length;
  const int64_t most = std::min(dims_.max_rows(), dims_.max_logit_rows);
  for (int64_t first = 0; first < length; first += most) {
    std::vector<Row> rows;
    std::vector<int32_t> logit_rows;
    for (int64_t p = first; p < std::min(length, first + most); ++p) {
      logit_rows.push_back(static_cast<int32_t>(rows.size()));
      rows.push_back({prompt[static_cast<size_t>(p)], static_cast<int32_t>(p), sequence.slot, 1});
    }
    const Sequence* const sequences[] = {&sequence};
    uint64_t launch = 0;
    guarded([&] { launch = run(rows, logit_rows, sequences); });
    for (size_t i = 0; i < rows.size(); ++i) {
      guarded([&] {
        backend_.device->read(logits_row_->data(),
                              buffers_.logits.as<float>() + i * static_cast<size_t>(dims_.vocab_size),
                              logits_row_->bytes());
        backend_.device->synchronize();
      });
      waited_for(launch);
      each(first + static_cast<int64_t>(i),
           {static_cast<const float*>(logits_row_->data()), static_cast<size_t>(dims_.vocab_size)});
    }
  }
}

}  // namespace rondo
