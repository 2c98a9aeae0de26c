#include "runner/bench/samples.h"

#include <algorithm>
#include <cmath>

namespace rondo::bench {
namespace {

constexpr double kDisturbed = 1.2;

std::vector<double> ascending(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

double percentile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Summary summarize(const std::vector<std::vector<double>>& repeats) {
  std::vector<double> all, medians;
  for (const std::vector<double>& repeat : repeats) {
    if (repeat.empty()) continue;
    all.insert(all.end(), repeat.begin(), repeat.end());
    medians.push_back(percentile(ascending(repeat), 0.5));
  }
  Summary s;
  if (all.empty()) return s;
  all = ascending(std::move(all));
  s.samples = static_cast<int64_t>(all.size());
  s.median = percentile(all, 0.5);
  s.p5 = percentile(all, 0.05);
  s.p95 = percentile(all, 0.95);
  s.p99 = percentile(all, 0.99);
  double sum = 0, squares = 0;
  for (double value : all) sum += value;
  const double mean = sum / static_cast<double>(all.size());
  for (double value : all) {
    squares += (value - mean) * (value - mean);
    s.disturbed += value > kDisturbed * s.median;
  }
  const auto [low, high] = std::minmax_element(medians.begin(), medians.end());
  if (mean > 0) s.noise_percent = 100 * std::sqrt(squares / static_cast<double>(all.size())) / mean;
  if (s.median > 0) s.spread_percent = 100 * (*high - *low) / s.median;
  return s;
}

}  // namespace rondo::bench
