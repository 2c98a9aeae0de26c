// runner/rondo.h over the engine: errors, opening, sequences, steps.
#include "runner/rondo_c.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace rondo::c {
namespace {

// Per thread, so that callers in several threads read each their own.
thread_local std::string last_error;

rondo_status failed(rondo_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

rondo_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::InvalidModel: return RONDO_INVALID_MODEL;
    case ErrorKind::InvalidArgument: return RONDO_INVALID_ARGUMENT;
    case ErrorKind::OutOfMemory: return RONDO_OUT_OF_MEMORY;
    case ErrorKind::ContextFull: return RONDO_CONTEXT_FULL;
    case ErrorKind::NumericalError: return RONDO_NUMERICAL_ERROR;
    case ErrorKind::Misuse: return RONDO_MISUSE;
    case ErrorKind::DeviceLost: return RONDO_DEVICE_LOST;
  }
  return RONDO_INTERNAL;
}

}  // namespace

rondo_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return failed(status_of(error.kind()), error.what());
  } catch (const CallbackStopped& stopped) {
    return failed(RONDO_STOPPED, stopped.what());
  } catch (const std::bad_alloc&) {
    return failed(RONDO_OUT_OF_MEMORY, "host memory ended");
  } catch (const std::length_error& error) {
    return failed(RONDO_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return failed(RONDO_INTERNAL, error.what());
  } catch (...) {
    return failed(RONDO_INTERNAL, "an exception that is no std::exception, from a callback");
  }
}

void stop_unless_zero(const char* callback, int answer) {
  if (answer) throw CallbackStopped(fmt::format("{}: the callback returned {}", callback, answer));
}

void need(const void* pointer, const char* name) {
  if (!pointer)
    throw Error(ErrorKind::InvalidArgument, fmt::format("{}: expected a pointer, found NULL", name));
}

void* copy_out(const void* bytes, size_t size) {
  void* memory = std::malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  if (size) std::memcpy(memory, bytes, size);
  return memory;
}

char* copy_out(const std::string& text) {
  return static_cast<char*>(copy_out(text.c_str(), text.size() + 1));
}

namespace {

// As C's struct; what it points to goes behind what `top_logprobs` holds, which has room for it.
rondo_output to_output(const Output& output, std::vector<rondo_token_logprob>& top_logprobs) {
  rondo_output out = {};
  out.sequence = output.sequence;
  out.token = output.token;
  out.logprob = output.logprob;
  out.finish = static_cast<rondo_finish>(output.finish);
  out.top_logprob_count = output.top_logprobs.size();
  if (out.top_logprob_count) out.top_logprobs = top_logprobs.data() + top_logprobs.size();
  for (const TokenLogprob& top : output.top_logprobs) top_logprobs.push_back({top.token, top.logprob});
  return out;
}

// What was stepped, as C's structs. They point into vectors that live until the next step.
void hand_out(rondo_engine& handle) {
  size_t top_logprobs = 0;
  for (const Output& output : handle.stepped) top_logprobs += output.top_logprobs.size();
  handle.outputs.clear();
  handle.outputs.reserve(handle.stepped.size());
  handle.top_logprobs.clear();
  handle.top_logprobs.reserve(top_logprobs);
  for (const Output& output : handle.stepped)
    handle.outputs.push_back(to_output(output, handle.top_logprobs));
  handle.stepped.clear();
}

// const calls of the engine are not the C caller's to tell apart from others.
Engine& engine_of(const rondo_engine* handle, const char* name) {
  need(handle, name);
  return const_cast<rondo_engine*>(handle)->engine;
}

}  // namespace
}  // namespace rondo::c

using namespace rondo::c;

uint32_t rondo_abi_version(void) { return RONDO_ABI_VERSION; }
const char* rondo_version(void) { return rondo::version(); }
const char* rondo_last_error(void) { return last_error.c_str(); }
void rondo_free(void* memory) { std::free(memory); }

const char* rondo_status_name(int32_t status) {
  switch (status) {
    case RONDO_OK: return "OK";
    case RONDO_INVALID_MODEL: return "InvalidModel";
    case RONDO_INVALID_ARGUMENT: return "InvalidArgument";
    case RONDO_OUT_OF_MEMORY: return "OutOfMemory";
    case RONDO_CONTEXT_FULL: return "ContextFull";
    case RONDO_NUMERICAL_ERROR: return "NumericalError";
    case RONDO_MISUSE: return "Misuse";
    case RONDO_DEVICE_LOST: return "DeviceLost";
    case RONDO_STOPPED: return "Stopped";
    case RONDO_INTERNAL: return "Internal";
  }
  return "unknown";
}

const char* rondo_finish_name(int32_t finish) {
  if (finish < RONDO_FINISH_NONE || finish > RONDO_FINISH_NUMERICAL_ERROR) return "unknown";
  return rondo::finish_reason_name(static_cast<rondo::FinishReason>(finish));
}

rondo_status rondo_open(const char* path, const rondo_options* options, rondo_engine** engine) {
  return guarded([&] {
    checked(engine, "rondo_open: engine") = nullptr;
    need(path, "rondo_open: path");
    *engine = new rondo_engine{rondo::Engine::open(path, to_options(options)), {}, {}, {}, {}, {}, {}};
  });
}

void rondo_close(rondo_engine* engine) { delete engine; }

int64_t rondo_vocab_size(const rondo_engine* engine) { return engine ? engine->engine.vocab_size() : 0; }
int64_t rondo_max_context(const rondo_engine* engine) { return engine ? engine->engine.max_context() : 0; }

rondo_status rondo_eos_token_ids(const rondo_engine* engine, const int32_t** ids, size_t* count) {
  return guarded([&] {
    const auto& eos = engine_of(engine, "rondo_eos_token_ids: engine").eos_token_ids();
    need(ids, "rondo_eos_token_ids: ids");
    checked(count, "rondo_eos_token_ids: count") = eos.size();
    *ids = eos.data();
  });
}

rondo_status rondo_add(rondo_engine* engine, const rondo_request* request, rondo_sequence* sequence) {
  return guarded([&] {
    auto& to = engine_of(engine, "rondo_add: engine");
    need(sequence, "rondo_add: sequence");
    *sequence = to.add(to_request(checked(request, "rondo_add: request")));
  });
}

rondo_status rondo_cancel(rondo_engine* engine, rondo_sequence sequence) {
  return guarded([&] { engine_of(engine, "rondo_cancel: engine").cancel(sequence); });
}

rondo_status rondo_resume(rondo_engine* engine, rondo_sequence sequence, int64_t length,
                          int32_t max_new_tokens) {
  return guarded([&] { engine_of(engine, "rondo_resume: engine").resume(sequence, length, max_new_tokens); });
}

rondo_status rondo_remove(rondo_engine* engine, rondo_sequence sequence) {
  return guarded([&] { engine_of(engine, "rondo_remove: engine").remove(sequence); });
}

rondo_status rondo_tokens(const rondo_engine* engine, rondo_sequence sequence, int32_t* ids, size_t capacity,
                          size_t* count) {
  return guarded([&] {
    const auto tokens = engine_of(engine, "rondo_tokens: engine").tokens(sequence);
    if (capacity) need(ids, "rondo_tokens: ids");
    checked(count, "rondo_tokens: count") = tokens.size();
    std::copy_n(tokens.begin(), std::min(capacity, tokens.size()), ids);
  });
}

rondo_status rondo_finish_reason(const rondo_engine* engine, rondo_sequence sequence, rondo_finish* finish) {
  return guarded([&] {
    auto& from = engine_of(engine, "rondo_finish_reason: engine");
    checked(finish, "rondo_finish_reason: finish") = static_cast<rondo_finish>(from.finish_reason(sequence));
  });
}

rondo_status rondo_step(rondo_engine* engine, const rondo_output** outputs, size_t* count) {
  return guarded([&] {
    need(engine, "rondo_step: engine");
    need(outputs, "rondo_step: outputs");
    need(count, "rondo_step: count");
    // Not empty: a step was made whose outputs found no memory.
    if (engine->stepped.empty()) engine->stepped = engine->engine.step();
    hand_out(*engine);
    *outputs = engine->outputs.data();
    *count = engine->outputs.size();
  });
}

rondo_status rondo_generate(rondo_engine* engine, int (*each)(void* user, const rondo_output* output),
                            void* user) {
  return guarded([&] {
    need(engine, "rondo_generate: engine");
    if (!each) need(nullptr, "rondo_generate: each");
    std::vector<rondo_token_logprob> top_logprobs;
    top_logprobs.reserve(rondo::kMaxTopLogprobs);
    const auto give = [&](const rondo::Output& output) {
      top_logprobs.clear();
      const rondo_output out = to_output(output, top_logprobs);
      stop_unless_zero("each", each(user, &out));
    };
    while (!engine->stepped.empty()) {  // of a step whose outputs found no memory
      const rondo::Output first = std::move(engine->stepped.front());
      engine->stepped.erase(engine->stepped.begin());
      give(first);
    }
    engine->engine.generate(give);
  });
}

bool rondo_busy(const rondo_engine* engine) {
  bool busy = true;
  guarded([&] { busy = engine_of(engine, "rondo_busy: engine").busy(); });
  return busy;
}

rondo_status rondo_score(rondo_engine* engine, const int32_t* prompt, size_t prompt_count,
                         int (*each)(void* user, int64_t position, const float* logits, size_t vocab_size),
                         void* user) {
  return guarded([&] {
    auto& with = engine_of(engine, "rondo_score: engine");
    if (!each) need(nullptr, "rondo_score: each");
    const auto ids = list(prompt, prompt_count, "rondo_score: prompt");
    with.score({ids.begin(), ids.end()}, [&](int64_t position, std::span<const float> logits) {
      stop_unless_zero("each", each(user, position, logits.data(), logits.size()));
    });
  });
}
