// runner/rondo.h from C++: whatever a callback throws ends as a status, and the engine goes on.
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "runner/engine.h"
#include "runner/rondo.h"

namespace {

const std::string kDemo = RONDO_SOURCE_DIR "/models/demo";

int throws_runtime_error(void*, uint64_t, uint64_t) { throw std::runtime_error("thrown by the caller"); }
int throws_a_number(void*, uint64_t, uint64_t) { throw 5; }
int throws_bad_alloc(void*, uint64_t, uint64_t) { throw std::bad_alloc(); }
int throws_an_error(void*, uint64_t, uint64_t) {
  throw rondo::Error(rondo::ErrorKind::ContextFull, "an Error of the caller's");
}

TEST(RondoC, NoExceptionOfACallbackCrossesOpen) {
  const struct {
    int (*progress)(void*, uint64_t, uint64_t);
    rondo_status status;
    const char* message;
  } cases[] = {{throws_runtime_error, RONDO_INTERNAL, "thrown by the caller"},
               {throws_a_number, RONDO_INTERNAL, "no std::exception"},
               {throws_bad_alloc, RONDO_OUT_OF_MEMORY, "memory"},
               {throws_an_error, RONDO_CONTEXT_FULL, "an Error of the caller's"}};
  for (const auto& c : cases) {
    rondo_options options = rondo_default_options();
    options.device = RONDO_DEVICE_CPU;
    options.progress = c.progress;
    rondo_engine* engine = nullptr;
    EXPECT_EQ(rondo_open(kDemo.c_str(), &options, &engine), c.status);
    EXPECT_NE(std::string(rondo_last_error()).find(c.message), std::string::npos) << rondo_last_error();
    EXPECT_EQ(engine, nullptr);
  }
}

TEST(RondoC, AnExceptionInAStepLeavesTheStepToBeMadeAgain) {
  rondo_options options = rondo_default_options();
  options.device = RONDO_DEVICE_CPU;
  rondo_engine* engine = nullptr;
  ASSERT_EQ(rondo_open(kDemo.c_str(), &options, &engine), RONDO_OK) << rondo_last_error();
  bool throwing = true;
  rondo_request request = rondo_default_request();
  const int32_t prompt[] = {'3', '6', '+', '7', '9', '='};
  request.prompt = prompt;
  request.prompt_count = 6;
  request.on_logits_user = &throwing;
  request.on_logits = [](void* user, const int32_t*, size_t, float*, size_t) {
    if (*static_cast<bool*>(user)) throw std::runtime_error("not yet");
    return 0;
  };
  rondo_sequence sequence = 0;
  ASSERT_EQ(rondo_add(engine, &request, &sequence), RONDO_OK) << rondo_last_error();
  const rondo_output* outputs = nullptr;
  size_t count = 0;
  EXPECT_EQ(rondo_step(engine, &outputs, &count), RONDO_INTERNAL);
  EXPECT_STREQ(rondo_last_error(), "not yet");
  throwing = false;
  std::string text;
  while (rondo_busy(engine)) {
    ASSERT_EQ(rondo_step(engine, &outputs, &count), RONDO_OK) << rondo_last_error();
    for (size_t i = 0; i < count; ++i) text += static_cast<char>(outputs[i].token);
  }
  EXPECT_EQ(text, "115\n");
  rondo_close(engine);
}

// The two interfaces say the same of what goes wrong.
TEST(RondoC, EveryKindOfErrorHasAStatusOfItsName) {
  for (int kind = 0; kind <= static_cast<int>(rondo::ErrorKind::DeviceLost); ++kind)
    EXPECT_STREQ(rondo_status_name(kind + 1), rondo::error_kind_name(static_cast<rondo::ErrorKind>(kind)));
  for (int finish = 0; finish <= static_cast<int>(rondo::FinishReason::NumericalError); ++finish)
    EXPECT_STREQ(rondo_finish_name(finish),
                 rondo::finish_reason_name(static_cast<rondo::FinishReason>(finish)));
}

}  // namespace
