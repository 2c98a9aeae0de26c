// One prompt from C, its answer as it is made.
//
//   ./complete models/demo "36+79="
//   cc complete.c $(pkg-config --cflags --libs rondo) -o complete
//
// A token is a byte here; a model with a tokenizer of its own takes and gives ids.
#include <rondo/rondo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(void) {
  fprintf(stderr, "complete: %s\n", rondo_last_error());
  return 2;
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: complete CHECKPOINT PROMPT\n"), 2;

  rondo_options options = rondo_default_options();
  options.max_sequences = 1;
  rondo_engine* engine;
  if (rondo_open(argv[1], &options, &engine) != RONDO_OK) return fail();

  const size_t length = strlen(argv[2]);
  int32_t* prompt = malloc((length + 1) * sizeof(*prompt));
  if (!prompt) return 1;
  for (size_t i = 0; i < length; ++i) prompt[i] = (unsigned char)argv[2][i];

  rondo_request request = rondo_default_request();
  request.prompt = prompt;
  request.prompt_count = length;
  rondo_sequence sequence;
  rondo_status status = rondo_add(engine, &request, &sequence);
  free(prompt);  // copied

  while (status == RONDO_OK && rondo_busy(engine)) {
    const rondo_output* outputs;
    size_t count;
    status = rondo_step(engine, &outputs, &count);
    for (size_t i = 0; status == RONDO_OK && i < count; ++i) {
      if (outputs[i].token >= 0) putchar(outputs[i].token);
      fflush(stdout);
    }
  }
  const int result = status == RONDO_OK ? 0 : fail();
  rondo_close(engine);
  return result;
}
