#include "tests/numbers.h"

#include <cstring>

#include "kernels/cpu/convert.h"

namespace rondo::test {
namespace {

uint16_t narrow(DType dtype, float v) { return dtype == DType::f16 ? f16_from_f32(v) : bf16_from_f32(v); }
float widen(DType dtype, uint16_t bits) {
  return dtype == DType::f16 ? f32_from_f16(bits) : f32_from_bf16(bits);
}

}  // namespace

std::vector<float> normal_numbers(std::mt19937& random, size_t count, float mean, float deviation) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

std::vector<float> rounded(DType dtype, std::vector<float> values) {
  if (dtype != DType::f32)
    for (float& v : values) v = widen(dtype, narrow(dtype, v));
  return values;
}

std::vector<std::byte> to_bytes(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * (dtype == DType::f32 ? 4 : 2));
  if (dtype == DType::f32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = narrow(dtype, values[i]);
    std::memcpy(&bytes[2 * i], &bits, 2);
  }
  return bytes;
}

std::vector<float> from_bytes(DType dtype, const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / (dtype == DType::f32 ? 4 : 2));
  if (dtype == DType::f32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, &bytes[2 * i], 2);
    values[i] = widen(dtype, bits);
  }
  return values;
}

}  // namespace rondo::test
