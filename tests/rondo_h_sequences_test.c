// runner/rondo.h from C: what a request can ask for, branches, drafts, saved sequences, threads, the log.
#include <math.h>
#include <pthread.h>

#include "tests/rondo_h_test.h"

static void lists_in_a_request_are_followed(void) {
  rondo_engine* engine = open_demo();
  rondo_request request = rondo_default_request();
  const int32_t two_words[] = {' ', 'h'}, dash[] = {'-'};
  const rondo_token_list stops[] = {{dash, 1}, {two_words, 2}};
  request.stop_sequences = stops;
  request.stop_sequence_count = 2;
  const rondo_sequence stopped = add_text(engine, "say 773=", &request);
  rondo_sampling sampling = rondo_default_sampling();
  const rondo_token_bias never[] = {{'1', -INFINITY}};
  sampling.logit_bias = never;
  sampling.logit_bias_count = 1;
  sampling.top_logprobs = 3;
  request = rondo_default_request();
  request.sampling = &sampling;
  request.max_new_tokens = 1;
  const rondo_sequence biased = add_text(engine, "36+79=", &request);
  const rondo_output* outputs;
  size_t count;
  while (rondo_busy(engine)) {
    NEED(rondo_step(engine, &outputs, &count));
    for (size_t i = 0; i < count; ++i) {
      const bool asked = outputs[i].sequence == biased;
      CHECK(outputs[i].top_logprob_count == (asked ? 3 : 0));
      if (!asked) continue;
      CHECK(outputs[i].token != '1' && outputs[i].finish == RONDO_FINISH_LENGTH);
      CHECK(outputs[i].top_logprobs[0].token == '1');  // of the raw logits
      CHECK(outputs[i].top_logprobs[0].logprob >= outputs[i].top_logprobs[1].logprob);
      CHECK(outputs[i].top_logprobs[0].logprob > outputs[i].logprob);
    }
  }
  CHECK(reads(engine, stopped, "say 773=seven h"));
  sampling.logit_bias_count = 1000;
  sampling.struct_size = 4;
  rondo_sequence none = 0;
  request.prompt = dash;
  request.prompt_count = 1;
  CHECK_FAILS(rondo_add(engine, &request, &none), RONDO_INVALID_ARGUMENT, "rondo_sampling: struct_size");
  rondo_close(engine);
}

struct logits_seen {
  int calls;
  int stop_at;
};

static int no_one(void* user, const int32_t* tokens, size_t token_count, float* logits, size_t vocab_size) {
  struct logits_seen* seen = user;
  CHECK(vocab_size == 256 && token_count >= 6 && tokens[0] == '3');
  logits['1'] = -INFINITY;
  return ++seen->calls == seen->stop_at ? 7 : 0;
}

static void a_callback_over_logits_changes_them_and_can_stop_a_step(void) {
  rondo_engine* engine = open_demo();
  struct logits_seen seen = {0, 1};
  rondo_request request = rondo_default_request();
  request.on_logits = no_one;
  request.on_logits_user = &seen;
  request.max_new_tokens = 2;
  const rondo_sequence sequence = add_text(engine, "36+79=", &request);
  const rondo_output* outputs;
  size_t count = 99;
  CHECK_FAILS(rondo_step(engine, &outputs, &count), RONDO_STOPPED, "on_logits: the callback returned 7");
  CHECK(count == 99);
  NEED(rondo_tokens(engine, sequence, NULL, 0, &count));
  CHECK(count == 6);  // that step has not happened
  run_to_the_end(engine);
  int32_t tokens[8];
  NEED(rondo_tokens(engine, sequence, tokens, 8, &count));
  CHECK(count == 8 && tokens[6] != '1' && tokens[7] != '1' && seen.calls == 3);
  rondo_close(engine);
}

static void forks_drafts_and_saved_sequences_give_the_same_tokens(void) {
  rondo_engine* engine = open_demo();
  const char* answer = "reverse stressed=desserts\n";
  rondo_sequence first = add_text(engine, "reverse stressed=", NULL), second = 0, third = 0;
  const rondo_output* outputs;
  size_t count, accepted = 0, size = 0;
  void* bytes = NULL;
  NEED(rondo_step(engine, &outputs, &count));
  NEED(rondo_step(engine, &outputs, &count));
  NEED(rondo_fork(engine, first, NULL, &second));
  int32_t drafts[8];
  NEED(rondo_tokens(engine, first, NULL, 0, &count));
  const size_t known = count;
  const size_t drafted = ids_of("esx", drafts);
  CHECK(known == strlen("reverse stressed=d"));  // two steps: 17 tokens of prompt, 16 rows

  NEED(rondo_verify(engine, first, drafts, drafted, &accepted));
  CHECK(accepted == 2);
  NEED(rondo_save(engine, second, &bytes, &size));
  NEED(rondo_restore(engine, bytes, size, &third));
  ((unsigned char*)bytes)[size / 2] ^= 1;
  rondo_sequence damaged = 0;
  CHECK_FAILS(rondo_restore(engine, bytes, size, &damaged), RONDO_INVALID_ARGUMENT, "");
  CHECK_FAILS(rondo_restore(engine, bytes, size - 1, &damaged), RONDO_INVALID_ARGUMENT, "");
  CHECK_FAILS(rondo_restore(engine, NULL, 10, &damaged), RONDO_INVALID_ARGUMENT, "bytes");
  rondo_free(bytes);
  run_to_the_end(engine);
  CHECK(first != second && second != third);
  CHECK(reads(engine, first, answer) && reads(engine, second, answer) && reads(engine, third, answer));
  CHECK_FAILS(rondo_verify(engine, first, drafts, 1, &accepted), RONDO_MISUSE, "");
  CHECK_FAILS(rondo_fork(engine, 999, NULL, &second), RONDO_INVALID_ARGUMENT, "999");
  rondo_stats stats = {.struct_size = sizeof(stats)};
  NEED(rondo_get_stats(engine, &stats));
  CHECK(stats.forks == 1 && stats.accepted_drafts == 2 && stats.drafted_tokens == 3);
  CHECK(stats.finished[RONDO_FINISH_STOP] == 3 && stats.pages_used == 0);
  uint64_t steps = 0;
  for (size_t i = 0; i <= stats.step_bound_count; ++i) steps += stats.step_counts[i];
  CHECK(steps == stats.steps);
  rondo_close(engine);
}

struct client {
  rondo_engine* engine;
  rondo_sequence kept, cancelled;
};

static void* ask(void* user) {
  struct client* client = user;
  client->kept = add_text(client->engine, "36+79=", NULL);
  client->cancelled = add_text(client->engine, "count 96 to 105=", NULL);
  CHECK(rondo_cancel(client->engine, client->cancelled) == RONDO_OK);
  return NULL;
}

static void other_threads_add_and_cancel_while_one_steps(void) {
  rondo_engine* engine = open_demo();
  struct client clients[4];
  pthread_t threads[4];
  bool ready = true;
  NEED(rondo_wait(engine, 0, &ready));
  CHECK(!ready);
  for (int i = 0; i < 4; ++i) {
    clients[i] = (struct client){engine, 0, 0};
    CHECK(pthread_create(&threads[i], NULL, ask, &clients[i]) == 0);
  }
  for (int ended = 0; ended < 8;) {
    const rondo_output* outputs;
    size_t count;
    NEED(rondo_wait(engine, 10, &ready));
    CHECK(ready);
    NEED(rondo_step(engine, &outputs, &count));
    for (size_t i = 0; i < count; ++i) ended += outputs[i].finish != RONDO_FINISH_NONE;
  }
  for (int i = 0; i < 4; ++i) {
    rondo_finish finish;
    CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(reads(engine, clients[i].kept, "36+79=115\n"));
    NEED(rondo_finish_reason(engine, clients[i].cancelled, &finish));
    CHECK(finish == RONDO_FINISH_CANCELLED);
  }
  rondo_close(engine);
}

static void count_events(void* user, const rondo_event* event) {
  int* counts = user;
  CHECK(event->struct_size == sizeof(rondo_event));
  CHECK(event->kind <= RONDO_EVENT_STEP);
  if (event->kind == RONDO_EVENT_STEP) {
    CHECK(event->step == (uint64_t)counts[RONDO_EVENT_STEP] && event->length > 0);
    CHECK(!event->again && !event->ahead);  // the CPU has no graphs
  }
  ++counts[event->kind];
  if (event->kind == RONDO_EVENT_FINISH) CHECK(event->finish == RONDO_FINISH_STOP && event->sequence != 0);
}

static void the_log_and_the_scraper_are_told(void) {
  int counts[RONDO_EVENT_STEP + 1] = {0};
  rondo_options options = small_options();
  options.on_event = count_events;
  options.on_event_user = counts;
  rondo_engine* engine = NULL;
  NEED(rondo_open(RONDO_SOURCE_DIR "/models/demo", &options, &engine));
  add_text(engine, "36+79=", NULL);
  run_to_the_end(engine);
  CHECK(counts[RONDO_EVENT_ADD] == 1 && counts[RONDO_EVENT_ADMIT] == 1 && counts[RONDO_EVENT_FINISH] == 1);
  CHECK(counts[RONDO_EVENT_STEP] == 4 && counts[RONDO_EVENT_PREEMPT] == 0);
  char* text = NULL;
  NEED(rondo_prometheus_text(engine, &text));
  CHECK(strstr(text, "rondo_") != NULL && text[strlen(text) - 1] == '\n');
  rondo_free(text);
  rondo_close(engine);
}

void test_sequences(void) {
  lists_in_a_request_are_followed();
  a_callback_over_logits_changes_them_and_can_stop_a_step();
  forks_drafts_and_saved_sequences_give_the_same_tokens();
  other_threads_add_and_cancel_while_one_steps();
  the_log_and_the_scraper_are_told();
}
