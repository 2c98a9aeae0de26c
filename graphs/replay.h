// Record once, replay for every token. A Recorder turns what a step enqueues into something that one call
// launches; the Replayer keeps one recording per key (the row bucket) under a policy, and counts what it did.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rondo {

// One recorded step. Destroyed only when the stream is idle.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void launch() = 0;
};

struct RecordingCost {
  double capture_ms = 0;
  double instantiate_ms = 0;
  double upload_ms = 0;
  int64_t nodes = 0;
  int64_t device_bytes = 0;
};

class Recorder {
 public:
  virtual ~Recorder() = default;
  // Calls `step` once while the stream is being captured: nothing it enqueues runs. Whatever it throws ends
  // the capture and is thrown on; the stream is usable afterwards.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& step, RecordingCost& cost) = 0;
  // A loop: one launch runs what `body` enqueues again and again, until a kernel of it has cleared the
  // condition that `body` is given.
  virtual std::unique_ptr<Recording> record_loop(const std::function<void(uint64_t condition)>& body,
                                                 RecordingCost& cost) = 0;
  // The same capture, written to a file as text for Graphviz and dropped.
  virtual void draw(const std::function<void()>& step, const std::string& path) = 0;
};

enum class ReplayPolicy {
  Start,  // every key is recorded by prepare()
  Lazy,   // a key's first run is eager, its second records it
  Off,    // always eager: the same launches, one by one
};

struct ReplayStats {
  uint64_t replays = 0;
  uint64_t eager_off = 0;                   // eager by policy, or because the backend has no graphs
  uint64_t eager_warm_up = 0;               // prepare()'s own runs, and lazy first runs
  std::map<int, RecordingCost> recordings;  // by key
};

class Replayer {
 public:
  // `recorder` null: the backend has no graphs, and the policy is Off whatever was asked.
  Replayer(ReplayPolicy policy, std::unique_ptr<Recorder> recorder);

  // Runs `step(key)` eagerly once for every key (modules load, plans are made), then, under Start, records
  // each, largest first. `settle` waits for the stream; it is called between the two passes.
  void prepare(const std::vector<int>& keys, const std::function<void(int)>& step,
               const std::function<void()>& settle);

  // One step: launches the key's recording, or calls `step(key)`, as the policy says.
  void run(int key, const std::function<void(int)>& step);

  bool recorded(int key) const { return recordings_.count(key) > 0; }
  ReplayPolicy policy() const { return policy_; }
  const ReplayStats& stats() const { return stats_; }

 private:
  void record(int key, const std::function<void(int)>& step);

  ReplayPolicy policy_;
  std::unique_ptr<Recorder> recorder_;
  std::map<int, std::unique_ptr<Recording>> recordings_;
  std::map<int, bool> warm_;
  ReplayStats stats_;
};

}  // namespace rondo
