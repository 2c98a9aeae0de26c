// The engine behind runner/engine.h, open to tests: memory, backend, replayer and scheduler put together.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "buffers/arena.h"
#include "buffers/step_inputs.h"
#include "graphs/replay.h"
#include "kernels/ops.h"
#include "runner/backend.h"
#include "runner/model_config.h"
#include "runner/scheduler.h"
#include "runner/weights.h"

namespace rondo {

class EngineCore {
 public:
  EngineCore(const std::string& path, const EngineOptions& options);
  ~EngineCore();

  std::vector<Output> step();
  void score(const std::vector<int32_t>& prompt,
             const std::function<void(int64_t position, std::span<const float> logits)>& each);
  Stats stats() const;

  Scheduler& scheduler() { return *scheduler_; }
  const ModelConfig& config() const { return config_; }
  const StepDims& dims() const { return dims_; }
  const StepBuffers& buffers() const { return buffers_; }
  const Model& model() const { return weights_.model; }
  Device& device() { return *backend_.device; }
  std::vector<const Arena*> arenas() const { return {weights_.arena.get(), pages_.get(), step_.get()}; }

  // Held by every public call for as long as it takes: one thread at a time, not in a forked child, not on a
  // lost device.
  class Turn {
   public:
    explicit Turn(EngineCore& core);
    ~Turn();
    Turn(const Turn&) = delete;  // ends once

   private:
    EngineCore& core_;
  };

 private:
  void prepare();
  struct SlotWrite {
    int slot;
    std::span<const int32_t> pages;
    SlotParams params;
  };
  void run(std::span<const Row> rows, std::span<const int32_t> logit_rows,
           const std::vector<SlotWrite>& slots);
  std::span<const Sampled> read_sampled(size_t count);
  template <class F>
  auto guarded(F&& work);  // runs device work; remembers a lost device; after any failure the stream is idle

  ModelConfig config_;
  StepDims dims_;
  Backend backend_;  // before all that lives on its device
  Weights weights_;
  std::unique_ptr<Arena> pages_;
  std::unique_ptr<Arena> step_;
  StepBuffers buffers_;
  std::unique_ptr<StepInputs> inputs_;
  std::unique_ptr<Block> sampled_;     // pinned, [max_logit_rows] Sampled
  std::unique_ptr<Block> logits_row_;  // pinned, [V] f32, for score()
  std::unique_ptr<Event> step_done_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Replayer> replayer_;
  std::unique_ptr<Scheduler> scheduler_;
  Stats counters_;
  std::string lost_;  // the first cause, once the device is
  std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
  pid_t process_;
};

}  // namespace rondo
