// Text to ids and back: equal to what the package `tokenizers` gives (tests/tokenizers, written by
// tools/check_tokenizer.py), whole characters alone when streamed, and a clear refusal of all that is not
// understood.
#include "runner/text/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <thread>

#include "buffers/error.h"
#include "runner/text/byte_level.h"
#include "runner/text/utf8.h"
#include "tests/json.h"

namespace rondo::test {
namespace {

using Json = nlohmann::json;

const std::string kFixtures = std::string(RONDO_SOURCE_DIR) + "/tests/tokenizers/";

struct Fixture {
  Tokenizer tokenizer;
  std::vector<Json> expected;
};

Fixture fixture(const std::string& name) {
  Fixture f{Tokenizer::open(kFixtures + name), {}};
  std::ifstream in(kFixtures + name + "/expected.jsonl");
  for (std::string line; std::getline(in, line);) f.expected.push_back(test::parse_json(line));
  return f;
}

class Tokenizers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Tokenizers, testing::Values("llama3", "qwen2", "mistral", "gpt2", "options"),
                         [](const auto& kind) { return std::string(kind.param); });

TEST_P(Tokenizers, GivesThePackagesIdsAndTexts) {
  const Fixture f = fixture(GetParam());
  EXPECT_GT(f.expected.size(), 200u);
  for (const Json& entry : f.expected) {
    const auto text = entry.at("text").get<std::string>();
    const auto ids = entry.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(f.tokenizer.encode(text), ids) << entry.at("text");
    EXPECT_EQ(f.tokenizer.decode(ids), entry.value("shown", text)) << entry.at("text");
    EXPECT_EQ(f.tokenizer.decode(ids, false), entry.value("marked", text)) << entry.at("text");
  }
}

TEST_P(Tokenizers, StreamsWholeCharactersThatMakeUpTheText) {
  const Fixture f = fixture(GetParam());
  for (const Json& entry : f.expected) {
    const auto ids = entry.at("ids").get<std::vector<int32_t>>();
    Utf8Stream stream;
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = stream.take(f.tokenizer.bytes(id));
      EXPECT_FALSE(invalid_utf8_at(piece)) << entry.at("text");
      text += piece;
    }
    EXPECT_EQ(text + stream.end(), f.tokenizer.decode(ids, false));
  }
}

// Steps that grow with the square of the text would not end, and deep stacks would overflow.
TEST(Tokenizer, TakesLongTexts) {
  constexpr int kTimes = 50'000;
  for (const char* name :
       {"qwen2", "mistral"}) {  // one with a normal form, one whose pattern backtracks most
    const Fixture f = fixture(name);
    for (const std::string part : {"A", " ", "ab ", "\xCC\x81\xCC\xA3", "\xE6\xBC\xA2", "!"}) {
      std::string text;
      for (int i = 0; i < kTimes; ++i) text += part;
      const std::vector<int32_t> ids = f.tokenizer.encode(text, false);
      EXPECT_FALSE(ids.empty());
      EXPECT_EQ(f.tokenizer.encode(f.tokenizer.decode(ids), false), ids) << part;
    }
  }
}

TEST(Tokenizer, AddsTheSpecialTokensOfTheFileOrNone) {
  const Fixture f = fixture("llama3");
  const std::vector<int32_t> plain = f.tokenizer.encode("Hello", false);
  std::vector<int32_t> with = f.tokenizer.encode("Hello");
  ASSERT_EQ(with.size(), plain.size() + 1);
  EXPECT_TRUE(f.tokenizer.is_special(with[0]));
  EXPECT_EQ(f.tokenizer.bytes(with[0]), "<|begin_of_text|>");
  with.erase(with.begin());
  EXPECT_EQ(with, plain);
}

TEST(Tokenizer, IsUsedByThreadsAtOnce) {
  const Fixture f = fixture("options");
  const std::string text = "caf\u00e9s <mask>  fox_es 123 \u6f22\u5b57 I'll";
  const std::vector<int32_t> alone = f.tokenizer.encode(text);
  std::vector<std::vector<int32_t>> made(4);
  std::vector<std::thread> threads;
  for (std::vector<int32_t>& ids : made) threads.emplace_back([&] { ids = f.tokenizer.encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int32_t>& ids : made) EXPECT_EQ(ids, alone);
}

TEST(Tokenizer, RefusesTextThatIsNoUtf8ByItsFirstBadByte) {
  const Fixture f = fixture("qwen2");
  for (const auto& [text, at] : {std::pair<std::string, const char*>{"ab\xff", "byte 2"},
                                 {"\xE6\xBC", "byte 0"},
                                 {"x\xED\xA0\x80", "byte 1"},
                                 {"\xC0\x80", "byte 0"}}) {
    try {
      f.tokenizer.encode(text);
      FAIL() << "took it";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidArgument);
      EXPECT_NE(std::string(error.what()).find(at), std::string::npos) << error.what();
    }
  }
}

// A whole tokenizer.json: the 256 bytes, "ab", "abc", and one special token, id 258.
Json small() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(static_cast<uint8_t>(byte))] = byte;
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 258},
             {"content", "<s>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", bytes},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", {"a b", "ab c"}}}}};
}

TEST(Tokenizer, NeedsNoTokensForBytesThatUtf8NeverHas) {
  Json json = small();
  Json& vocab = json["model"]["vocab"];
  const auto take_away = [&](int byte) {  // its id is another token's
    vocab.erase(byte_character(static_cast<uint8_t>(byte)));
    vocab["never " + std::to_string(byte)] = byte;
  };
  for (int byte : {0xC0, 0xC1}) take_away(byte);
  for (int byte = 0xF5; byte < 256; ++byte) take_away(byte);
  EXPECT_EQ(Tokenizer::parse(json.dump(), "t").encode("\xF4\x8F\xBF\xBF"),
            (std::vector<int32_t>{0xF4, 0x8F, 0xBF, 0xBF}));
  take_away(0xF4);
  EXPECT_THROW(Tokenizer::parse(json.dump(), "t"), Error);
}

Json split(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json behind(const Json& first) {
  return {{"type", "Sequence"}, {"pretokenizers", {first, small()["pre_tokenizer"]}}};
}

TEST(TokenizerFile, TakesMergesInBothSpellings) {
  Json json = small();
  EXPECT_EQ(Tokenizer::parse(json.dump(), "t").encode("abcab<s>"), (std::vector<int32_t>{257, 256, 258}));
  json["model"]["merges"] = Json::array({Json::array({"a", "b"}), Json::array({"ab", "c"})});
  EXPECT_EQ(Tokenizer::parse(json.dump(), "t").encode("abcab<s>"), (std::vector<int32_t>{257, 256, 258}));
}

TEST(TokenizerFile, WithoutIgnoreMergesAPieceIsWhatItsMergesMake) {
  Json json = small();
  json["model"]["merges"] = Json::array({"a b"});
  EXPECT_EQ(Tokenizer::parse(json.dump(), "t").encode("abc"), (std::vector<int32_t>{256, 'c'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(Tokenizer::parse(json.dump(), "t").encode("abc"), (std::vector<int32_t>{257}));
}

TEST(TokenizerFile, RefusesByNameWhatItDoesNotUnderstand) {
  struct Case {
    const char* naming;  // in the message
    std::function<void(Json&)> change;
  };
  const std::vector<Case> cases = {
      {"t: extra", [](Json& j) { j["extra"] = 1; }},
      {"t: version", [](Json& j) { j["version"] = "2.0"; }},
      {"t: truncation",
       [](Json& j) {
         j["truncation"] = {{"max_length", 8}};
       }},
      {"t: padding",
       [](Json& j) {
         j["padding"] = {{"pad_id", 0}};
       }},
      {"t: normalizer: type: expected NFC",
       [](Json& j) {
         j["normalizer"] = {{"type", "Lowercase"}};
       }},
      {"normalizers[0]: type",
       [](Json& j) {
         j["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}};
       }},
      {"t: pre_tokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; }},
      {"ByteLevel at the end", [](Json& j) { j["pre_tokenizer"] = split("a"); }},
      {"\"Metaspace\"",
       [](Json& j) {
         j["pre_tokenizer"] = behind({{"type", "Metaspace"}});
       }},
      {"nothing behind ByteLevel", [](Json& j) { j["pre_tokenizer"] = behind(small()["pre_tokenizer"]); }},
      {"behavior",
       [](Json& j) {
         Json step = split("a");
         step["behavior"] = "Backwards";
         j["pre_tokenizer"] = behind(step);
       }},
      {"t: decoder", [](Json& j) { j["decoder"] = nullptr; }},
      {"t: decoder: type", [](Json& j) { j["decoder"]["type"] = "Metaspace"; }},
      {"\"RobertaProcessing\"",
       [](Json& j) {
         j["post_processor"] = {{"type", "RobertaProcessing"}};
       }},
      {"single",
       [](Json& j) {
         j["post_processor"] = {
             {"type", "TemplateProcessing"}, {"single", Json::array()}, {"special_tokens", Json::object()}};
       }},
      {"t: model: type", [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"t: model: dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"t: model: byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }},
      {"t: model: end_of_word_suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
      {"t: model: other", [](Json& j) { j["model"]["other"] = 1; }},
      {"byte 97", [](Json& j) { j["model"]["vocab"].erase("a"); }},
      {"each id once", [](Json& j) { j["model"]["vocab"]["ab"] = 255; }},
      {"merges[1]", [](Json& j) { j["model"]["merges"][1] = "abc d"; }},
      {"merges[0]", [](Json& j) { j["model"]["merges"][0] = "a  b"; }},
      {"merges[1]",
       [](Json& j) {
         j["model"]["merges"][1] = Json::array({"ab", "c"});
       }},
      {"added_tokens[0]: id: expected 258", [](Json& j) { j["added_tokens"][0]["id"] = 300; }},
      {"added_tokens[0]: id", [](Json& j) { j["added_tokens"][0]["id"] = 97; }},
      {"added_tokens[0]: content", [](Json& j) { j["added_tokens"][0]["content"] = ""; }},
      {"added_tokens[0]: colour", [](Json& j) { j["added_tokens"][0]["colour"] = "red"; }},
  };
  for (const Case& c : cases) {
    Json json = small();
    c.change(json);
    try {
      Tokenizer::parse(json.dump(), "t");
      ADD_FAILURE() << "took it: " << c.naming;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidModel) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.naming), std::string::npos)
          << c.naming << " in " << error.what();
    }
  }
}

TEST(TokenizerFile, RefusesPatternsThatTheTwoDialectsReadDifferently) {
  for (const std::string pattern :
       {"^a",       "a$",      "\\w+",    "\\bx",    "\\h",     "[[:alpha:]]", "[a&&b]",
        "\\p{Han}", "\\p{^L}", "(?<n>a)", "(?m:a)",  "(a)\\1",  "a{,3}",       "a{2}+",
        "a**",      "\\Aa",    "a|",      "a*",      "(?i:ss)", "(?i:\u00e4)", "(?i:s+)",
        "[b-a]",    "(a",      "a)",      "[a",      "a{2000}", "{",           "[]a]",
        "\\x80",    "\\ud800", "\\",      "(?=a)+b", "[\\s-z]"}) {
    Json json = small();
    json["pre_tokenizer"] = behind(split(pattern));
    try {
      Tokenizer::parse(json.dump(), "t");
      ADD_FAILURE() << "took it: " << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::InvalidModel) << error.what();
      EXPECT_NE(std::string(error.what()).find("pretokenizers[0]: pattern"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Utf8Stream, ReplacesWhatIsNoCharacterAndHoldsWhatIsNotWhole) {
  const std::string bad = "\xEF\xBF\xBD";
  Utf8Stream stream;
  EXPECT_EQ(stream.take("a\xE2\x82"), "a");
  EXPECT_EQ(stream.take("\xAC"), "\u20ac");
  EXPECT_EQ(stream.take("\xF0\x9F"), "");
  EXPECT_EQ(stream.take("\x98"), "");
  EXPECT_EQ(stream.take("x"), bad + "x");                   // one for the part that was right so far
  EXPECT_EQ(stream.take("\xED\xA0\x80"), bad + bad + bad);  // a surrogate: no part of it is right
  EXPECT_EQ(stream.take("\xF4\x90\xC0\x80"), bad + bad + bad + bad);
  EXPECT_EQ(stream.take("\xE2\x82"), "");
  EXPECT_EQ(stream.end(), bad);
  EXPECT_EQ(stream.end(), "");
}

}  // namespace
}  // namespace rondo::test
