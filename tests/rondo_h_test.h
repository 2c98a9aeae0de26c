// What the tests of runner/rondo.h share; C11, like everything that includes rondo.h here.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner/rondo.h"

extern int failures;

#define CHECK(condition)                                                                      \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      ++failures;                                                                             \
      fprintf(stderr, "%s:%d: expected %s; last error: %s\n", __FILE__, __LINE__, #condition, \
              rondo_last_error());                                                            \
    }                                                                                         \
  } while (0)

// A call that must fail, with a status and with words that its message must have.
#define CHECK_FAILS(call, expected, words)                                                              \
  do {                                                                                                  \
    const rondo_status found = (call);                                                                  \
    if (found != (expected) || !strstr(rondo_last_error(), words)) {                                    \
      ++failures;                                                                                       \
      fprintf(stderr, "%s:%d: %s: expected %s with \"%s\", found %s with \"%s\"\n", __FILE__, __LINE__, \
              #call, rondo_status_name(expected), words, rondo_status_name(found), rondo_last_error()); \
    }                                                                                                   \
  } while (0)

// What all else needs: without it the program ends.
#define NEED(call)                                                                       \
  do {                                                                                   \
    if ((call) != RONDO_OK) {                                                            \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, rondo_last_error()); \
      exit(1);                                                                           \
    }                                                                                    \
  } while (0)

// The demo checkpoint on the CPU; ids[0..count) are the bytes of a text.
rondo_engine* open_demo(void);
rondo_options small_options(void);
size_t ids_of(const char* text, int32_t* ids);
rondo_sequence add_text(rondo_engine* engine, const char* text, const rondo_request* as);
void run_to_the_end(rondo_engine* engine);
// Whether a sequence's tokens, the prompt's first, are the bytes of `text`.
bool reads(const rondo_engine* engine, rondo_sequence sequence, const char* text);

// rondo_h_sequences_test.c
void test_sequences(void);
