#include "runner/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "buffers/error.h"
#include "runner/plan.h"
#include "runner/rope.h"

namespace rondo {
namespace {

constexpr uint64_t kStagingBytes = 16 << 20;  // large enough for a disk's and the bus's full rate
constexpr double kStandardDeviation = 0.02;

// Copies enqueued from two pinned buffers in turn, so that reading one overlaps the upload of the other.
class Staging {
 public:
  explicit Staging(Device& device) : device_(device) {
    for (auto& buffer : buffers_)
      buffer = {device.allocate_pinned(kStagingBytes, "weights (staging)"), device.make_event()};
  }
  // The copies read this memory, so it must not go before they have.
  ~Staging() {
    try {
      device_.synchronize();
    } catch (const Error&) {  // the device is lost, and with it the copies
    }
  }

  void* next() {
    turn_ ^= 1;
    buffers_[turn_].copied->wait();
    return buffers_[turn_].block->data();
  }
  void upload(void* to, uint64_t bytes) {
    device_.write(to, buffers_[turn_].block->data(), bytes);
    buffers_[turn_].copied->record();
  }

 private:
  struct Buffer {
    std::unique_ptr<Block> block;
    std::unique_ptr<Event> copied;
  };
  Device& device_;
  std::array<Buffer, 2> buffers_;
  size_t turn_ = 0;
};

void upload_table(Staging& staging, const View& to, const std::vector<float>& values) {
  std::memcpy(staging.next(), values.data(), to.bytes());
  staging.upload(to.data, to.bytes());
}

// The quantile function of the normal distribution, by bisection of erfc: run 256 times in all.
double normal_quantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 80; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_f16(float value) {
  _Float16 half = static_cast<_Float16>(value);
  return std::bit_cast<uint16_t>(half);
}

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// FNV-1a: std::hash may differ between libraries, and the numbers must not.
uint64_t hash_name(const std::string& name) {
  uint64_t h = 0xcbf29ce484222325;
  for (unsigned char c : name) h = (h ^ c) * 0x100000001b3;
  return h;
}

template <class T>
void fill_random(const std::array<T, 256>& table, uint64_t key, uint64_t byte_offset, void* to,
                 uint64_t bytes) {
  auto* out = static_cast<T*>(to);
  const uint64_t first = byte_offset / sizeof(T), n = bytes / sizeof(T);
  for (uint64_t i = 0; i < n; i += 8) {  // one draw gives eight table indices
    const uint64_t draw = mix(key + (first + i) / 8);
    for (uint64_t j = 0; j < 8 && i + j < n; ++j) out[i + j] = table[draw >> (8 * j) & 255];
  }
}

template <class T>
ReadWeight random_source(uint64_t seed, T (*convert)(float)) {
  std::array<T, 256> table;
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = convert(
        static_cast<float>(kStandardDeviation * normal_quantile((static_cast<double>(i) + 0.5) / 256)));
  return
      [seed, table, one = convert(1.0f)](const std::string& name, uint64_t offset, void* to, uint64_t bytes) {
        if (name.ends_with("norm.weight"))
          std::fill_n(static_cast<T*>(to), bytes / sizeof(T), one);
        else
          fill_random(table, mix(seed ^ hash_name(name)), offset, to, bytes);
      };
}

}  // namespace

ReadWeight random_weights(uint64_t seed, DType dtype) {
  switch (dtype) {
    case DType::bf16: return random_source<uint16_t>(seed, to_bf16);
    case DType::f16: return random_source<uint16_t>(seed, to_f16);
    case DType::f32: return random_source<float>(seed, [](float value) { return value; });
    default:
      throw Error(ErrorKind::InvalidArgument,
                  std::string("random weights: expected f32, f16 or bf16, found ") + dtype_name(dtype));
  }
}

Weights load_weights(Device& device, const ModelConfig& config, DType dtype, const ReadWeight& read,
                     const std::function<void(uint64_t, uint64_t)>& progress) {
  const Range range(device, "load");
  Weights weights;
  WeightLayout placed;
  weights.arena = std::make_unique<Arena>(
      device, "weights", [&](Layout& layout) { placed = lay_out_weights(layout, config, dtype); });
  uint64_t total = 0, done = 0;
  for (const WeightSlot& slot : placed.slots) total += slot.view.bytes();

  Staging staging(device);
  for (const WeightSlot& slot : placed.slots) {
    const uint64_t bytes = slot.view.bytes();
    for (uint64_t at = 0; at < bytes; at += kStagingBytes) {
      const uint64_t part = std::min(kStagingBytes, bytes - at);
      read(slot.name, at, staging.next(), part);
      staging.upload(slot.view.as<std::byte>() + at, part);
      done += part;
      if (progress) progress(done, total);
    }
  }

  Rope& rope = placed.model.rope;
  const RopeTable table = make_rope_table(config);
  upload_table(staging, rope.inv_freq, table.inv_freq);
  rope.scaling = rope.long_scaling = table.attention_scaling;
  rope.original_length = table.switch_length;
  if (rope.long_inv_freq) upload_table(staging, rope.long_inv_freq, table.long_inv_freq);
  if (config.rope.kind == RopeConfig::Kind::Dynamic) {
    rope.dynamic = true;
    rope.dynamic_theta = static_cast<float>(config.rope.theta);
    rope.dynamic_factor = static_cast<float>(config.rope.factor);
  }
  weights.model = std::move(placed.model);
  return weights;
}

}  // namespace rondo
