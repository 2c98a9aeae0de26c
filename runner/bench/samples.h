// What a list of times says.
#pragma once

#include <cstdint>
#include <vector>

namespace rondo::bench {

struct Summary {
  double median = 0;
  double p5 = 0;
  double p95 = 0;
  double p99 = 0;
  double noise_percent = 0;   // standard deviation over mean
  double spread_percent = 0;  // of the repeats' medians: largest less smallest, over the median
  int64_t samples = 0;
  int64_t disturbed = 0;  // samples more than 20 % above the median
};

// Of `q` in [0, 1], between neighbours in proportion. `sorted` ascends and is not empty.
double percentile(const std::vector<double>& sorted, double q);

// Over all samples of all repeats. Nothing was sampled: all zero.
Summary summarize(const std::vector<std::vector<double>>& repeats);

}  // namespace rondo::bench
