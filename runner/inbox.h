// What any thread may ask of an engine while another steps it; the stepping thread takes it up between two
// steps.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runner/scheduler.h"

namespace rondo {

class Inbox {
 public:
  // The request was checked. InvalidArgument, where the scheduler may not be asked, for an id that was never
  // given out or was removed.
  SequenceId add(Scheduler& scheduler, const Request& request);
  void cancel(SequenceId sequence);
  bool wait(double seconds);

  // The device is lost, of this cause; from then on all but wait() throw DeviceLost.
  void lose(const std::string& cause);
  void refuse_lost() const;

  // By the stepping thread.
  bool pending() const;  // something was asked for since take()
  void take(Scheduler& scheduler);
  void know(SequenceId sequence);    // an id that did not come from add()
  void forget(SequenceId sequence);  // it was removed
  void set_busy(bool busy);

 private:
  struct Message {
    SequenceId sequence;
    bool cancel;
    Request request;
  };
  void refuse_lost_locked() const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Message> messages_;
  std::set<SequenceId> known_;
  bool busy_ = false;
  std::string lost_;  // the first cause
};

}  // namespace rondo
