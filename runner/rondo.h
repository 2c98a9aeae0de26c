// rondo in C: runner/engine.h without exceptions and without C++. What each call means, its units and its
// limits are said there, by the same names; here is what C adds. One call is missing, replay_events(): the
// log's lines do not hold in C what a replay asks for. Links with librondo; a C++20 runtime comes with it.
//
//   rondo_options options = rondo_default_options();
//   rondo_engine* engine;
//   if (rondo_open("models/demo", &options, &engine) != RONDO_OK) puts(rondo_last_error());
//
// Errors: a function that returns a rondo_status says in rondo_last_error() what was expected and what was
// found. A call that fails has changed nothing and written no results, unless the status is
// RONDO_DEVICE_LOST: then only rondo_close() is left.
//
// Threads: as in engine.h. One thread steps; rondo_add, rondo_cancel and rondo_wait may be called from any.
//
// Memory: what a call takes is copied before it returns. What a call hands out says how long it lives. A
// callback and its `user` must live as long as what they were given to: an open, a sequence, an engine.
//
// Versions: structs that begin with struct_size may grow at their end, and a program built with a smaller one
// goes on working; zero in a new field means what it was before. Of rondo_event the library sets it: a
// program that was built with a newer header looks there before it reads a new field. The others do not
// change within one RONDO_ABI_VERSION.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)  // the shared library exports what the public headers declare
#ifdef __cplusplus
extern "C" {
#endif

#define RONDO_ABI_VERSION 1

typedef struct rondo_engine rondo_engine;
typedef uint64_t rondo_sequence;

typedef enum rondo_status {
  RONDO_OK = 0,
  RONDO_INVALID_MODEL = 1,     // a file is malformed or not understood
  RONDO_INVALID_ARGUMENT = 2,  // the caller asked for something that cannot be
  RONDO_OUT_OF_MEMORY = 3,     // host or device memory ended; the engine is as it was
  RONDO_CONTEXT_FULL = 4,      // a sequence can hold no further token, or never could
  RONDO_NUMERICAL_ERROR = 5,   // NaN or infinity where a token should come from
  RONDO_MISUSE = 6,            // calls in an order or from a thread that is not allowed
  RONDO_DEVICE_LOST = 7,       // the device failed for good
  RONDO_STOPPED = 8,           // a callback returned something other than 0
  RONDO_INTERNAL = 9           // a fault of rondo's own, or an exception from a callback
} rondo_status;

typedef enum rondo_finish {
  RONDO_FINISH_NONE = 0,  // it goes on
  RONDO_FINISH_LENGTH = 1,
  RONDO_FINISH_STOP = 2,
  RONDO_FINISH_CANCELLED = 3,
  RONDO_FINISH_CONTEXT_FULL = 4,
  RONDO_FINISH_NUMERICAL_ERROR = 5
} rondo_finish;

typedef enum rondo_device { RONDO_DEVICE_AUTO = 0, RONDO_DEVICE_CPU = 1, RONDO_DEVICE_CUDA = 2 } rondo_device;

typedef enum rondo_graph {
  RONDO_GRAPH_AUTO = 0,
  RONDO_GRAPH_REQUIRE = 1,
  RONDO_GRAPH_LAZY = 2,
  RONDO_GRAPH_OFF = 3
} rondo_graph;

uint32_t rondo_abi_version(void);               // of the library; rondo_open() compares it with the header's
const char* rondo_version(void);                // "0.1.0"
const char* rondo_status_name(int32_t status);  // "InvalidModel"
const char* rondo_finish_name(int32_t finish);  // "length", "stop", ...

// What the last failed call of this thread had to say; valid until this thread's next failed call. Never
// NULL.
const char* rondo_last_error(void);

// Frees what rondo_save, rondo_doctor_report and rondo_prometheus_text gave. NULL does nothing.
void rondo_free(void* memory);

// ---- Opening ----

typedef enum rondo_event_kind {
  RONDO_EVENT_ADD = 0,
  RONDO_EVENT_FORK = 1,
  RONDO_EVENT_RESUME = 2,
  RONDO_EVENT_VERIFY = 3,
  RONDO_EVENT_RESTORE = 4,
  RONDO_EVENT_CANCEL = 5,
  RONDO_EVENT_REMOVE = 6,
  RONDO_EVENT_ADMIT = 7,
  RONDO_EVENT_PREEMPT = 8,
  RONDO_EVENT_FINISH = 9,
  RONDO_EVENT_STEP = 10,
  RONDO_EVENT_FAIL = 11
} rondo_event_kind;

// One line of the scheduler's log: rondo::LogEvent without `request`, `sampling`, `drafts` and `saved`, what
// was handed in with RONDO_EVENT_ADD, _FORK, _VERIFY and _RESTORE: who wants to make the same run again keeps
// them. Gone when the callback returns.
typedef struct rondo_event {
  size_t struct_size;  // of the library's rondo_event
  uint64_t step;       // steps made before it
  rondo_sequence sequence;
  rondo_sequence source;   // fork: of which sequence
  int64_t length;          // resume: tokens kept; admit: positions shared with others; step, fail: rows
  rondo_event_kind kind;   // others than these may come with a later library
  int32_t max_new_tokens;  // resume
  int32_t slot;            // admit, preempt
  rondo_finish finish;     // finish
  bool again;              // step: behind another in one launch, so that nobody was admitted between
  bool ahead;              // step, fail: it was planned before the step in front of it had been made
  bool led;                // fail: its successor had been planned too
  uint8_t reserved[5];
} rondo_event;

typedef struct rondo_options {
  size_t struct_size;
  uint32_t abi_version;
  int32_t device;  // a rondo_device
  int32_t device_index;
  int32_t graph;  // a rondo_graph
  int32_t max_rows;
  int32_t max_sequences;
  int32_t max_logit_rows;
  int32_t prompt_chunk;
  int64_t max_context;
  int64_t kv_positions;
  int32_t page_size;
  int32_t threads;
  const int32_t* buckets;
  size_t bucket_count;
  uint64_t weights_seed;
  bool random_weights;
  bool share_prefixes;
  bool launch_ahead;
  bool one_launch;
  bool tune;
  uint8_t reserved[3];
  // While weights are loaded; anything but 0 ends the load with RONDO_STOPPED.
  int (*progress)(void* user, uint64_t done, uint64_t total);
  void* progress_user;
  // The scheduler's log, called by the stepping thread; must not call the engine.
  void (*on_event)(void* user, const rondo_event* event);
  void* on_event_user;
} rondo_options;

// Writes the defaults; struct_size is sizeof(rondo_options) and abi_version RONDO_ABI_VERSION as the caller
// has them.
rondo_status rondo_init_options(rondo_options* options, size_t struct_size, uint32_t abi_version);

static inline rondo_options rondo_default_options(void) {
  rondo_options options;
  rondo_init_options(&options, sizeof(options), RONDO_ABI_VERSION);
  return options;
}

// `options` may be NULL: the defaults. Where it fails, *engine is NULL. Closing waits for the device, and for
// all that CUDA does for this process: a stream that the program captures meanwhile loses its capture. NULL
// does nothing.
rondo_status rondo_open(const char* path, const rondo_options* options, rondo_engine** engine);
void rondo_close(rondo_engine* engine);

int64_t rondo_vocab_size(const rondo_engine* engine);
int64_t rondo_max_context(const rondo_engine* engine);
// Valid as long as the engine.
rondo_status rondo_eos_token_ids(const rondo_engine* engine, const int32_t** ids, size_t* count);

// ---- Sequences ----

typedef struct rondo_token_bias {
  int32_t token;
  float bias;
} rondo_token_bias;

typedef struct rondo_sampling {
  size_t struct_size;
  float temperature;  // 0: greedy
  int32_t top_k;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t top_logprobs;
  uint64_t seed;
  const rondo_token_bias* logit_bias;
  size_t logit_bias_count;
} rondo_sampling;

rondo_status rondo_init_sampling(rondo_sampling* sampling, size_t struct_size);

static inline rondo_sampling rondo_default_sampling(void) {
  rondo_sampling sampling;
  rondo_init_sampling(&sampling, sizeof(sampling));
  return sampling;
}

typedef struct rondo_token_list {
  const int32_t* ids;
  size_t count;
} rondo_token_list;

typedef struct rondo_request {
  size_t struct_size;
  const int32_t* prompt;
  size_t prompt_count;
  const rondo_sampling* sampling;  // NULL: greedy
  int32_t max_new_tokens;
  int32_t min_new_tokens;
  int32_t priority;
  int32_t draft_tokens;
  int32_t draft_ngram;
  bool ignore_eos;
  uint8_t reserved[3];
  const int32_t* stop_ids;
  size_t stop_id_count;
  const rondo_token_list* stop_sequences;
  size_t stop_sequence_count;
  // A look at the logits [vocab_size], to be changed in place, before a token is drawn; the tokens are the
  // sequence's so far. Anything but 0 ends rondo_step() with RONDO_STOPPED: that step has not happened, and
  // may be made again.
  int (*on_logits)(void* user, const int32_t* tokens, size_t token_count, float* logits, size_t vocab_size);
  void* on_logits_user;
} rondo_request;

rondo_status rondo_init_request(rondo_request* request, size_t struct_size);

static inline rondo_request rondo_default_request(void) {
  rondo_request request;
  rondo_init_request(&request, sizeof(request));
  return request;
}

rondo_status rondo_add(rondo_engine* engine, const rondo_request* request, rondo_sequence* sequence);
rondo_status rondo_cancel(rondo_engine* engine, rondo_sequence sequence);
rondo_status rondo_resume(rondo_engine* engine, rondo_sequence sequence, int64_t length,
                          int32_t max_new_tokens);
rondo_status rondo_fork(rondo_engine* engine, rondo_sequence source, const rondo_sampling* sampling,
                        rondo_sequence* fork);
rondo_status rondo_remove(rondo_engine* engine, rondo_sequence sequence);

// Copies at most `capacity` ids, the first ones, and says in `count` how many there are. `ids` may be NULL if
// `capacity` is 0.
rondo_status rondo_tokens(const rondo_engine* engine, rondo_sequence sequence, int32_t* ids, size_t capacity,
                          size_t* count);
rondo_status rondo_finish_reason(const rondo_engine* engine, rondo_sequence sequence, rondo_finish* finish);

// ---- Stepping ----

typedef struct rondo_token_logprob {
  int32_t token;
  float logprob;
} rondo_token_logprob;

typedef struct rondo_output {
  rondo_sequence sequence;
  int32_t token;  // -1: none, the sequence ended without one
  float logprob;
  const rondo_token_logprob* top_logprobs;
  size_t top_logprob_count;
  rondo_finish finish;
  uint8_t reserved[28];
} rondo_output;

// `outputs` [count] belong to the engine and live until its next step.
rondo_status rondo_step(rondo_engine* engine, const rondo_output** outputs, size_t* count);

// Steps until no sequence waits or runs. `each` sees every output as soon as it is there, gone when it
// returns; it may call rondo_add() and rondo_cancel(). Anything but 0 ends the call with RONDO_STOPPED; what
// it has not seen comes with the next call. With `one_launch`, a run of steps is one launch.
rondo_status rondo_generate(rondo_engine* engine, int (*each)(void* user, const rondo_output* output),
                            void* user);

// True also where asking fails, so that a loop that steps while it is busy meets the error in rondo_step().
bool rondo_busy(const rondo_engine* engine);

// Waits until there is something for rondo_step() to do, or for `seconds`.
rondo_status rondo_wait(rondo_engine* engine, double seconds, bool* ready);

rondo_status rondo_verify(rondo_engine* engine, rondo_sequence sequence, const int32_t* drafts,
                          size_t draft_count, size_t* accepted);

// The callback sees vocab_size logits that are gone when it returns; anything but 0 ends the call with
// RONDO_STOPPED.
rondo_status rondo_score(rondo_engine* engine, const int32_t* prompt, size_t prompt_count,
                         int (*each)(void* user, int64_t position, const float* logits, size_t vocab_size),
                         void* user);

// A sequence as bytes, to be freed with rondo_free(), and back.
rondo_status rondo_save(rondo_engine* engine, rondo_sequence sequence, void** bytes, size_t* size);
rondo_status rondo_restore(rondo_engine* engine, const void* bytes, size_t size, rondo_sequence* sequence);

// ---- Looking at it ----

typedef struct rondo_form {
  int32_t rows;         // of the bucket
  const char* verb;     // "gate_up"
  const char* kernels;  // "rmsnorm + cublasLt + silu_mul"
} rondo_form;

typedef struct rondo_bucket_stats {
  int64_t rows;
  double capture_ms;
  double instantiate_ms;
  double upload_ms;
  int64_t nodes;
  int64_t device_bytes;
} rondo_bucket_stats;

typedef struct rondo_stats {
  size_t struct_size;
  uint64_t steps;
  uint64_t replays;
  uint64_t eager_off;
  uint64_t eager_warm_up;
  uint64_t eager_samples;
  uint64_t host_logit_rows;
  uint64_t loops;
  uint64_t loop_steps;
  uint64_t steps_ahead;
  uint64_t rows;
  uint64_t padded_rows;
  uint64_t wasted_rows;
  uint64_t tokens;
  double host_seconds;
  double wait_seconds;
  uint64_t waiting;
  uint64_t running;
  uint64_t pages_used;
  uint64_t pages_shared;
  uint64_t pages_cached;
  uint64_t pages;
  uint64_t preemptions;
  uint64_t prefix_lookups;
  uint64_t prefix_hits;
  uint64_t prefix_tokens;
  uint64_t page_copies;
  uint64_t forks;
  uint64_t drafted_tokens;
  uint64_t accepted_drafts;
  uint64_t finished[6];  // sequences ended, by rondo_finish
  uint64_t weight_bytes;
  uint64_t device_bytes;
  // The pointers live until the engine's next rondo_get_stats() or its end.
  const char* device;
  const char* backend;
  const char* graph;
  const char* one_launch;
  const rondo_bucket_stats* buckets;
  size_t bucket_count;
  // How long steps took: counts[i] of those that took at most bounds[i] seconds, the last,
  // counts[bound_count], longer.
  const double* step_bounds;
  const uint64_t* step_counts;
  size_t step_bound_count;
  double step_seconds;
  // What each verb of the step is made of, by bucket.
  const rondo_form* forms;
  size_t form_count;
} rondo_stats;

// `stats->struct_size` must be set; the rest is written.
rondo_status rondo_get_stats(rondo_engine* engine, rondo_stats* stats);

// The same in the Prometheus text exposition format, to be freed with rondo_free().
rondo_status rondo_prometheus_text(rondo_engine* engine, char** text);

typedef struct rondo_planned_buffer {
  const char* name;
  const char* dtype;
  const int64_t* shape;
  size_t rank;
  uint64_t bytes;
  uint64_t offset;  // in its arena
} rondo_planned_buffer;

typedef struct rondo_planned_arena {
  const char* name;
  uint64_t bytes;
  const rondo_planned_buffer* buffers;
  size_t buffer_count;
} rondo_planned_arena;

typedef struct rondo_memory_plan {
  const rondo_planned_arena* arenas;
  size_t arena_count;
  const int32_t* buckets;
  size_t bucket_count;
  int64_t pages;
  int64_t page_size;
  int64_t max_context;
  int64_t max_sequences;
  int64_t max_logit_rows;
  uint64_t total_bytes;
} rondo_memory_plan;

// What rondo_open(path, options) would allocate, to the byte; touches no device. To be freed with
// rondo_free_plan().
rondo_status rondo_plan_memory(const char* path, const rondo_options* options,
                               const rondo_memory_plan** plan);
void rondo_free_plan(const rondo_memory_plan* plan);

// What this machine has, in lines for a person; to be freed with rondo_free().
rondo_status rondo_doctor_report(char** text);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
