#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <span>

#include "runner/cli/commands.h"
#include "runner/cli/session.h"
#include "runner/cli/terminal.h"
#include "runner/text/utf8.h"

namespace rondo::cli {
namespace {

struct Scored {
  int32_t token = 0;
  float logprob = 0;
};

struct Position {
  int32_t token = 0;
  std::optional<float> logprob;  // none for the first
  std::vector<Scored> top;       // likeliest next tokens
};

// Log-probabilities of the full softmax: `logits` less a constant that is summed in double.
class LogSoftmax {
 public:
  LogSoftmax(int64_t position, std::span<const float> logits) : logits_(logits) {
    bool nan = false;
    for (float logit : logits) {
      nan |= std::isnan(logit);
      max_ = std::max(max_, logit);
    }
    if (nan || !std::isfinite(max_)) {  // single -inf logits are fine: tokens of probability 0
      throw Error(ErrorKind::NumericalError,
                  fmt::format("position {}: expected finite logits, found NaN or infinity", position));
    }
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit - max_));
    log_sum_ = std::log(sum);
  }

  float operator[](int32_t token) const {
    return static_cast<float>(static_cast<double>(logits_[static_cast<size_t>(token)] - max_) - log_sum_);
  }

 private:
  std::span<const float> logits_;
  float max_ = -std::numeric_limits<float>::infinity();
  double log_sum_ = 0;
};

// The `count` largest, largest first; of equal ones the smaller id first.
std::vector<int32_t> largest(std::span<const float> logits, int64_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto likelier = [logits](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), likelier);
  ids.resize(static_cast<size_t>(count));
  return ids;
}

std::vector<Position> score(Engine& engine, const std::vector<int32_t>& ids, int64_t top) {
  std::vector<Position> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i].token = ids[i];
  engine.score(ids, [&](int64_t position, std::span<const float> logits) {
    if (caught_signal() != 0) throw Interrupted{caught_signal()};
    const LogSoftmax logprob(position, logits);
    const auto at = static_cast<size_t>(position);
    if (at + 1 < ids.size()) positions[at + 1].logprob = logprob[ids[at + 1]];
    if (top > 0) {
      for (int32_t token : largest(logits, top)) positions[at].top.push_back({token, logprob[token]});
    }
  });
  return positions;
}

std::string as_json(const ScoreOptions& options, const Engine& engine,
                    const std::vector<Position>& positions) {
  Json list = Json::array();
  for (size_t i = 0; i < positions.size(); ++i) {
    Json top = Json::array();
    for (const Scored& next : positions[i].top) {
      top.push_back({{"token", next.token}, {"logprob", number(next.logprob)}});
    }
    const Json logprob = positions[i].logprob ? number(*positions[i].logprob) : Json(nullptr);
    list.push_back(
        {{"position", i}, {"token", positions[i].token}, {"logprob", logprob}, {"top", std::move(top)}});
  }
  return document({{"version", version()},
                   {"model", options.target.path},
                   {"device", engine.stats().device},
                   {"positions", std::move(list)}});
}

std::string as_table(const ScoreOptions& options, const Text& text, const std::vector<Position>& positions) {
  const auto shown = [&](int32_t token) {
    Utf8Stream stream;
    const std::string whole = stream.take(text.bytes(token));
    const std::string piece = whole + stream.end();
    return piece.empty() ? fmt::format("{}", token) : fmt::format("{} '{}'", token, one_line(piece));
  };
  std::string table = fmt::format("position  {:<12} {:>10}{}\n", "token", "logprob",
                                  options.top > 0 ? "   likeliest next tokens" : "");
  for (size_t i = 0; i < positions.size(); ++i) {
    const Position& position = positions[i];
    table += fmt::format("{:>8}  {:<12} {:>10}", i, shown(position.token),
                         position.logprob ? fmt::format("{:.4f}", *position.logprob) : "-");
    for (const Scored& next : position.top)
      table += fmt::format("   {} {:.4f}", shown(next.token), next.logprob);
    table += "\n";
  }
  return table;
}

}  // namespace

int run(const ScoreOptions& options) {
  Session session = open_session(options.target);
  const std::vector<int32_t> ids = session.text.ids(options.prompt);
  if (options.top > session.engine.vocab_size()) {
    throw Error(ErrorKind::InvalidArgument,
                fmt::format("--top: expected at most the vocabulary's {} tokens, found {}",
                            session.engine.vocab_size(), options.top));
  }
  const std::vector<Position> positions = score(session.engine, ids, options.top);
  write_out(options.json ? as_json(options, session.engine, positions)
                         : as_table(options, session.text, positions));
  return 0;
}

}  // namespace rondo::cli
