// What the pieces of C in docs/embedding.md stand on; guide_test.sh puts each behind this.
#include <math.h>
#include <rondo/rondo.h>
#include <stdio.h>

static int run_piece(void (*piece)(rondo_engine*)) {
  rondo_options options = rondo_default_options();
  options.device = RONDO_DEVICE_CPU;
  options.max_sequences = 4;
  rondo_engine* engine;
  if (rondo_open("models/demo", &options, &engine) != RONDO_OK) return 1;
  piece(engine);
  rondo_close(engine);
  return 0;
}
