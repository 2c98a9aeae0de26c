#include "runner/tune.h"

#include <algorithm>
#include <limits>
#include <memory>

namespace rondo {
namespace {

constexpr int kRunsOfOneVerb =
    8;                     // of a chain: those that a step runs once, and that a timer would see little of
constexpr int kTurns = 3;  // the best of them counts: another's work on the device only ever adds
// What another form must take of the first one's time to be chosen: a verb that is faster by less alone need
// not be so in a step, among other kernels.
constexpr double kClearly = 0.97;

}  // namespace

int run_chain(Ops& ops, const Model& model, const StepBuffers& buffers, Verb verb, Bucket bucket) {
  const auto each_layer = [&](auto&& call) {
    for (const Layer& layer : model.layers) call(layer);
    return static_cast<int>(model.layers.size());
  };
  const auto several = [&](auto&& call) {
    for (int i = 0; i < kRunsOfOneVerb; ++i) call();
    return kRunsOfOneVerb;
  };
  switch (verb) {
    case Verb::Embed: return several([&] { ops.embed(bucket); });
    case Verb::Qkv: return each_layer([&](const Layer& l) { ops.qkv(bucket, l); });
    case Verb::Attend: return each_layer([&](const Layer& l) { ops.attend(bucket, l); });
    case Verb::OProj:
      return each_layer([&](const Layer& l) { ops.add_project(bucket, buffers.o, l.o_proj, l.mlp_norm); });
    case Verb::GateUp: return each_layer([&](const Layer& l) { ops.gate_up(bucket, l); });
    case Verb::DownProj:
      return each_layer(
          [&](const Layer& l) { ops.add_project(bucket, buffers.h, l.down_proj, l.attention_norm); });
    case Verb::Logits: return several([&] { ops.logits(bucket); });
    case Verb::Sample: return several([&] { ops.sample(bucket); });
  }
  return 0;
}

void tune(Ops& ops, Device& device, const Model& model, const StepBuffers& buffers,
          const std::vector<Bucket>& buckets) {
  for (const Bucket bucket : buckets) {
    ops.embed(bucket);
    for (const Verb verb : kVerbs) {
      const size_t forms = ops.forms(verb, bucket);
      if (forms < 2) continue;
      std::vector<double> times;
      for (size_t form = 0; form < forms; ++form) {
        ops.choose(verb, bucket, form);
        run_chain(ops, model, buffers, verb, bucket);  // what is loaded on the first run is loaded
        double ms = std::numeric_limits<double>::infinity();
        for (int turn = 0; turn < kTurns; ++turn) {
          const auto start = device.make_timed_event(), end = device.make_timed_event();
          start->record();
          run_chain(ops, model, buffers, verb, bucket);
          end->record();
          end->wait();
          ms = std::min(ms, end->elapsed_ms(*start));
        }
        times.push_back(ms);
      }
      const auto least = std::min_element(times.begin(), times.end());
      const bool clearly = *least < kClearly * times[0];
      ops.choose(verb, bucket, clearly ? static_cast<size_t>(least - times.begin()) : 0);
    }
  }
}

std::vector<FormStats> list_forms(const Ops& ops, const std::vector<Bucket>& buckets) {
  std::vector<FormStats> all;
  for (const Bucket bucket : buckets)
    for (const Verb verb : kVerbs) all.push_back({bucket.rows, verb_name(verb), ops.kernels(verb, bucket)});
  return all;
}

}  // namespace rondo
