// runner/rondo.h over what can be done with a sequence beside running it, and what runs beside the steps.
#include "runner/rondo_c.h"

using namespace rondo::c;

rondo_status rondo_fork(rondo_engine* engine, rondo_sequence source, const rondo_sampling* sampling,
                        rondo_sequence* fork) {
  return guarded([&] {
    need(engine, "rondo_fork: engine");
    need(fork, "rondo_fork: fork");
    *fork = engine->engine.fork(source, to_sampling(sampling));
  });
}

rondo_status rondo_verify(rondo_engine* engine, rondo_sequence sequence, const int32_t* drafts,
                          size_t draft_count, size_t* accepted) {
  return guarded([&] {
    need(engine, "rondo_verify: engine");
    need(accepted, "rondo_verify: accepted");
    const auto ids = list(drafts, draft_count, "rondo_verify: drafts");
    *accepted = static_cast<size_t>(engine->engine.verify(sequence, {ids.begin(), ids.end()}));
  });
}

rondo_status rondo_wait(rondo_engine* engine, double seconds, bool* ready) {
  return guarded([&] {
    need(engine, "rondo_wait: engine");
    need(ready, "rondo_wait: ready");
    *ready = engine->engine.wait(seconds);
  });
}

rondo_status rondo_save(rondo_engine* engine, rondo_sequence sequence, void** bytes, size_t* size) {
  return guarded([&] {
    need(engine, "rondo_save: engine");
    need(bytes, "rondo_save: bytes");
    need(size, "rondo_save: size");
    const auto saved = engine->engine.save(sequence);
    *bytes = copy_out(saved.data(), saved.size());
    *size = saved.size();
  });
}

rondo_status rondo_restore(rondo_engine* engine, const void* bytes, size_t size, rondo_sequence* sequence) {
  return guarded([&] {
    need(engine, "rondo_restore: engine");
    need(sequence, "rondo_restore: sequence");
    *sequence =
        engine->engine.restore(list(static_cast<const std::byte*>(bytes), size, "rondo_restore: bytes"));
  });
}

rondo_status rondo_prometheus_text(rondo_engine* engine, char** text) {
  return guarded([&] {
    need(engine, "rondo_prometheus_text: engine");
    need(text, "rondo_prometheus_text: text");
    *text = copy_out(rondo::prometheus_text(engine->engine.stats()));
  });
}
