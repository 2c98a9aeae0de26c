#include "graphs/replay.h"

#include <algorithm>

namespace rondo {

Replayer::Replayer(ReplayPolicy policy, std::unique_ptr<Recorder> recorder)
    : policy_(recorder ? policy : ReplayPolicy::Off), recorder_(std::move(recorder)) {}

void Replayer::prepare(const std::vector<int>& keys, const std::function<void(int)>& step,
                       const std::function<void()>& settle) {
  if (policy_ != ReplayPolicy::Start) return;
  std::vector<int> largest_first = keys;
  std::sort(largest_first.rbegin(), largest_first.rend());
  for (int key : largest_first) {
    step(key);
    ++stats_.eager_warm_up;
  }
  settle();
  for (int key : largest_first) record(key, step);
}

void Replayer::record(int key, const std::function<void(int)>& step) {
  RecordingCost cost;
  recordings_[key] = recorder_->record([&] { step(key); }, cost);
  stats_.recordings[key] = cost;
}

void Replayer::run(int key, const std::function<void(int)>& step) {
  if (policy_ == ReplayPolicy::Off) {
    step(key);
    ++stats_.eager_off;
    return;
  }
  auto it = recordings_.find(key);
  if (it == recordings_.end()) {
    if (!warm_[key]) {
      step(key);
      warm_[key] = true;
      ++stats_.eager_warm_up;
      return;
    }
    record(key, step);
    it = recordings_.find(key);
  }
  it->second->launch();
  ++stats_.replays;
}

}  // namespace rondo
