// Stats in the Prometheus text exposition format.
#include <fmt/format.h>

#include "runner/engine.h"

namespace rondo {
namespace {

class Exposition {
 public:
  void family(const char* name, const char* type, const char* help) {
    name_ = name;
    text += fmt::format("# HELP rondo_{} {}\n# TYPE rondo_{} {}\n", name, help, name, type);
  }
  template <class T>
  void value(const std::string& labels, T number, const char* suffix = "") {
    text += fmt::format("rondo_{}{}{} {}\n", name_, suffix, labels.empty() ? "" : "{" + labels + "}", number);
  }
  template <class T>
  void counter(const char* name, const char* help, T number) {
    family(name, "counter", help);
    value("", number);
  }
  template <class T>
  void gauge(const char* name, const char* help, T number) {
    family(name, "gauge", help);
    value("", number);
  }
  std::string text;

 private:
  std::string name_;
};

// A label's value, quoted.
std::string quoted(const std::string& value) {
  std::string text = "\"";
  for (char c : value) {
    if (c == '\\' || c == '"') text += '\\';
    if (c == '\n')
      text += "\\n";
    else
      text += c;
  }
  return text + "\"";
}

void write_buckets(Exposition& out, const Stats& s) {
  const auto each = [&](const char* name, const char* help, auto value) {
    out.family(name, "gauge", help);
    for (const BucketStats& bucket : s.buckets)
      out.value(fmt::format("rows=\"{}\"", bucket.rows), value(bucket));
  };
  if (s.buckets.empty()) return;
  each("graph_capture_seconds", "Time to capture, instantiate and upload the graph of a row bucket.",
       [](const BucketStats& b) { return (b.capture_ms + b.instantiate_ms + b.upload_ms) / 1000; });
  each("graph_nodes", "Nodes of a row bucket's graph.", [](const BucketStats& b) { return b.nodes; });
  each("graph_device_bytes", "Device memory that a row bucket's graph took.",
       [](const BucketStats& b) { return b.device_bytes; });
}

void write_step_times(Exposition& out, const StepTimes& times) {
  out.family("step_seconds", "histogram", "Time that steps took.");
  uint64_t up_to = 0;
  for (size_t i = 0; i < times.bounds.size(); ++i)
    out.value(fmt::format("le=\"{}\"", times.bounds[i]), up_to += times.counts[i], "_bucket");
  out.value("le=\"+Inf\"", up_to += times.counts.back(), "_bucket");
  out.value("", times.sum_seconds, "_sum");
  out.value("", up_to, "_count");
}

}  // namespace

std::string prometheus_text(const Stats& s) {
  Exposition out;
  out.family("info", "gauge", "What runs; always 1.");
  out.value(fmt::format("version={},device={},backend={},graph={},one_launch={}", quoted(version()),
                        quoted(s.device), quoted(s.backend), quoted(s.graph), quoted(s.one_launch)),
            1);
  out.counter("steps_total", "Decode steps.", s.steps);
  out.counter("replays_total", "Steps that were one graph launch.", s.replays);
  out.family("eager_total", "counter", "Runs outside a graph, by reason.");
  out.value("reason=\"off\"", s.eager_off);
  out.value("reason=\"warm_up\"", s.eager_warm_up);
  out.value("reason=\"on_logits\"", s.eager_samples);
  out.counter("host_logit_rows_total", "Logit rows that a callback was called for.", s.host_logit_rows);
  out.counter("loops_total", "Launches of a loop of steps.", s.loops);
  out.counter("loop_steps_total", "Steps made by loops.", s.loop_steps);
  out.counter("steps_ahead_total", "Steps enqueued before the one in front had been made.", s.steps_ahead);
  out.counter("rows_total", "Rows that were tokens.", s.rows);
  out.counter("padded_rows_total", "Rows that filled a bucket.", s.padded_rows);
  out.counter("wasted_rows_total", "Rows of sequences that ended while their step was in flight.",
              s.wasted_rows);
  out.counter("tokens_total", "Tokens made.", s.tokens);
  out.counter("host_seconds_total", "Time in steps, the wait for the device apart.", s.host_seconds);
  out.counter("wait_seconds_total", "Time in which steps waited for the device.", s.wait_seconds);
  out.gauge("sequences_waiting", "Sequences in the queue.", s.waiting);
  out.gauge("sequences_running", "Sequences with a slot.", s.running);
  out.family("sequences_finished_total", "counter", "Sequences ended, by reason.");
  for (size_t i = 1; i < s.finished.size(); ++i)
    out.value(fmt::format("reason=\"{}\"", finish_reason_name(static_cast<FinishReason>(i))), s.finished[i]);
  out.counter("preemptions_total", "Sequences that lost their K/V pages and were queued again.",
              s.preemptions);
  out.gauge("pages", "K/V pages that can be used.", s.pages);
  out.gauge("pages_used", "K/V pages that sequences hold.", s.pages_used);
  out.gauge("pages_shared", "K/V pages that more than one sequence holds.", s.pages_shared);
  out.gauge("pages_cached", "K/V pages that none holds, kept for equal prefixes.", s.pages_cached);
  out.counter("page_copies_total", "K/V pages copied before one of several holders wrote.", s.page_copies);
  out.counter("prefix_lookups_total", "Admissions that looked for pages to share.", s.prefix_lookups);
  out.counter("prefix_hits_total", "Admissions that found pages to share.", s.prefix_hits);
  out.counter("prefix_tokens_total", "Positions that were not computed, since their pages were shared.",
              s.prefix_tokens);
  out.counter("forks_total", "Sequences forked.", s.forks);
  out.counter("drafted_tokens_total", "Guesses checked.", s.drafted_tokens);
  out.counter("accepted_drafts_total", "Guesses that were right.", s.accepted_drafts);
  out.gauge("weight_bytes", "Bytes of weights on the device.", s.weight_bytes);
  out.gauge("device_bytes", "Bytes of all arenas on the device.", s.device_bytes);
  write_buckets(out, s);
  write_step_times(out, s.step_times);
  return std::move(out.text);
}

}  // namespace rondo
