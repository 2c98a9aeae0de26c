#include "runner/inbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace rondo {

void Inbox::refuse_lost_locked() const {
  if (!lost_.empty())
    throw Error(ErrorKind::DeviceLost, "the device was lost earlier: " + lost_ + "; make a new process");
}

void Inbox::refuse_lost() const {
  const std::lock_guard lock(mutex_);
  refuse_lost_locked();
}

void Inbox::lose(const std::string& cause) {
  const std::lock_guard lock(mutex_);
  if (lost_.empty()) lost_ = cause;
  changed_.notify_all();
}

SequenceId Inbox::add(Scheduler& scheduler, const Request& request) {
  Message message{0, false, request};
  const std::lock_guard lock(mutex_);
  refuse_lost_locked();
  message.sequence = scheduler.new_id();  // in the order of messages
  known_.insert(message.sequence);
  messages_.push_back(std::move(message));
  changed_.notify_all();
  return messages_.back().sequence;
}

void Inbox::cancel(SequenceId sequence) {
  const std::lock_guard lock(mutex_);
  refuse_lost_locked();
  if (known_.count(sequence) == 0)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("sequence {}: there is none of this number", sequence));
  messages_.push_back({sequence, true, {}});
  changed_.notify_all();
}

bool Inbox::wait(double seconds) {
  // What a clock can count; a day stands for ever longer waits.
  const std::chrono::duration<double> most(std::clamp(seconds, 0.0, 86400.0));
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, most, [this] { return busy_ || !messages_.empty() || !lost_.empty(); });
  return busy_ || !messages_.empty();
}

bool Inbox::pending() const {
  const std::lock_guard lock(mutex_);
  return !messages_.empty();
}

void Inbox::take(Scheduler& scheduler) {
  std::vector<Message> messages;
  {
    const std::lock_guard lock(mutex_);
    messages.swap(messages_);
  }
  for (const Message& message : messages) {
    if (!message.cancel)
      scheduler.add(message.sequence, message.request);
    else if (scheduler.knows(message.sequence))  // else it was removed meanwhile
      scheduler.cancel(message.sequence);
  }
}

void Inbox::know(SequenceId sequence) {
  const std::lock_guard lock(mutex_);
  known_.insert(sequence);
}

void Inbox::forget(SequenceId sequence) {
  const std::lock_guard lock(mutex_);
  known_.erase(sequence);
}

void Inbox::set_busy(bool busy) {
  const std::lock_guard lock(mutex_);
  busy_ = busy;
  if (busy) changed_.notify_all();
}

}  // namespace rondo
