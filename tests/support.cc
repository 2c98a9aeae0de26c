#include "tests/support.h"

#include <fmt/format.h>

#include <fstream>

#include "tests/json.h"

namespace rondo::test {

nlohmann::json parse_json(const std::string& text) { return nlohmann::json::parse(text); }

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  return parse_json(std::string(std::istreambuf_iterator<char>(in), {}));
}

TinyConfig::TinyConfig(const TinySizes& s) {
  static int number = 0;
  path_ = std::filesystem::temp_directory_path() / fmt::format("rondo-test-{}-{}.json", getpid(), number++);
  std::ofstream(path_) << nlohmann::json{{"architectures", {"LlamaForCausalLM"}},
                                         {"model_type", "llama"},
                                         {"hidden_size", s.hidden},
                                         {"intermediate_size", s.intermediate},
                                         {"num_hidden_layers", s.layers},
                                         {"num_attention_heads", s.heads},
                                         {"num_key_value_heads", s.kv_heads},
                                         {"head_dim", s.head_dim},
                                         {"vocab_size", s.vocab},
                                         {"max_position_embeddings", s.max_positions},
                                         {"rms_norm_eps", 1e-5},
                                         {"rope_theta", 10000.0},
                                         {"hidden_act", "silu"},
                                         {"tie_word_embeddings", s.tied},
                                         {"torch_dtype", s.dtype}};
}

}  // namespace rondo::test
