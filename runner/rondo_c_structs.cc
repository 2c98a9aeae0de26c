// C's structs into the engine's, whatever size the caller's header gave them.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runner/rondo_c.h"

namespace rondo::c {
namespace {

// Where the first version of a struct ended: a smaller struct_size was never set by a header of ours.
#define RONDO_FIRST_SIZE(type, last) (offsetof(type, last) + sizeof(type::last))
constexpr size_t kFirstOptions = RONDO_FIRST_SIZE(rondo_options, on_event_user);
constexpr size_t kFirstSampling = RONDO_FIRST_SIZE(rondo_sampling, logit_bias_count);
constexpr size_t kFirstRequest = RONDO_FIRST_SIZE(rondo_request, on_logits_user);
constexpr size_t kFirstEvent = RONDO_FIRST_SIZE(rondo_event, reserved);
#undef RONDO_FIRST_SIZE
// A new field must not lie in what was padding.
static_assert(sizeof(rondo_options) == kFirstOptions && sizeof(rondo_sampling) == kFirstSampling &&
              sizeof(rondo_request) == kFirstRequest && sizeof(rondo_event) == kFirstEvent);

void check_size(const char* name, size_t size, size_t first) {
  if (size >= first) return;
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("{}: struct_size: expected at least {}, found {}; set it to sizeof({})", name,
                          first, size, name));
}

// `defaults`, overwritten by as much as the caller's header knew of.
template <class T>
T read_struct(const T& given, const char* name, size_t first, T defaults) {
  const size_t size = given.struct_size;
  check_size(name, size, first);
  std::memcpy(&defaults, &given, std::min(size, sizeof(T)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(&given);
  if (size > sizeof(T) &&
      std::any_of(bytes + sizeof(T), bytes + size, [](unsigned char byte) { return byte != 0; }))
    throw Error(ErrorKind::InvalidArgument, fmt::format("{}: expected zero in all fields behind byte {}, "
                                                        "found something else: the program was built with "
                                                        "a newer rondo.h than this library's ({})",
                                                        name, sizeof(T), version()));
  return defaults;
}

template <class T>
void write_struct(T* out, const char* name, size_t size, size_t first, const T& defaults) {
  need(out, name);
  check_size(name, size, first);
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(out, &defaults, std::min(size, sizeof(T)));
  out->struct_size = size;
}

rondo_options default_options() {
  const EngineOptions defaults;
  rondo_options options = {};
  options.abi_version = RONDO_ABI_VERSION;
  options.max_rows = defaults.max_rows;
  options.max_sequences = defaults.max_sequences;
  options.page_size = defaults.page_size;
  options.share_prefixes = defaults.share_prefixes;
  options.launch_ahead = defaults.launch_ahead;
  return options;
}

rondo_sampling default_sampling() {
  const Sampling defaults;
  rondo_sampling sampling = {};
  sampling.top_p = defaults.top_p;
  sampling.repetition_penalty = defaults.repetition_penalty;
  return sampling;
}

rondo_request default_request() {
  const Request defaults;
  rondo_request request = {};
  request.max_new_tokens = defaults.max_new_tokens;
  request.draft_ngram = defaults.draft_ngram;
  return request;
}

DeviceKind to_device(int32_t device) {
  switch (device) {
    case RONDO_DEVICE_AUTO: return DeviceKind::Auto;
    case RONDO_DEVICE_CPU: return DeviceKind::Cpu;
    case RONDO_DEVICE_CUDA: return DeviceKind::Cuda;
  }
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("device: expected a rondo_device, 0 to 2, found {}", device));
}

GraphMode to_graph(int32_t graph) {
  switch (graph) {
    case RONDO_GRAPH_AUTO: return GraphMode::Auto;
    case RONDO_GRAPH_REQUIRE: return GraphMode::Require;
    case RONDO_GRAPH_LAZY: return GraphMode::Lazy;
    case RONDO_GRAPH_OFF: return GraphMode::Off;
  }
  throw Error(ErrorKind::InvalidArgument,
              fmt::format("graph: expected a rondo_graph, 0 to 3, found {}", graph));
}

// Both lists in the same order.
static_assert(static_cast<int>(LogEvent::Kind::Fail) == RONDO_EVENT_FAIL);
static_assert(static_cast<int>(FinishReason::NumericalError) == RONDO_FINISH_NUMERICAL_ERROR);

rondo_event to_event(const LogEvent& event) {
  return {sizeof(rondo_event),
          event.step,
          event.sequence,
          event.source,
          event.length,
          static_cast<rondo_event_kind>(event.kind),
          event.max_new_tokens,
          event.slot,
          static_cast<rondo_finish>(event.finish),
          event.again,
          event.ahead,
          event.led,
          {}};
}

template <class T>
std::vector<T> copied(const T* first, size_t count, const char* name) {
  const auto items = list(first, count, name);
  return {items.begin(), items.end()};
}

}  // namespace

EngineOptions to_options(const rondo_options* given) {
  EngineOptions options;
  if (!given) return options;
  const rondo_options c = read_struct(*given, "rondo_options", kFirstOptions, default_options());
  if (c.abi_version != RONDO_ABI_VERSION)
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("abi_version: expected {}, found {}: the program was built with another rondo.h; "
                            "rondo_default_options() sets it",
                            RONDO_ABI_VERSION, c.abi_version));
  options.device = to_device(c.device);
  options.device_index = c.device_index;
  options.graph = to_graph(c.graph);
  options.max_rows = c.max_rows;
  options.max_sequences = c.max_sequences;
  options.max_logit_rows = c.max_logit_rows;
  options.prompt_chunk = c.prompt_chunk;
  options.max_context = c.max_context;
  options.kv_positions = c.kv_positions;
  options.page_size = c.page_size;
  options.share_prefixes = c.share_prefixes;
  options.launch_ahead = c.launch_ahead;
  options.one_launch = c.one_launch;
  options.tune = c.tune;
  options.buckets = copied(c.buckets, c.bucket_count, "rondo_options: buckets");
  options.threads = c.threads;
  options.random_weights = c.random_weights;
  options.weights_seed = c.weights_seed;
  if (c.progress)
    options.progress = [progress = c.progress, user = c.progress_user](uint64_t done, uint64_t total) {
      stop_unless_zero("progress", progress(user, done, total));
    };
  if (c.on_event)
    options.on_event = [on_event = c.on_event, user = c.on_event_user](const LogEvent& event) {
      const rondo_event line = to_event(event);
      on_event(user, &line);
    };
  return options;
}

Sampling to_sampling(const rondo_sampling* given) {
  Sampling sampling;
  if (!given) return sampling;
  const rondo_sampling c = read_struct(*given, "rondo_sampling", kFirstSampling, default_sampling());
  sampling.temperature = c.temperature;
  sampling.top_k = c.top_k;
  sampling.top_p = c.top_p;
  sampling.min_p = c.min_p;
  sampling.repetition_penalty = c.repetition_penalty;
  sampling.presence_penalty = c.presence_penalty;
  sampling.frequency_penalty = c.frequency_penalty;
  sampling.seed = c.seed;
  sampling.top_logprobs = c.top_logprobs;
  for (const rondo_token_bias& bias : list(c.logit_bias, c.logit_bias_count, "rondo_sampling: logit_bias"))
    sampling.logit_bias.push_back({bias.token, bias.bias});
  return sampling;
}

Request to_request(const rondo_request& given) {
  const rondo_request c = read_struct(given, "rondo_request", kFirstRequest, default_request());
  Request request;
  request.prompt = copied(c.prompt, c.prompt_count, "rondo_request: prompt");
  request.max_new_tokens = c.max_new_tokens;
  request.sampling = to_sampling(c.sampling);
  request.stop_ids = copied(c.stop_ids, c.stop_id_count, "rondo_request: stop_ids");
  request.ignore_eos = c.ignore_eos;
  for (const rondo_token_list& stop :
       list(c.stop_sequences, c.stop_sequence_count, "rondo_request: stop_sequences"))
    request.stop_sequences.push_back(copied(stop.ids, stop.count, "rondo_request: stop_sequences: ids"));
  request.min_new_tokens = c.min_new_tokens;
  request.priority = c.priority;
  request.draft_tokens = c.draft_tokens;
  request.draft_ngram = c.draft_ngram;
  if (c.on_logits)
    request.on_logits = [on_logits = c.on_logits, user = c.on_logits_user](std::span<const int32_t> tokens,
                                                                           std::span<float> logits) {
      stop_unless_zero("on_logits",
                       on_logits(user, tokens.data(), tokens.size(), logits.data(), logits.size()));
    };
  return request;
}

}  // namespace rondo::c

using namespace rondo::c;

rondo_status rondo_init_options(rondo_options* options, size_t struct_size, uint32_t abi_version) {
  return guarded([&] {
    write_struct(options, "rondo_options", struct_size, kFirstOptions, default_options());
    options->abi_version = abi_version;
  });
}

rondo_status rondo_init_sampling(rondo_sampling* sampling, size_t struct_size) {
  return guarded(
      [&] { write_struct(sampling, "rondo_sampling", struct_size, kFirstSampling, default_sampling()); });
}

rondo_status rondo_init_request(rondo_request* request, size_t struct_size) {
  return guarded(
      [&] { write_struct(request, "rondo_request", struct_size, kFirstRequest, default_request()); });
}
