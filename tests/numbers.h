// Numbers by the million, for tests that hold one backend to another. Compiled with optimisation, which the
// tests themselves are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "buffers/view.h"

namespace rondo::test {

// `count` draws of a normal distribution.
std::vector<float> normal_numbers(std::mt19937& random, size_t count, float mean, float deviation);

// Rounded to what the type can hold; fp32 stays as it is.
std::vector<float> rounded(DType dtype, std::vector<float> values);

// As a tensor of that type holds them in memory, and back.
std::vector<std::byte> to_bytes(DType dtype, const std::vector<float>& values);
std::vector<float> from_bytes(DType dtype, const std::vector<std::byte>& bytes);

}  // namespace rondo::test
