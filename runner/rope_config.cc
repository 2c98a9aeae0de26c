#include "runner/rope_config.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace rondo {
namespace {

// Wide enough for every checkpoint there is, narrow enough that no frequency leaves float32.
constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e6;
constexpr double kMinFactor = 1e-6;

struct KindName {
  std::string_view name;
  RopeConfig::Kind kind;
};
constexpr KindName kKinds[] = {
    {"default", RopeConfig::Kind::Default},   {"linear", RopeConfig::Kind::Linear},
    {"dynamic", RopeConfig::Kind::Dynamic},   {"yarn", RopeConfig::Kind::Yarn},
    {"longrope", RopeConfig::Kind::LongRope}, {"llama3", RopeConfig::Kind::Llama3},
};

RopeConfig::Kind read_kind(JsonFields& rope) {
  const char* key = "rope_type";
  const Json* value = rope.find_non_null("rope_type");
  const Json* old_value = rope.find_non_null("type");  // its name before transformers 4.43
  if (value == nullptr) {
    value = old_value;
    key = "type";
  } else if (old_value != nullptr && *old_value != *value) {
    rope.refuse_field("type", "the same as rope_type");
  }
  if (value == nullptr) return RopeConfig::Kind::Default;
  if (value->is_string()) {
    for (const KindName& kind : kKinds) {
      if (value->get_ref<const std::string&>() == kind.name) return kind.kind;
    }
  }
  rope.refuse_field(key, "default, linear, dynamic, yarn, longrope or llama3");
}

std::vector<double> read_factors(JsonFields& rope, const char* key, int64_t head_dim) {
  const std::string expected = fmt::format("an array of {} numbers (head_dim / 2)", head_dim / 2);
  const Json* list = rope.find(key);
  if (list == nullptr || !list->is_array() || list->size() != static_cast<size_t>(head_dim / 2)) {
    rope.refuse_field(key, expected);
  }
  std::vector<double> factors;
  for (const Json& value : *list) {
    factors.push_back(json_number(value, fmt::format("{}: {}[{}]", rope.where(), key, factors.size()),
                                  kMinFactor, kMaxFactor));
  }
  return factors;
}

// The length before scaling: beside the other parameters or, as Phi-3 spells it, at the top level.
int64_t read_original_length(JsonFields& fields, JsonFields& rope, const ModelConfig& config) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const std::optional<int64_t> inner = rope.integer_or_null(kKey, 1, kMaxPositions);
  const std::optional<int64_t> outer = fields.integer_or_null(kKey, 1, kMaxPositions);
  if (inner && outer && *inner != *outer) {
    rope.refuse_field(kKey, fmt::format("{} as at the top level", *outer));
  }
  return inner ? *inner : outer ? *outer : config.max_position_embeddings;
}

void read_yarn(JsonFields& rope, RopeConfig& out) {
  out.beta_fast = rope.number_or_null("beta_fast", kMinFactor, kMaxFactor).value_or(32.0);
  out.beta_slow = rope.number_or_null("beta_slow", kMinFactor, kMaxFactor).value_or(1.0);
  if (out.beta_fast < out.beta_slow) {
    rope.refuse_field("beta_fast", fmt::format("at least beta_slow ({})", out.beta_slow));
  }
  out.mscale = rope.number_or_null("mscale", 0, kMaxFactor).value_or(0.0);
  out.mscale_all_dim = rope.number_or_null("mscale_all_dim", 0, kMaxFactor).value_or(0.0);
  out.truncate = rope.boolean_or("truncate", true);
  if (out.theta <= 1) rope.refuse_field("rope_theta", "a number above 1 for yarn");
}

void read_llama3(JsonFields& rope, RopeConfig& out) {
  out.low_freq_factor = rope.number("low_freq_factor", kMinFactor, kMaxFactor);
  out.high_freq_factor = rope.number("high_freq_factor", kMinFactor, kMaxFactor);
  if (out.high_freq_factor <= out.low_freq_factor) {
    rope.refuse_field("high_freq_factor", fmt::format("more than low_freq_factor ({})", out.low_freq_factor));
  }
}

void read_longrope(JsonFields& rope, const ModelConfig& config, RopeConfig& out) {
  out.short_factor = read_factors(rope, "short_factor", config.head_dim);
  out.long_factor = read_factors(rope, "long_factor", config.head_dim);
  const double ratio = static_cast<double>(config.max_position_embeddings) /
                       static_cast<double>(out.original_max_position_embeddings);
  out.factor = rope.number_or_null("factor", 1, kMaxFactor).value_or(ratio);
  // The formula divides by the logarithm of this length.
  if (out.attention_factor == 0 && out.factor > 1 && out.original_max_position_embeddings < 2) {
    rope.refuse_field("original_max_position_embeddings", "at least 2 for longrope");
  }
}

void refuse_partial_rotation(JsonFields& fields) {
  const std::optional<double> part = fields.number_or_null("partial_rotary_factor", 0, 1);
  if (part && *part != 1)
    fields.refuse_field("partial_rotary_factor", "1", "every dimension of a head is rotated");
}

}  // namespace

RopeConfig read_rope_config(JsonFields& fields, const ModelConfig& config) {
  static const Json kNothing = Json::object();
  const Json* scaling = fields.find_non_null("rope_scaling");        // transformers 4
  const Json* parameters = fields.find_non_null("rope_parameters");  // transformers 5
  if (scaling != nullptr && parameters != nullptr) {
    fields.refuse_field("rope_scaling", "nothing beside rope_parameters",
                        "which of the two is meant is not clear");
  }
  const char* key = scaling != nullptr ? "rope_scaling" : "rope_parameters";
  const Json& object = scaling != nullptr ? *scaling : parameters != nullptr ? *parameters : kNothing;
  JsonFields rope(object, fields.where() + ": " + key);

  RopeConfig out;
  const std::optional<double> outer_theta = fields.number_or_null("rope_theta", 1, kMaxTheta);
  const std::optional<double> inner_theta = rope.number_or_null("rope_theta", 1, kMaxTheta);
  if (outer_theta && inner_theta && *outer_theta != *inner_theta) {
    rope.refuse_field("rope_theta", fmt::format("{} as at the top level", *outer_theta));
  }
  out.theta = inner_theta ? *inner_theta : outer_theta.value_or(10000.0);
  refuse_partial_rotation(fields);
  refuse_partial_rotation(rope);

  out.kind = read_kind(rope);
  out.original_max_position_embeddings = read_original_length(fields, rope, config);
  if (out.kind == RopeConfig::Kind::Yarn || out.kind == RopeConfig::Kind::LongRope) {
    out.attention_factor = rope.number_or_null("attention_factor", kMinFactor, kMaxFactor).value_or(0.0);
  }
  switch (out.kind) {
    case RopeConfig::Kind::Yarn: read_yarn(rope, out); break;
    case RopeConfig::Kind::Llama3: read_llama3(rope, out); break;
    case RopeConfig::Kind::LongRope: read_longrope(rope, config, out); break;
    case RopeConfig::Kind::Default:
    case RopeConfig::Kind::Linear:
    case RopeConfig::Kind::Dynamic:
      // transformers uses max_position_embeddings here and passes over this one.
      if (out.original_max_position_embeddings != config.max_position_embeddings) {
        refuse(fields.where() + ": original_max_position_embeddings",
               fmt::format("{} (max_position_embeddings), as this rope_type takes no other length",
                           config.max_position_embeddings),
               std::to_string(out.original_max_position_embeddings));
      }
  }
  if (out.kind != RopeConfig::Kind::Default && out.kind != RopeConfig::Kind::LongRope) {
    out.factor = rope.number("factor", 1, kMaxFactor);
  }
  rope.refuse_others("this rope_type has no such parameter");
  return out;
}

}  // namespace rondo
