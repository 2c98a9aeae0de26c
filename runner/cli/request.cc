#include "runner/cli/request.h"

#include <fmt/format.h>

#include <cfloat>
#include <climits>

#include "runner/cli/numbers.h"

namespace rondo::cli {
namespace {

constexpr JsonLimits kLimits = {uint64_t{1} << 22, uint64_t{1} << 22, LineReader::kLongest};

std::string place(const Line& line) { return fmt::format("line {}", line.number); }

void read_real(JsonFields& fields, const char* key, float low, float high, float* value) {
  *value = static_cast<float>(fields.number_or(key, low, high, *value));
}

void read_integer(JsonFields& fields, const char* key, int* value, int low = 0) {
  *value = static_cast<int>(fields.integer_or(key, low, INT_MAX, *value));
}

std::vector<int32_t> read_ids(const rondo::Json& list, const std::string& where) {
  if (!list.is_array()) refuse(where, "an array of token ids", describe(list));
  std::vector<int32_t> ids;
  for (const rondo::Json& id : list) ids.push_back(static_cast<int32_t>(json_integer(id, where, 0, INT_MAX)));
  return ids;
}

// {"5": -1.5, "17": 2}
std::vector<TokenBias> read_biases(const rondo::Json& object, const std::string& where) {
  const std::string place = where + ": logit_bias";
  if (!object.is_object()) refuse(place, "an object of token ids and numbers", describe(object));
  std::vector<TokenBias> biases;
  for (const auto& [token, bias] : object.items()) {
    biases.push_back({static_cast<int32_t>(parse_integer(place, token, 0, INT_MAX)),
                      static_cast<float>(json_number(bias, place + ": " + token, -FLT_MAX, FLT_MAX))});
  }
  return biases;
}

std::vector<std::vector<int32_t>> read_sequences(const rondo::Json& list, const std::string& where) {
  if (!list.is_array()) refuse(where, "an array of arrays of token ids", describe(list));
  std::vector<std::vector<int32_t>> sequences;
  for (const rondo::Json& ids : list) sequences.push_back(read_ids(ids, where));
  return sequences;
}

// One text or several.
std::vector<std::string> read_stop(const rondo::Json& value, const std::string& where) {
  std::vector<std::string> stops;
  const auto add = [&](const rondo::Json& stop) {
    if (!stop.is_string() || stop.get_ref<const std::string&>().empty())
      refuse(where, "some text, or an array of it", describe(stop));
    stops.push_back(stop.get<std::string>());
  };
  if (!value.is_array()) {
    add(value);
  } else {
    for (const rondo::Json& stop : value) add(stop);
  }
  return stops;
}

void read_sampling(JsonFields& fields, const std::string& where, Sampling* sampling) {
  read_real(fields, "temperature", 0, FLT_MAX, &sampling->temperature);
  read_integer(fields, "top_k", &sampling->top_k);
  read_real(fields, "top_p", FLT_MIN, 1, &sampling->top_p);
  read_real(fields, "min_p", 0, 1, &sampling->min_p);
  read_real(fields, "repetition_penalty", FLT_MIN, FLT_MAX, &sampling->repetition_penalty);
  read_real(fields, "presence_penalty", -FLT_MAX, FLT_MAX, &sampling->presence_penalty);
  read_real(fields, "frequency_penalty", -FLT_MAX, FLT_MAX, &sampling->frequency_penalty);
  read_integer(fields, "top_logprobs", &sampling->top_logprobs);
  if (const rondo::Json* biases = fields.find("logit_bias"))
    sampling->logit_bias = read_biases(*biases, where);
  if (const rondo::Json* seed = fields.find("seed")) {
    if (!seed->is_number_unsigned()) fields.refuse_field("seed", "an integer of 0 or more");
    sampling->seed = seed->get<uint64_t>();
  }
}

LineRequest read_fields(const rondo::Json& object, const Line& line, const Request& defaults,
                        const Text& text) {
  LineRequest read;
  read.id = read_id(object, line);
  read.request = defaults;
  Request& request = read.request;
  request.sampling.seed += line.number - 1;
  JsonFields fields(object, place(line));
  fields.ignore("id");
  read_sampling(fields, place(line), &request.sampling);
  read_integer(fields, "max_new_tokens", &request.max_new_tokens);
  read_integer(fields, "min_new_tokens", &request.min_new_tokens);
  read_integer(fields, "priority", &request.priority, INT_MIN);
  read_integer(fields, "draft_tokens", &request.draft_tokens);
  read_integer(fields, "draft_ngram", &request.draft_ngram, 1);
  request.ignore_eos = fields.boolean_or("ignore_eos", request.ignore_eos);
  read.logprobs = fields.boolean_or("logprobs", false);
  if (const rondo::Json* ids = fields.find("stop_ids"))
    request.stop_ids = read_ids(*ids, place(line) + ": stop_ids");
  if (const rondo::Json* list = fields.find("stop_sequences"))
    request.stop_sequences = read_sequences(*list, place(line) + ": stop_sequences");
  if (const rondo::Json* stop = fields.find("stop")) {
    if (!text.readable())
      fields.refuse_field("stop", "none, for a model without text", "stop_sequences takes token ids");
    read.stop = read_stop(*stop, place(line) + ": stop");
  }
  const rondo::Json* ids = fields.find("prompt_ids");
  if ((ids != nullptr) == (fields.find("prompt") != nullptr))
    refuse(place(line), "either \"prompt\" or \"prompt_ids\"", ids == nullptr ? "neither" : "both");
  const bool special = fields.boolean_or("add_special_tokens", true);
  const std::string prompt = ids == nullptr ? fields.string("prompt") : std::string();
  fields.refuse_others("rondo generate --help and docs/text.md name the fields");
  request.prompt = ids == nullptr ? text.ids(prompt, place(line) + ": prompt", special)
                                  : read_ids(*ids, place(line) + ": prompt_ids");
  return read;
}

}  // namespace

rondo::Json read_line_object(const Line& line) {
  return as_argument([&] {
    if (line.too_long) {
      refuse(place(line), fmt::format("at most {} bytes", LineReader::kLongest), "more");
    }
    return read_json_object(line.text, place(line), kLimits);
  });
}

Json read_id(const rondo::Json& object, const Line& line) {
  const auto id = object.find("id");
  if (id == object.end()) return line.number;
  if (!id->is_string() && !id->is_number_integer())
    as_argument([&] { refuse(place(line) + ": id", "a string or an integer", describe(*id)); });
  return *id;
}

LineRequest read_request(const rondo::Json& object, const Line& line, const Request& defaults,
                         const Text& text) {
  return as_argument([&] { return read_fields(object, line, defaults, text); });
}

std::string error_line(const Line& line, const Json& id, const Error& error) {
  Json object = {{"line", line.number}};
  if (!id.is_null()) object["id"] = id;
  object["error"] = {{"kind", error_kind_name(error.kind())}, {"message", error.what()}};
  return json_line(object);
}

}  // namespace rondo::cli
