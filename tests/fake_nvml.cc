// A libnvidia-ml.so.1 of two GPUs, as much of it as a report asks for. RONDO_FAKE_NVML_INIT is what its start
// returns.
#include <cstdio>
#include <cstdlib>

namespace {
int gpus[2];
}

extern "C" {

int nvmlInit_v2() {
  const char* status = std::getenv("RONDO_FAKE_NVML_INIT");
  return status ? std::atoi(status) : 0;
}
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* text, unsigned bytes) {
  std::snprintf(text, bytes, "999.12.34");
  return 0;
}
int nvmlSystemGetCudaDriverVersion(int* version) {
  *version = 13010;
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &gpus[index];
  return 0;
}
int nvmlDeviceGetName(void* device, char* text, unsigned bytes) {
  std::snprintf(text, bytes, "Fake %d", static_cast<int>(static_cast<int*>(device) - gpus) + 1);
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  memory[0] = 80ull << 30;
  memory[1] = memory[2] = 40ull << 30;
  return 0;
}
}
