// runner/rondo.h from C: versions of structs, errors, opening, sequences, steps, counters, the memory plan.
#include "tests/rondo_h_test.h"

#include <pthread.h>
#include <stddef.h>

int failures = 0;

rondo_options small_options(void) {
  rondo_options options = rondo_default_options();
  options.device = RONDO_DEVICE_CPU;
  options.max_rows = 16;
  options.max_sequences = 4;
  options.threads = 2;
  return options;
}

rondo_engine* open_demo(void) {
  const rondo_options options = small_options();
  rondo_engine* engine = NULL;
  NEED(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine));
  return engine;
}

size_t ids_of(const char* text, int32_t* ids) {
  size_t count = 0;
  for (; text[count]; ++count) ids[count] = (unsigned char)text[count];
  return count;
}

rondo_sequence add_text(rondo_engine* engine, const char* text, const rondo_request* as) {
  rondo_request request = as ? *as : rondo_default_request();
  int32_t ids[256];
  rondo_sequence sequence = 0;
  request.prompt = ids;
  request.prompt_count = ids_of(text, ids);
  NEED(rondo_add(engine, &request, &sequence));
  return sequence;
}

void run_to_the_end(rondo_engine* engine) {
  const rondo_output* outputs;
  size_t count;
  while (rondo_busy(engine)) NEED(rondo_step(engine, &outputs, &count));
}

bool reads(const rondo_engine* engine, rondo_sequence sequence, const char* text) {
  int32_t tokens[256], expected[256];
  size_t count = 0;
  NEED(rondo_tokens(engine, sequence, tokens, 256, &count));
  return count == ids_of(text, expected) && memcmp(tokens, expected, count * sizeof(int32_t)) == 0;
}

static void the_defaults_are_the_engines(void) {
  const rondo_options options = rondo_default_options();
  const rondo_sampling sampling = rondo_default_sampling();
  const rondo_request request = rondo_default_request();
  CHECK(options.struct_size == sizeof(options) && options.abi_version == RONDO_ABI_VERSION);
  CHECK(options.max_rows == 64 && options.max_sequences == 16 && options.page_size == 32 &&
        options.share_prefixes);
  CHECK(options.device == RONDO_DEVICE_AUTO && options.graph == RONDO_GRAPH_AUTO && options.max_context == 0);
  CHECK(sampling.temperature == 0 && sampling.top_p == 1 && sampling.repetition_penalty == 1);
  CHECK(request.max_new_tokens == 128 && request.draft_ngram == 3 && request.prompt == NULL);
  CHECK(rondo_abi_version() == RONDO_ABI_VERSION);
  CHECK(strlen(rondo_version()) >= 5);
}

static void a_struct_of_another_size_is_read_as_far_as_it_is_known(void) {
  struct {
    rondo_options known;
    uint64_t newer;
  } larger;
  rondo_engine* engine = NULL;
  NEED(rondo_init_options(&larger.known, sizeof(larger), RONDO_ABI_VERSION));
  CHECK(larger.known.struct_size == sizeof(larger) && larger.newer == 0 && larger.known.max_rows == 64);
  larger.known.device = RONDO_DEVICE_CPU;
  NEED(rondo_open(RONDO_SOURCE_DIR "/models/demo", &larger.known, &engine));
  rondo_close(engine);
  larger.newer = 1;
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/models/demo", &larger.known, &engine), RONDO_INVALID_ARGUMENT,
              "newer rondo.h");
  CHECK(engine == NULL);

  rondo_options options = small_options();
  options.struct_size = 8;
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine), RONDO_INVALID_ARGUMENT,
              "found 8");
  CHECK_FAILS(rondo_init_options(&options, 8, RONDO_ABI_VERSION), RONDO_INVALID_ARGUMENT, "found 8");
  options = small_options();
  options.abi_version = RONDO_ABI_VERSION + 1;
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine), RONDO_INVALID_ARGUMENT,
              "abi_version: expected");
}

static void null_is_an_error_and_not_a_crash(void) {
  rondo_engine* engine = NULL;
  rondo_sequence sequence = 0;
  const rondo_request request = rondo_default_request();
  const rondo_output* outputs;
  size_t count;
  CHECK_FAILS(rondo_open("x", NULL, NULL), RONDO_INVALID_ARGUMENT,
              "rondo_open: engine: expected a pointer, found NULL");
  CHECK_FAILS(rondo_open(NULL, NULL, &engine), RONDO_INVALID_ARGUMENT, "path");
  CHECK_FAILS(rondo_add(NULL, &request, &sequence), RONDO_INVALID_ARGUMENT, "engine");
  CHECK_FAILS(rondo_step(NULL, &outputs, &count), RONDO_INVALID_ARGUMENT, "engine");
  CHECK_FAILS(rondo_cancel(NULL, 1), RONDO_INVALID_ARGUMENT, "engine");
  CHECK_FAILS(rondo_plan_memory(NULL, NULL, NULL), RONDO_INVALID_ARGUMENT, "path");
  CHECK_FAILS(rondo_doctor_report(NULL), RONDO_INVALID_ARGUMENT, "text");
  CHECK(rondo_busy(NULL));  // so that a loop meets the error in rondo_step
  CHECK(rondo_vocab_size(NULL) == 0);
  rondo_close(NULL);
  rondo_free(NULL);
  rondo_free_plan(NULL);

  engine = open_demo();
  CHECK_FAILS(rondo_add(engine, NULL, &sequence), RONDO_INVALID_ARGUMENT, "request");
  CHECK_FAILS(rondo_add(engine, &request, NULL), RONDO_INVALID_ARGUMENT, "sequence");
  CHECK_FAILS(rondo_tokens(engine, 1, NULL, 0, NULL), RONDO_INVALID_ARGUMENT, "1");
  CHECK_FAILS(rondo_step(engine, NULL, &count), RONDO_INVALID_ARGUMENT, "outputs");
  CHECK_FAILS(rondo_get_stats(engine, NULL), RONDO_INVALID_ARGUMENT, "stats");
  rondo_request without = rondo_default_request();
  without.prompt_count = 3;
  CHECK_FAILS(rondo_add(engine, &without, &sequence), RONDO_INVALID_ARGUMENT, "prompt: expected a pointer");
  CHECK_FAILS(rondo_score(engine, NULL, 0, NULL, NULL), RONDO_INVALID_ARGUMENT, "each");
  rondo_close(engine);
}

static void errors_have_a_status_and_say_what_was_found(void) {
  rondo_engine* engine = (rondo_engine*)&failures;  // anything that is not NULL
  CHECK_FAILS(rondo_open("/nonexistent/checkpoint", NULL, &engine), RONDO_INVALID_ARGUMENT,
              "/nonexistent/checkpoint");
  CHECK(engine == NULL);
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/tests", NULL, &engine), RONDO_INVALID_MODEL, "config.json");
  rondo_options options = small_options();
  options.graph = 9;
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine), RONDO_INVALID_ARGUMENT,
              "found 9");

  engine = open_demo();
  rondo_request request = rondo_default_request();
  const int32_t outside[] = {65, 256};
  rondo_sequence sequence = 77;
  request.prompt = outside;
  request.prompt_count = 2;
  CHECK_FAILS(rondo_add(engine, &request, &sequence), RONDO_INVALID_ARGUMENT, "256");
  CHECK(sequence == 77 && !rondo_busy(engine));
  rondo_sampling sampling = rondo_default_sampling();
  sampling.top_p = 2;
  request.sampling = &sampling;
  request.prompt_count = 1;
  CHECK_FAILS(rondo_add(engine, &request, &sequence), RONDO_INVALID_ARGUMENT, "top_p");
  const int32_t long_prompt[257] = {0};
  request.sampling = NULL;
  request.prompt = long_prompt;
  request.prompt_count = 257;
  CHECK_FAILS(rondo_add(engine, &request, &sequence), RONDO_CONTEXT_FULL, "257");
  CHECK_FAILS(rondo_remove(engine, 12345), RONDO_INVALID_ARGUMENT, "12345");
  CHECK(strcmp(rondo_status_name(RONDO_CONTEXT_FULL), "ContextFull") == 0);
  CHECK(strcmp(rondo_status_name(99), "unknown") == 0 && strcmp(rondo_finish_name(99), "unknown") == 0);
  CHECK(strcmp(rondo_finish_name(RONDO_FINISH_STOP), "stop") == 0);
  rondo_close(engine);
}

static void* fail_elsewhere(void* engine) {
  CHECK(strcmp(rondo_last_error(), "") == 0);  // a new thread has failed at nothing
  CHECK_FAILS(rondo_remove(engine, 222), RONDO_INVALID_ARGUMENT, "222");
  return NULL;
}

static void the_last_error_is_this_threads(void) {
  rondo_engine* engine = open_demo();
  pthread_t thread;
  CHECK_FAILS(rondo_remove(engine, 111), RONDO_INVALID_ARGUMENT, "111");
  CHECK(pthread_create(&thread, NULL, fail_elsewhere, engine) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(strstr(rondo_last_error(), "111") != NULL);
  rondo_close(engine);
}

struct progress {
  uint64_t calls, done, total;
  int answer;
};

static int note_progress(void* user, uint64_t done, uint64_t total) {
  struct progress* progress = user;
  ++progress->calls;
  progress->done = done;
  progress->total = total;
  return progress->answer;
}

static void progress_is_told_and_can_end_the_load(void) {
  struct progress progress = {0};
  rondo_options options = small_options();
  rondo_engine* engine = NULL;
  options.progress = note_progress;
  options.progress_user = &progress;
  NEED(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine));
  CHECK(progress.calls > 1 && progress.done == progress.total && progress.total > 3000000);
  rondo_close(engine);
  progress = (struct progress){.answer = 3};
  CHECK_FAILS(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine), RONDO_STOPPED, "returned 3");
  CHECK(progress.calls == 1 && engine == NULL);
}

static void several_sequences_are_answered_at_once(void) {
  rondo_engine* engine = open_demo();
  const rondo_sequence sum = add_text(engine, "36+79=", NULL),
                       word = add_text(engine, "reverse stressed=", NULL);
  const int32_t* eos;
  size_t count, made = 0;
  rondo_finish finish;
  NEED(rondo_eos_token_ids(engine, &eos, &count));
  CHECK(count == 1 && eos[0] == '\n');
  CHECK(rondo_vocab_size(engine) == 256 && rondo_max_context(engine) == 256);
  CHECK(rondo_busy(engine));
  while (rondo_busy(engine)) {
    const rondo_output* outputs;
    NEED(rondo_step(engine, &outputs, &count));
    for (size_t i = 0; i < count; ++i) {
      CHECK(outputs[i].sequence == sum || outputs[i].sequence == word);
      CHECK(outputs[i].logprob <= 0 && outputs[i].logprob > -1);  // the demo model is sure of its answers
      CHECK((outputs[i].finish == RONDO_FINISH_STOP) == (outputs[i].token == '\n'));
      ++made;
    }
  }
  CHECK(made == strlen("115\n") + strlen("desserts\n"));
  CHECK(reads(engine, sum, "36+79=115\n") && reads(engine, word, "reverse stressed=desserts\n"));
  NEED(rondo_finish_reason(engine, sum, &finish));
  CHECK(finish == RONDO_FINISH_STOP);

  // As many ids as there is room for, and the count of all.
  int32_t first[3] = {0, 0, -7};
  NEED(rondo_tokens(engine, sum, first, 2, &count));
  CHECK(count == 10 && first[0] == '3' && first[1] == '6' && first[2] == -7);
  NEED(rondo_tokens(engine, sum, NULL, 0, &count));
  CHECK(count == 10);
  NEED(rondo_remove(engine, sum));
  CHECK_FAILS(rondo_tokens(engine, sum, NULL, 0, &count), RONDO_INVALID_ARGUMENT, "");
  rondo_close(engine);
}

static void sequences_are_cancelled_and_go_on_from_a_cut(void) {
  rondo_engine* engine = open_demo();
  rondo_request request = rondo_default_request();
  const int32_t one[] = {'1'};
  rondo_finish finish;
  request.stop_ids = one;
  request.stop_id_count = 1;
  const rondo_sequence stopped = add_text(engine, "36+79=", &request),
                       cancelled = add_text(engine, "say 773=", NULL);
  NEED(rondo_cancel(engine, cancelled));
  run_to_the_end(engine);
  CHECK(reads(engine, stopped, "36+79=1") && reads(engine, cancelled, "say 773="));
  NEED(rondo_finish_reason(engine, cancelled, &finish));
  CHECK(finish == RONDO_FINISH_CANCELLED);
  NEED(rondo_resume(engine, cancelled, 8, 5));
  run_to_the_end(engine);
  CHECK(reads(engine, cancelled, "say 773=seven"));
  NEED(rondo_finish_reason(engine, cancelled, &finish));
  CHECK(finish == RONDO_FINISH_LENGTH);
  rondo_close(engine);
}

static int first_then_stop(void* user, int64_t position, const float* logits, size_t vocab_size) {
  int* calls = user;
  CHECK(position == *calls && vocab_size == 256 && logits[0] == logits[0]);
  return ++*calls == 2;
}

static void a_score_can_be_stopped_and_the_engine_goes_on(void) {
  rondo_engine* engine = open_demo();
  int32_t ids[16];
  int calls = 0;
  CHECK_FAILS(rondo_score(engine, ids, ids_of("36+79=", ids), first_then_stop, &calls), RONDO_STOPPED,
              "each");
  CHECK(calls == 2 && !rondo_busy(engine));
  const rondo_sequence sum = add_text(engine, "36+79=", NULL);
  run_to_the_end(engine);
  CHECK(reads(engine, sum, "36+79=115\n"));
  rondo_close(engine);
}

static int until_the_third(void* user, const rondo_output* output) {
  int* calls = user;
  CHECK(output->token >= 0 && output->logprob <= 0);
  return ++*calls == 3;
}

static void generation_can_be_stopped_and_goes_on_where_it_was(void) {
  rondo_engine* engine = open_demo();
  const rondo_sequence sum = add_text(engine, "36+79=", NULL),
                       word = add_text(engine, "reverse stressed=", NULL);
  int calls = 0;
  CHECK_FAILS(rondo_generate(engine, NULL, NULL), RONDO_INVALID_ARGUMENT, "each");
  CHECK_FAILS(rondo_generate(engine, until_the_third, &calls), RONDO_STOPPED, "each");
  CHECK(calls == 3 && rondo_busy(engine));
  NEED(rondo_generate(engine, until_the_third, &calls));
  CHECK(calls == (int)(strlen("115\n") + strlen("desserts\n")) && !rondo_busy(engine));
  CHECK(reads(engine, sum, "36+79=115\n") && reads(engine, word, "reverse stressed=desserts\n"));
  rondo_close(engine);
}

static void the_plan_is_what_the_engine_takes(void) {
  const rondo_options options = small_options();
  const rondo_memory_plan* plan = NULL;
  rondo_engine* engine = open_demo();
  rondo_stats stats = {.struct_size = sizeof(stats)};
  NEED(rondo_plan_memory(RONDO_SOURCE_DIR "/models/demo", &options, &plan));
  add_text(engine, "36+79=", NULL);
  run_to_the_end(engine);
  NEED(rondo_get_stats(engine, &stats));
  CHECK(stats.struct_size == sizeof(stats) && plan->total_bytes == stats.device_bytes &&
        stats.weight_bytes > 3000000);
  CHECK(stats.tokens == 4 && stats.rows == 9 && stats.pages_used == 0);
  CHECK(strcmp(stats.backend, "cpu") == 0 && strcmp(stats.graph, "off") == 0 && strlen(stats.device) > 0);
  CHECK(stats.form_count > 0 && strcmp(stats.forms[0].verb, "embed") == 0 && stats.forms[0].rows == 1 &&
        strncmp(stats.forms[1].kernels, "rms_norm + multiply", 19) == 0);
  CHECK(stats.step_bound_count == 14 && stats.step_bounds[0] < stats.step_bounds[13]);
  uint64_t bytes = 0;
  CHECK(plan->arena_count == 3 && strcmp(plan->arenas[0].name, "weights") == 0);
  for (size_t a = 0; a < plan->arena_count; ++a) {
    const rondo_planned_arena* arena = &plan->arenas[a];
    bytes += arena->bytes;
    CHECK(arena->buffer_count > 0);
    for (size_t b = 0; b < arena->buffer_count; ++b) {
      CHECK(arena->buffers[b].offset + arena->buffers[b].bytes <= arena->bytes);
      CHECK(strlen(arena->buffers[b].name) > 0 && strlen(arena->buffers[b].dtype) > 0);
      if (strcmp(arena->buffers[b].name, "model.embed_tokens.weight") == 0) {
        const int64_t* shape = arena->buffers[b].shape;
        CHECK(arena->buffers[b].rank == 2 && shape[0] == 256 && shape[1] == 192);
      }
    }
  }
  CHECK(bytes == plan->total_bytes && plan->page_size == 32 && plan->max_sequences == 4);
  CHECK(plan->bucket_count > 0 && plan->buckets[plan->bucket_count - 1] == 16);
  rondo_free_plan(plan);

  stats.struct_size = 16;
  CHECK_FAILS(rondo_get_stats(engine, &stats), RONDO_INVALID_ARGUMENT, "found 16");
  char* report = NULL;
  NEED(rondo_doctor_report(&report));
  CHECK(strstr(report, rondo_version()) != NULL);
  rondo_free(report);
  rondo_close(engine);
}

int main(void) {
  static void (*const tests[])(void) = {the_defaults_are_the_engines,
                                        a_struct_of_another_size_is_read_as_far_as_it_is_known,
                                        null_is_an_error_and_not_a_crash,
                                        errors_have_a_status_and_say_what_was_found,
                                        the_last_error_is_this_threads,
                                        progress_is_told_and_can_end_the_load,
                                        several_sequences_are_answered_at_once,
                                        sequences_are_cancelled_and_go_on_from_a_cut,
                                        generation_can_be_stopped_and_goes_on_where_it_was,
                                        a_score_can_be_stopped_and_the_engine_goes_on,
                                        the_plan_is_what_the_engine_takes,
                                        test_sequences};
  for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); ++i) tests[i]();
  printf("%d checks failed\n", failures);
  return failures ? 1 : 0;
}
