// runner/engine.h over EngineCore: every call takes a turn, but for the few that any thread may make.
#include "runner/engine.h"

#include "runner/engine_core.h"

namespace rondo {

struct Engine::Impl {
  Impl(const std::string& path, const EngineOptions& options) : core(path, options) {}
  EngineCore core;
};

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::None: return "none";
    case FinishReason::Length: return "length";
    case FinishReason::Stop: return "stop";
    case FinishReason::Cancelled: return "cancelled";
    case FinishReason::ContextFull: return "context_full";
    case FinishReason::NumericalError: return "numerical_error";
  }
  return "unknown";
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::open(const std::string& path, const EngineOptions& options) {
  return Engine(std::make_unique<Impl>(path, options));
}

SequenceId Engine::add(const Request& request) { return impl_->core.add(request); }
void Engine::cancel(SequenceId sequence) { impl_->core.cancel(sequence); }
bool Engine::wait(double seconds) { return impl_->core.wait(seconds); }

std::vector<Output> Engine::step() {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.step();
}

std::vector<Output> Engine::step(bool ahead, bool again) {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.step(ahead, again);
}

void Engine::fail(bool led) {
  EngineCore::Turn turn(impl_->core);
  impl_->core.fail(led);
}

void Engine::generate(const std::function<void(const Output&)>& each) {
  EngineCore::Turn turn(impl_->core);
  impl_->core.generate(each);
}

bool Engine::busy() const {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.scheduler().busy();
}

SequenceId Engine::fork(SequenceId source, const Sampling& sampling) {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.fork(source, sampling);
}

int Engine::verify(SequenceId sequence, const std::vector<int32_t>& drafts) {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.verify(sequence, drafts);
}

std::vector<std::byte> Engine::save(SequenceId sequence) {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.save(sequence);
}

SequenceId Engine::restore(std::span<const std::byte> bytes) {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.restore(bytes);
}

std::vector<int32_t> Engine::tokens(SequenceId sequence) const {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.scheduler().sequence(sequence).tokens;
}

FinishReason Engine::finish_reason(SequenceId sequence) const {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.scheduler().sequence(sequence).finish;
}

void Engine::resume(SequenceId sequence, int64_t length, int max_new_tokens) {
  EngineCore::Turn turn(impl_->core);
  impl_->core.scheduler().resume(sequence, length, max_new_tokens);
}

void Engine::remove(SequenceId sequence) {
  EngineCore::Turn turn(impl_->core);
  impl_->core.remove(sequence);
}

void Engine::score(const std::vector<int32_t>& prompt,
                   const std::function<void(int64_t, std::span<const float>)>& each) {
  EngineCore::Turn turn(impl_->core);
  impl_->core.score(prompt, each);
}

Stats Engine::stats() const {
  EngineCore::Turn turn(impl_->core);
  return impl_->core.stats();
}

int64_t Engine::vocab_size() const { return impl_->core.dims().vocab_size; }
int64_t Engine::max_context() const { return impl_->core.dims().max_context; }
const std::vector<int32_t>& Engine::eos_token_ids() const { return impl_->core.config().eos_token_ids; }

}  // namespace rondo
