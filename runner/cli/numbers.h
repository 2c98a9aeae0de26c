// Numbers from a command line, read strictly: all of the text is the number, nothing overflows, no NaN.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rondo::cli {

struct RealRange {
  float low;
  float high;
  const char* expected;  // the range in words
};

// Each throws Error (InvalidArgument) naming `option`, the range and the text. Ranges include both ends.
int64_t parse_integer(const std::string& option, const std::string& text, int64_t low, int64_t high);
uint64_t parse_seed(const std::string& option, const std::string& text);
float parse_real(const std::string& option, const std::string& text, const RealRange& range);
// "1,2,3": at least one number, none negative.
std::vector<int32_t> parse_ids(const std::string& option, const std::string& text);
// "1-8,16,32": numbers and ranges in [low, high], in the order given; some thousand of them at most.
std::vector<int64_t> parse_ranges(const std::string& option, const std::string& text, int64_t low,
                                  int64_t high);

}  // namespace rondo::cli
