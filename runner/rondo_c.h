// Inside the C ABI: the handle, how exceptions become a status, and how C's structs are read and written.
#pragma once

#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "runner/engine.h"
#include "runner/rondo.h"

struct rondo_engine {
  rondo::Engine engine;
  // What the last calls handed out.
  std::vector<rondo::Output> stepped;
  std::vector<rondo_output> outputs;
  std::vector<rondo_token_logprob> top_logprobs;
  rondo::Stats stats;
  std::vector<rondo_bucket_stats> buckets;
  std::vector<rondo_form> forms;
};

namespace rondo::c {

// Thrown through the engine where a callback said stop.
struct CallbackStopped : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void stop_unless_zero(const char* callback, int answer);

// The exception in flight as a status; its message becomes this thread's last error.
rondo_status status_of_exception() noexcept;

// Every function that returns a status is one call of this.
template <class F>
rondo_status guarded(F&& work) noexcept {
  try {
    work();
    return RONDO_OK;
  } catch (...) {
    return status_of_exception();
  }
}

// `pointer`, or InvalidArgument that names it: "rondo_add: sequence".
void need(const void* pointer, const char* name);
template <class T>
T& checked(T* pointer, const char* name) {
  need(pointer, name);
  return *pointer;
}
template <class T>
std::span<const T> list(const T* first, size_t count, const char* name) {
  if (count) need(first, name);
  return {first, count};
}

EngineOptions to_options(const rondo_options* options);
Sampling to_sampling(const rondo_sampling* sampling);
Request to_request(const rondo_request& request);

// Memory of C's, for rondo_free().
void* copy_out(const void* bytes, size_t size);
char* copy_out(const std::string& text);

}  // namespace rondo::c
