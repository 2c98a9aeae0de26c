// Runs a fuzz target over the files of a corpus, for compilers without libFuzzer: replay FOLDER. Each file is
// also run cut short at every byte and with every byte changed, where it is small.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !std::filesystem::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  constexpr size_t kSmall = 4096;
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    run(bytes);
    ++files;
    if (bytes.size() > kSmall) continue;
    for (size_t i = 0; i < bytes.size(); ++i) {
      run(bytes.substr(0, i));
      for (const int change : {0x01, 0x20, 0x80}) {
        std::string changed = bytes;
        changed[i] = static_cast<char>(changed[i] ^ change);
        run(changed);
      }
    }
  }
  if (files == 0) {
    std::fprintf(stderr, "%s: expected a corpus, found no file\n", argv[1]);
    return 1;
  }
  std::printf("%zu files, with their cuts and changes: no fault\n", files);
  return 0;
}
