#include "runner/bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>

namespace rondo::bench {
namespace {

using Json = nlohmann::ordered_json;

// Nine significant digits hold all that a clock of nanoseconds says.
Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{:.9g}", value).c_str(), nullptr);
}

Json json_of(const Environment& e) {
  return {{"version", e.version},
          {"commit", e.commit},
          {"build", e.build},
          {"device", e.device},
          {"backend", e.backend},
          {"platform", e.platform},
          {"clock_mhz", e.clock_mhz ? Json(e.clock_mhz) : Json(nullptr)},
          {"max_clock_mhz", e.max_clock_mhz ? Json(e.max_clock_mhz) : Json(nullptr)},
          {"memory_clock_mhz", e.memory_clock_mhz ? Json(e.memory_clock_mhz) : Json(nullptr)},
          {"time", e.time},
          {"line", environment_line(e)}};
}

Json json_of(const Report& r) {
  return {{"model", r.model},
          {"dtype", r.dtype},
          {"random_weights", r.random_weights},
          {"max_context", r.max_context},
          {"max_rows", r.max_rows},
          {"page_size", r.page_size},
          {"weight_bytes_per_step", r.weight_bytes},
          {"notes", r.notes},
          {"interrupted", r.interrupted}};
}

Json json_of(const Ceiling& c) {
  return {{"threads", c.threads},
          {"gb_per_second", rounded(c.gb_s)},
          {"gb_per_second_at_end", rounded(c.gb_s_at_end)}};
}

Json json_of(const BucketCost& b) {
  return {{"rows", b.rows},
          {"capture_ms", rounded(b.cost.capture_ms)},
          {"instantiate_ms", rounded(b.cost.instantiate_ms)},
          {"upload_ms", rounded(b.cost.upload_ms)},
          {"nodes", b.cost.nodes},
          {"device_bytes", b.cost.device_bytes}};
}

Json json_of(const Summary& s) {
  if (s.samples == 0) return nullptr;
  return {{"median", rounded(s.median)},
          {"p5", rounded(s.p5)},
          {"p95", rounded(s.p95)},
          {"p99", rounded(s.p99)},
          {"noise_percent", rounded(s.noise_percent)},
          {"spread_percent", rounded(s.spread_percent)},
          {"samples", s.samples},
          {"disturbed", s.disturbed}};
}

Json json_of(const Cell& c) {
  Json json = {{"kind", c.prompt ? "prompt" : "decode"},
               {"rows", c.rows},
               {"context", c.context},
               {"graph", mode_name(c.mode)},
               {"threads", c.threads}};
  if (!c.left_out.empty()) {
    json["left_out"] = c.left_out;
    return json;
  }
  json["steps"] = c.steps;
  json["bucket"] = c.bucket;
  json["padded_rows"] = c.padded_rows;
  json["ms"] = json_of(c.ms);
  json["host_us_per_step"] = json_of(c.host_us);
  json["device_ms"] = json_of(c.device_ms);
  json["tokens_per_second"] = rounded(c.tokens_per_second());
  json["bytes"] = {{"weights", c.bytes.weights}, {"kv", c.bytes.kv}, {"total", c.bytes.total()}};
  json["gb_per_second"] = rounded(c.gb_per_second());
  json["ceiling_gb_per_second"] = rounded(c.ceiling_gb_s);
  json["ceiling_percent"] = rounded(c.ceiling_percent());
  json["bit_equal"] = c.bit_equal ? Json(*c.bit_equal) : Json(nullptr);
  json["slowed"] = c.slowed;
  return json;
}

Json json_of(const VerbCell& c) {
  return {{"kind", "verb"},
          {"verb", verb_name(c.verb)},
          {"kernels", c.kernels},
          {"alternative", c.alternative},
          {"rows", c.rows},
          {"context", c.context},
          {"threads", c.threads},
          {"bucket", c.bucket},
          {"runs_per_step", c.runs_per_step},
          {"us", json_of(c.us)},
          {"bytes", c.bytes},
          {"gb_per_second", rounded(c.gb_per_second())},
          {"ceiling_gb_per_second", rounded(c.ceiling_gb_s)},
          {"ceiling_percent", rounded(c.ceiling_percent())},
          {"slowed", c.slowed}};
}

template <class T>
Json list_of(const std::vector<T>& items) {
  Json list = Json::array();
  for (const T& item : items) list.push_back(json_of(item));
  return list;
}

std::string as_json(const Report& r) {
  Json json = {
      {"environment", json_of(r.environment)}, {"run", json_of(r)}, {"ceilings", list_of(r.ceilings)}};
  if (!r.cells.empty()) json["cells"] = list_of(r.cells);
  if (!r.verbs.empty()) json["verbs"] = list_of(r.verbs);
  json["buckets"] = list_of(r.buckets);
  return json.dump(2) + "\n";
}

std::string as_jsonl(const Report& r) {
  std::string text;
  const auto add = [&](const char* record, const Json& json) {
    Json line = {{"record", record}};
    line.update(json);
    text += line.dump() + "\n";
  };
  add("environment", json_of(r.environment));
  add("run", json_of(r));
  for (const Ceiling& c : r.ceilings) add("ceiling", json_of(c));
  for (const Cell& c : r.cells) add("cell", json_of(c));
  for (const VerbCell& c : r.verbs) add("verb", json_of(c));
  for (const BucketCost& b : r.buckets) add("bucket", json_of(b));
  return text;
}

// One column of a table for people (`title`, `width`) and of a CSV file (`key`).
template <class T>
struct Column {
  const char* key;
  const char* title;
  std::function<std::string(const T&)> text;
};

std::string fixed(double value, int digits) { return fmt::format("{:.{}f}", value, digits); }
std::string or_none(const Summary& s, double value, int digits) {
  return s.samples ? fixed(value, digits) : "";
}

const BucketCost* cost_of(const Report& r, const Cell& c) {
  if (c.mode == Mode::Eager) return nullptr;
  for (const BucketCost& b : r.buckets)
    if (b.rows == c.bucket) return &b;
  return nullptr;
}

std::vector<Column<Cell>> cell_columns() {
  return {
      {"kind", "kind", [](const Cell& c) { return std::string(c.prompt ? "prompt" : "decode"); }},
      {"rows", "rows", [](const Cell& c) { return std::to_string(c.rows); }},
      {"context", "context", [](const Cell& c) { return std::to_string(c.context); }},
      {"threads", nullptr, [](const Cell& c) { return std::to_string(c.threads); }},
      {"graph", "graph", [](const Cell& c) { return std::string(mode_name(c.mode)); }},
      {"ms", "ms", [](const Cell& c) { return or_none(c.ms, c.ms.median, 4); }},
      {"ms_p5", "p5", [](const Cell& c) { return or_none(c.ms, c.ms.p5, 4); }},
      {"ms_p95", "p95", [](const Cell& c) { return or_none(c.ms, c.ms.p95, 4); }},
      {"ms_p99", "p99", [](const Cell& c) { return or_none(c.ms, c.ms.p99, 4); }},
      {"noise_percent", "noise %", [](const Cell& c) { return or_none(c.ms, c.ms.noise_percent, 1); }},
      {"spread_percent", nullptr, [](const Cell& c) { return or_none(c.ms, c.ms.spread_percent, 2); }},
      {"samples", nullptr, [](const Cell& c) { return std::to_string(c.ms.samples); }},
      {"tokens_per_second", "tokens/s",
       [](const Cell& c) { return or_none(c.ms, c.tokens_per_second(), 1); }},
      {"host_us_per_step", "host us", [](const Cell& c) { return or_none(c.host_us, c.host_us.median, 1); }},
      {"device_ms", "device ms", [](const Cell& c) { return or_none(c.device_ms, c.device_ms.median, 4); }},
      {"weight_bytes", nullptr, [](const Cell& c) { return std::to_string(c.bytes.weights); }},
      {"kv_bytes", nullptr, [](const Cell& c) { return std::to_string(c.bytes.kv); }},
      {"bytes", nullptr, [](const Cell& c) { return std::to_string(c.bytes.total()); }},
      {nullptr, "GB",
       [](const Cell& c) { return or_none(c.ms, static_cast<double>(c.bytes.total()) / 1e9, 3); }},
      {"gb_per_second", "GB/s", [](const Cell& c) { return or_none(c.ms, c.gb_per_second(), 1); }},
      {"ceiling_gb_per_second", nullptr, [](const Cell& c) { return fixed(c.ceiling_gb_s, 1); }},
      {"ceiling_percent", "% ceiling", [](const Cell& c) { return or_none(c.ms, c.ceiling_percent(), 1); }},
      {"bucket", nullptr, [](const Cell& c) { return std::to_string(c.bucket); }},
      {"padded_rows", "padded", [](const Cell& c) { return std::to_string(c.padded_rows); }},
      {"bit_equal", "bits",
       [](const Cell& c) { return c.bit_equal ? *c.bit_equal ? "equal" : "DIFFER" : ""; }},
      {"disturbed", "disturbed",
       [](const Cell& c) { return c.ms.disturbed ? std::to_string(c.ms.disturbed) : ""; }},
      {"note", "note",
       [](const Cell& c) { return c.left_out + (c.slowed.empty() ? "" : "slowed: " + c.slowed); }},
  };
}

std::vector<Column<VerbCell>> verb_columns() {
  return {
      {"verb", "verb", [](const VerbCell& c) { return std::string(verb_name(c.verb)); }},
      {"rows", "rows", [](const VerbCell& c) { return std::to_string(c.rows); }},
      {"context", "context", [](const VerbCell& c) { return std::to_string(c.context); }},
      {"threads", nullptr, [](const VerbCell& c) { return std::to_string(c.threads); }},
      {"bucket", "bucket", [](const VerbCell& c) { return std::to_string(c.bucket); }},
      {"us", "us", [](const VerbCell& c) { return fixed(c.us.median, 2); }},
      {"us_p5", "p5", [](const VerbCell& c) { return fixed(c.us.p5, 2); }},
      {"us_p95", "p95", [](const VerbCell& c) { return fixed(c.us.p95, 2); }},
      {"us_p99", "p99", [](const VerbCell& c) { return fixed(c.us.p99, 2); }},
      {"noise_percent", "noise %", [](const VerbCell& c) { return fixed(c.us.noise_percent, 1); }},
      {"samples", nullptr, [](const VerbCell& c) { return std::to_string(c.us.samples); }},
      {"runs_per_step", "a step", [](const VerbCell& c) { return std::to_string(c.runs_per_step); }},
      {nullptr, "us a step",
       [](const VerbCell& c) { return fixed(c.us.median * static_cast<double>(c.runs_per_step), 1); }},
      {"bytes", "bytes", [](const VerbCell& c) { return std::to_string(c.bytes); }},
      {"gb_per_second", "GB/s", [](const VerbCell& c) { return fixed(c.gb_per_second(), 1); }},
      {"ceiling_gb_per_second", nullptr, [](const VerbCell& c) { return fixed(c.ceiling_gb_s, 1); }},
      {"ceiling_percent", "% ceiling", [](const VerbCell& c) { return fixed(c.ceiling_percent(), 1); }},
      {"disturbed", "disturbed",
       [](const VerbCell& c) { return c.us.disturbed ? std::to_string(c.us.disturbed) : ""; }},
      {"kernels", "kernels", [](const VerbCell& c) { return c.kernels; }},
      {"alternative", "taken", [](const VerbCell& c) { return std::string(c.alternative ? "no" : ""); }},
      {"note", "note",
       [](const VerbCell& c) { return c.slowed.empty() ? std::string() : "slowed: " + c.slowed; }},
  };
}

std::vector<Column<BucketCost>> bucket_columns() {
  return {
      {"bucket", "bucket", [](const BucketCost& b) { return std::to_string(b.rows); }},
      {"nodes", "nodes", [](const BucketCost& b) { return std::to_string(b.cost.nodes); }},
      {"capture_ms", "capture ms", [](const BucketCost& b) { return fixed(b.cost.capture_ms, 3); }},
      {"instantiate_ms", "instantiate ms",
       [](const BucketCost& b) { return fixed(b.cost.instantiate_ms, 3); }},
      {"upload_ms", "upload ms", [](const BucketCost& b) { return fixed(b.cost.upload_ms, 3); }},
      {"graph_bytes", "bytes", [](const BucketCost& b) { return std::to_string(b.cost.device_bytes); }},
  };
}

// A Markdown table, its columns aligned for a terminal; columns that are empty throughout are left out.
template <class T>
std::string table(const std::vector<Column<T>>& columns, const std::vector<T>& items) {
  std::vector<std::vector<std::string>> texts;
  for (const Column<T>& column : columns) {
    if (!column.title) continue;
    std::vector<std::string> text = {column.title};
    bool any = false;
    for (const T& item : items) {
      text.push_back(column.text(item));
      any |= !text.back().empty();
    }
    if (any) texts.push_back(std::move(text));
  }
  std::string out;
  for (size_t line = 0; line <= items.size(); ++line) {
    std::string rule = "|";
    out += "|";
    for (const std::vector<std::string>& text : texts) {
      size_t width = 3;
      for (const std::string& t : text) width = std::max(width, t.size());
      out += fmt::format(" {:>{}} |", text[line], width);
      rule += std::string(width + 1, '-') + ":|";
    }
    out += "\n";
    if (line == 0) out += rule + "\n";
  }
  return out;
}

std::string as_md(const Report& r) {
  std::string text = environment_line(r.environment) + "\n\n";
  text += fmt::format("{}, {}{}, a step reads {:.3f} GB of weights, K/V for {} positions a sequence\n",
                      r.model, r.dtype, r.random_weights ? ", random weights" : "",
                      static_cast<double>(r.weight_bytes) / 1e9, r.max_context);
  for (const Ceiling& c : r.ceilings) {
    text += fmt::format("read ceiling{}: {:.1f} GB/s, {:.1f} at the end\n",
                        c.threads ? fmt::format(", {} threads", c.threads) : "", c.gb_s, c.gb_s_at_end);
  }
  if (!r.cells.empty()) text += "\n" + table(cell_columns(), r.cells);
  if (!r.verbs.empty()) text += "\n" + table(verb_columns(), r.verbs);
  if (!r.buckets.empty()) text += "\n" + table(bucket_columns(), r.buckets);
  for (const std::string& note : r.notes) text += "\n" + note + "\n";
  if (r.interrupted) text += "\ninterrupted: not all was measured\n";
  return text;
}

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

template <class T>
std::string csv_head(const std::vector<Column<T>>& columns) {
  std::string head;
  for (const Column<T>& column : columns)
    if (column.key) head += (head.empty() ? "" : ",") + std::string(column.key);
  return head;
}

template <class T>
std::string csv_line(const std::vector<Column<T>>& columns, const T* item) {
  std::string line;
  bool first = true;
  for (const Column<T>& column : columns) {
    if (!column.key) continue;
    line += (first ? "" : ",") + (item ? quoted(column.text(*item)) : std::string());
    first = false;
  }
  return line;
}

// One table: a cell's graph costs stand in its own line.
std::string as_csv(const Report& r) {
  std::string text = "# " + environment_line(r.environment) + "\n";
  if (!r.verbs.empty()) {
    text += csv_head(verb_columns()) + "\n";
    for (const VerbCell& c : r.verbs) text += csv_line(verb_columns(), &c) + "\n";
    return text;
  }
  auto costs = bucket_columns();
  costs.erase(costs.begin());  // the cell has it
  text += csv_head(cell_columns()) + "," + csv_head(costs) + "\n";
  for (const Cell& c : r.cells)
    text += csv_line(cell_columns(), &c) + "," + csv_line(costs, cost_of(r, c)) + "\n";
  return text;
}

}  // namespace

std::string environment_line(const Environment& e) {
  std::string clocks;
  if (e.clock_mhz)
    clocks = fmt::format(", {} of {} MHz, memory {} MHz", e.clock_mhz, e.max_clock_mhz, e.memory_clock_mhz);
  return fmt::format("rondo {} ({}; {}), {}, {}{}, {}", e.version, e.commit, e.build, e.device, e.platform,
                     clocks, e.time);
}

std::string render(const Report& report, Format format) {
  switch (format) {
    case Format::Md: return as_md(report);
    case Format::Csv: return as_csv(report);
    case Format::Json: return as_json(report);
    case Format::Jsonl: return as_jsonl(report);
  }
  return "";
}

}  // namespace rondo::bench
