// The engine behind runner/engine.h, open to tests: memory, backend, replayer and scheduler put together.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "buffers/arena.h"
#include "buffers/loop_buffers.h"
#include "buffers/step_inputs.h"
#include "graphs/replay.h"
#include "kernels/loop_end.h"
#include "kernels/ops.h"
#include "runner/backend.h"
#include "runner/inbox.h"
#include "runner/model_config.h"
#include "runner/scheduler.h"
#include "runner/weights.h"

namespace rondo {

class EngineCore {
 public:
  using Each = std::function<void(const Output&)>;

  EngineCore(const std::string& path, const EngineOptions& options);
  ~EngineCore();

  // From any thread.
  SequenceId add(const Request& request);
  void cancel(SequenceId sequence);
  bool wait(double seconds);

  // Within a Turn.
  std::vector<Output> step();
  // `ahead`: leaves the step's successor in flight where that can be, whatever the options say.
  // `again`: plans it as a step of a run, where none is in flight.
  std::vector<Output> step(bool ahead, bool again = false);
  // What a step that fails leaves: it is planned, with its successor if it `led` to one, and no more.
  void fail(bool led);
  void generate(const Each& each);
  int verify(SequenceId sequence, const std::vector<int32_t>& drafts);
  SequenceId fork(SequenceId sequence, const Sampling& sampling);
  std::vector<std::byte> save(SequenceId sequence);
  SequenceId restore(std::span<const std::byte> bytes);
  void remove(SequenceId sequence);
  void score(const std::vector<int32_t>& prompt,
             const std::function<void(int64_t position, std::span<const float> logits)>& each);
  Stats stats() const;

  Scheduler& scheduler() { return *scheduler_; }
  const ModelConfig& config() const { return config_; }
  const StepDims& dims() const { return dims_; }
  const StepBuffers& buffers() const { return buffers_; }
  const Model& model() const { return weights_.model; }
  Device& device() { return *backend_.device; }
  const Backend& backend() const { return backend_; }
  Ops& ops() { return *ops_; }
  StepInputs& inputs() { return *inputs_; }
  Replayer& replayer() { return *replayer_; }
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
    std::optional<DeviceUse> use_;
  };

 private:
  // Where a step's draw comes back to. Two: one that is looked at, one for the step in flight; steps tell
  // what they draw to their `told` in turn.
  struct Results {
    std::unique_ptr<Block> top;  // pinned, [max_logit_rows, kMaxTopTokens] TopToken
    std::unique_ptr<Event> done;
  };
  // A step that was enqueued and is not committed.
  struct Flight {
    size_t results;
    size_t rows;  // logit rows that it draws for
    bool listed;  // with the likeliest tokens
    uint64_t launch;
  };
  // What the device was given and has not been waited for: an error that shows up meanwhile may be of it,
  // whichever call meets it.
  struct Launch {
    enum class Form { Unfinished, Eager, Replayed, Loop };
    uint64_t number;  // of the launches, counted up
    uint64_t step;    // as the log counts them (LogEvent::step); of a loop, its first
    size_t rows;
    int bucket;
    Form form;  // Unfinished: it is being enqueued
  };

  void prepare(bool tuned);
  void refuse_forked_child() const;
  uint64_t fingerprint();
  uint64_t page_bytes() const;  // K and V of one page in all layers
  uint64_t run(std::span<const Row> rows, std::span<const int32_t> logit_rows,
               std::span<const Sequence* const> sequences);
  uint64_t begin_launch(uint64_t step, size_t rows);
  void waited_for(uint64_t launch);
  std::string underway() const;
  void write_step(std::span<const Row> rows, std::span<const int32_t> logit_rows,
                  std::span<const Sequence* const> sequences);
  void replay(size_t rows);
  void write_inputs(const Sequence& sequence);
  void call_back(const StepPlan& plan);
  Flight read_results(const StepPlan& plan, uint64_t launch);
  Flight enqueue(const StepPlan& plan);
  Flight enqueue_ahead(const StepPlan& current, const StepPlan& next);
  int commit(const StepPlan& plan, const Flight& flight);
  void drop_flight();
  void note_time(double took, double waited);
  int make_step(const StepPlan& plan);
  std::vector<Output> step(bool ahead, bool again, std::optional<StepPlan> planned);
  StepPlan take_flight(std::optional<Flight>& flight);
  void advance(bool ahead, bool again, std::optional<StepPlan> planned);
  void hand_out(std::vector<Output> outputs, const Each& each);
  void prepare_loops(bool wanted);
  Recording* loop_of(int bucket);
  bool run_loop(const Each& each, std::optional<StepPlan>& planned);
  void launch_loop(const StepPlan& plan, int steps, Recording& recording);
  void follow_loop(StepPlan plan, const Each& each);
  // Runs device work; remembers a lost device, names the steps under way in what it throws, and leaves the
  // stream idle after any failure.
  void guarded(const std::function<void()>& work);

  ModelConfig config_;
  StepDims dims_;
  Backend backend_;  // before all that lives on its device
  // While the engine is made, and while it goes: until all below is gone.
  std::optional<DeviceUse> use_;
  Weights weights_;
  std::unique_ptr<Arena> pages_;
  std::unique_ptr<Arena> step_;
  StepBuffers buffers_;
  std::unique_ptr<StepInputs> inputs_;
  std::unique_ptr<Block> told_;  // pinned, [2, max_logit_rows] Sampled
  std::array<Results, 2> results_;
  size_t next_results_ = 0;
  std::unique_ptr<Block> page_;        // pinned, one page of all layers, for save() and restore()
  std::unique_ptr<Block> logits_row_;  // pinned, [V] f32, for score() and on_logits
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Replayer> replayer_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<LoopBuffers> loop_;  // null: one_launch is not asked for, or cannot be
  std::unique_ptr<LoopEnd> loop_end_;
  std::unique_ptr<Recorder> loop_recorder_;
  std::map<int, std::unique_ptr<Recording>> loops_;  // by bucket
  std::unique_ptr<Event> loop_done_;
  std::string one_launch_ = "off";  // Stats::one_launch
  bool launch_ahead_ = false;
  std::optional<Flight> flight_;  // of the scheduler's ahead()
  std::vector<Launch> launches_;  // not waited for, in the stream's order
  uint64_t launch_count_ = 0;
  Stats counters_;
  Inbox inbox_;
  uint64_t fingerprint_ = 0;  // of the weights; 0: not computed yet
  std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
  pid_t process_;
};

}  // namespace rondo
