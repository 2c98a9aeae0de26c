#include "runner/cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>

#include "runner/cli/terminal.h"

namespace rondo::cli {
namespace {

constexpr int64_t kByteValues = 256;
constexpr int64_t kLargestByteVocabulary = 300;

}  // namespace

Session open_session(const Target& target) {
  const auto start = std::chrono::steady_clock::now();
  Progress progress;
  EngineOptions options = target.engine;
  options.progress = [&progress](uint64_t done, uint64_t total) { progress.update(done, total); };
  Engine engine = Engine::open(target.path, options);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  return {std::move(engine), took.count()};
}

bool is_byte_level(const Engine& engine) {
  return engine.vocab_size() >= kByteValues && engine.vocab_size() <= kLargestByteVocabulary;
}

std::vector<int32_t> prompt_ids(const Prompt& prompt, const Engine& engine) {
  if (!prompt.is_text) return prompt.ids;
  if (!is_byte_level(engine)) {
    throw Error(
        ErrorKind::InvalidArgument,
        fmt::format(
            "--prompt: expected a byte-level vocabulary of {} to {} tokens, found {}: this model's text "
            "needs its own tokenizer; give the token ids with --prompt-ids 1,2,3",
            kByteValues, kLargestByteVocabulary, engine.vocab_size()));
  }
  std::vector<int32_t> ids;
  for (const char c : prompt.text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string bytes_of(int32_t token) {
  if (token < 0 || token >= kByteValues) return {};
  return std::string(1, static_cast<char>(static_cast<unsigned char>(token)));
}

Json number(float value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);
}

Json milliseconds(double value) { return std::round(value * 1000) / 1000; }

Json stats_json(const Stats& stats) {
  Json buckets = Json::array();
  for (const BucketStats& bucket : stats.buckets) {
    buckets.push_back({{"rows", bucket.rows},
                       {"capture_ms", milliseconds(bucket.capture_ms)},
                       {"instantiate_ms", milliseconds(bucket.instantiate_ms)},
                       {"upload_ms", milliseconds(bucket.upload_ms)},
                       {"nodes", bucket.nodes},
                       {"device_bytes", bucket.device_bytes}});
  }
  return {{"device", stats.device},
          {"backend", stats.backend},
          {"graph", stats.graph},
          {"steps", stats.steps},
          {"replays", stats.replays},
          {"eager_off", stats.eager_off},
          {"eager_warm_up", stats.eager_warm_up},
          {"rows", stats.rows},
          {"padded_rows", stats.padded_rows},
          {"tokens", stats.tokens},
          {"host_seconds", stats.host_seconds},
          {"wait_seconds", stats.wait_seconds},
          {"waiting", stats.waiting},
          {"running", stats.running},
          {"pages_used", stats.pages_used},
          {"pages", stats.pages},
          {"weight_bytes", stats.weight_bytes},
          {"device_bytes", stats.device_bytes},
          {"buckets", buckets}};
}

std::string document(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace rondo::cli
