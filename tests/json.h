// JSON for tests, parsed in one place: nlohmann_json's parser is a large template, and every file that called
// it would compile it again.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace rondo::test {

nlohmann::json parse_json(const std::string& text);
nlohmann::json read_json(const std::filesystem::path& path);

}  // namespace rondo::test
