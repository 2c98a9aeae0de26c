// Every verb of the CUDA backend against the CPU backend, on the same numbers: for a GPU, and, where
// RONDO_SIMT says so, on the executor, which runs each verb in three orders of threads that must agree bit
// for bit.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "buffers/cuda_check.h"
#include "buffers/error.h"
#include "graphs/cuda_capture.h"
#include "tests/cuda_pair.h"

namespace rondo {
namespace {

using test::Case;
using test::CudaTest;
using test::kInf;
using test::kNan;
using test::Pair;
using test::Side;
using test::tolerance;

View x_of(Side& s) { return s.buffers.x; }
View q_of(Side& s) { return s.buffers.q; }
View o_of(Side& s) { return s.buffers.o; }
View h_of(Side& s) { return s.buffers.h; }
View logits_of(Side& s) { return s.buffers.logits; }
View k_of(Side& s) { return s.layer().pages.k; }
View v_of(Side& s) { return s.layer().pages.v; }

class CudaVerbs : public CudaTest, public testing::WithParamInterface<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, CudaVerbs, testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(dtype_name(dtype.param)); });

TEST_P(CudaVerbs, EmbedCopiesRowsOfTheTableAndNotesTokensAtTheirPositions) {
  Case c;
  c.dtype = GetParam();
  for (int rows = 1; rows <= 4; ++rows) {
    Pair pair(c);
    pair.set_rows({{89, 0, 1, 1}, {31, 5, 2, 2}, {32, 6, 2, 0}, {0, 0, 0, 0}});
    pair.run([&](Side& s) { s.ops->embed({rows, rows}); });
    const int64_t n = rows * c.hidden;
    pair.expect_close(x_of, 0, n);
    const auto history = pair.cpu.buffers.history;
    EXPECT_EQ(pair.cpu.read(history.data, history.bytes()),
              pair.cuda.read(pair.cuda.buffers.history.data, history.bytes()));
    const auto x = pair.cuda.get(pair.cuda.buffers.x);
    for (size_t i = static_cast<size_t>(n); i < x.size(); ++i)
      ASSERT_TRUE(std::isnan(x[i])) << "row beyond the bucket";
  }
}

// A place in the pages that is not a row's own keeps its bits.
void expect_appended(Pair& pair, double allowed, size_t appended) {
  for (auto view : {k_of, v_of}) {
    const auto expected = pair.cpu.get(view(pair.cpu)), found = pair.cuda.get(view(pair.cuda));
    double difference = 0, size = 0;
    size_t written = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::isnan(expected[i]), std::isnan(found[i])) << "element " << i;
      if (std::isnan(expected[i])) continue;
      difference += std::pow(double{found[i]} - double{expected[i]}, 2);
      size += std::pow(double{expected[i]}, 2);
      ++written;
    }
    EXPECT_EQ(written, appended);
    EXPECT_LE(std::sqrt(difference / size), allowed);
  }
}

void check_qkv(const Case& c, const std::vector<Row>& rows, const std::vector<SlotParams>& params,
               double angle_error = 0) {
  SCOPED_TRACE(c.text());
  Pair pair(c);
  pair.set_params(params);
  pair.set_rows(rows);
  pair.embed(static_cast<int>(rows.size()));
  pair.randomize(x_of, 2);
  pair.run([&](Side& s) { s.ops->qkv({static_cast<int>(rows.size()), 1}, s.layer()); });
  // Rounded by CUDA: the normed x, the product, and q or k; by the CPU: k. Sums over H, and over head_dim in
  // the heads' norm.
  const double allowed = tolerance(c.dtype, 4, c.hidden + c.head_dim + 16) + angle_error;
  pair.expect_close(q_of, allowed, static_cast<int64_t>(rows.size()) * c.heads * c.head_dim);
  size_t live = 0;
  for (const Row& row : rows) live += row.slot != 0;
  expect_appended(pair, allowed, live * static_cast<size_t>(c.kv_heads * c.head_dim));
}

TEST_P(CudaVerbs, QkvNormalisesRotatesAndAppends) {
  Case c;
  c.dtype = GetParam();
  const std::vector<Row> rows = {{1, 0, 1, 1}, {1, 7, 2, 1}, {1, 8, 3, 1}, {0, 0, 0, 0}};
  for (int64_t head_dim : {8, 40, 64, 128, 256})
    for (bool extras : {false, true}) {
      c.head_dim = head_dim;
      c.heads = head_dim > 64 ? 2 : 6;
      c.kv_heads = head_dim > 64 ? 1 : 3;
      c.qk_norm = c.bias = extras;
      const double angle_error =
          9 * 0x1p-23;  // angles to 9 rad, sine and cosine of either library good to an ulp
      check_qkv(c, rows, {}, angle_error);
      check_qkv(c, {rows[1], rows[2]}, {}, angle_error);
    }
}

TEST_P(CudaVerbs, QkvTurnsByTheTableThatTheLengthAsksFor) {
  Case c;
  c.dtype = GetParam();
  c.head_dim = 16;
  const std::vector<Row> rows = {{1, 19, 1, 1}, {1, 20, 2, 1}, {1, 3, 3, 1}, {1, 33, 4, 1}};
  std::vector<SlotParams> params(4);
  params[2].prompt_length = 21;  // position 3 of a prompt that is longer than the original length
  const double angle_error = 34 * 4 * 0x1p-23;  // angles to 34 rad, frequencies good to four roundings
  c.rope = [](Rope& r) {
    r.original_length = 20;
    r.scaling = 1.25f;
    r.long_scaling = 1.5f;
  };
  check_qkv(c, rows, params, angle_error);
  c.rope = [](Rope& r) {
    r.original_length = 20;
    r.long_inv_freq = {};
    r.dynamic = true;
    r.dynamic_theta = 10000;
    r.dynamic_factor = 4;
  };
  check_qkv(c, rows, params, angle_error);
}

TEST_F(CudaTest, QkvTurnsAccuratelyAtTheLastPosition) {
  Case c;
  c.max_context = 131072;
  c.page_size = 256;
  // The angle is the same fp32 product on both sides; sine and cosine of 131071 rad must be as good as those
  // of 1.
  check_qkv(c, {{1, 131071, 1, 1}, {1, 105616, 2, 1}}, {}, 4 * 0x1p-24);
}

TEST_P(CudaVerbs, AddProjectAddsToTheResidual) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true})
    for (int rows = 1; rows <= 4; ++rows) {
      c.bias = bias;
      Pair pair(c);
      pair.randomize(x_of, 2);
      pair.randomize(o_of, 1);
      pair.randomize(h_of, 1);
      const Bucket bucket{rows, 1};
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj); });
      pair.expect_close(x_of, tolerance(DType::f32, 2, c.heads * c.head_dim));
      pair.run([&](Side& s) { s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj); });
      pair.expect_close(x_of, tolerance(DType::f32, 4, c.heads * c.head_dim + c.intermediate));
    }
}

TEST_P(CudaVerbs, GateUpIsSiluOfTheGateTimesUp) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true})
    for (int rows : {1, 3}) {
      c.bias = bias;
      Pair pair(c);
      pair.randomize(x_of, 2);
      pair.run([&](Side& s) { s.ops->gate_up({rows, 1}, s.layer()); });
      // Rounded: the normed x (felt by gate and up), gate, up and h. silu's slope is at most 1.1.
      pair.expect_close(h_of, tolerance(c.dtype, 6, 2 * c.hidden + 16), rows * c.intermediate);
    }
}

TEST_P(CudaVerbs, LogitsTakeTheRowsThatTheListNames) {
  Case c;
  c.dtype = GetParam();
  for (bool bias : {false, true}) {
    c.bias = bias;
    Pair pair(c);
    pair.randomize(x_of, 2);
    pair.set_logit_rows({3, 1, 0, 0});
    pair.run([&](Side& s) { s.ops->logits({4, 3}); });
    pair.expect_close(logits_of, tolerance(c.dtype, 1, 2 * c.hidden + 16), 3 * c.vocab);
  }
}

// ---- sample

void step(Side& s, Bucket bucket) {
  s.ops->embed(bucket);
  s.ops->qkv(bucket, s.layer());
  s.ops->attend(bucket, s.layer());
  s.ops->add_project(bucket, s.buffers.o, s.layer().o_proj);
  s.ops->gate_up(bucket, s.layer());
  s.ops->add_project(bucket, s.buffers.h, s.layer().down_proj);
  s.ops->logits(bucket);
  s.ops->sample(bucket);
}

TEST_P(CudaVerbs, ReplayGivesTheBitsOfTheEagerStep) {
  Case c;
  c.dtype = GetParam();
  c.qk_norm = true;
  Pair pair(c);
  Side& s = pair.cuda;
  const auto recorder = make_cuda_recorder(pair.cuda_device());
  SlotParams drawn;
  drawn.temperature = 1;
  drawn.top_p = 0.9f;
  drawn.seed_low = 5;
  pair.set_params({drawn, {}, {}, {}});
  const auto rows = [&](int32_t n) { pair.set_rows({{n, n, 1, 1}, {n + 9, 0, 2, 1}}); };
  rows(0);
  step(s, {2, 2});
  s.device->synchronize();
  RecordingCost cost;
  const auto recording = recorder->record([&] { step(s, {2, 2}); }, cost);
  EXPECT_GE(cost.nodes, 12);
  const auto pages = s.read(s.pages->data(), s.pages->bytes());
  for (int32_t n : {1, 2, 3}) {  // what changes lies in the input block: one recording serves every position
    rows(n);
    s.write(s.pages->data(), pages.data(), pages.size());
    for (int32_t p = 0; p < n; ++p) {
      rows(p);
      step(s, {2, 2});
      s.device->synchronize();
    }
    rows(n);
    step(s, {2, 2});
    const auto eager = s.read(s.buffers.logits.data, s.buffers.logits.bytes());
    const auto eager_sampled = s.read(s.buffers.sampled.data, s.buffers.sampled.bytes());
    s.device->fill(s.buffers.logits.data, 0xFF, s.buffers.logits.bytes());
    s.device->fill(s.buffers.sampled.data, 0xFF, 2 * sizeof(Sampled));
    rows(n);  // the eager step has moved them on
    recording->launch();
    s.device->synchronize();
    EXPECT_EQ(std::memcmp(eager.data(), s.read(s.buffers.logits.data, 2 * 90 * 4).data(), 2 * 90 * 4), 0)
        << n;
    EXPECT_EQ(std::memcmp(eager_sampled.data(), s.read(s.buffers.sampled.data, 32).data(), 32), 0) << n;
  }
}

TEST_F(CudaTest, WhatOtherRowsHoldChangesNoBitOfARow) {
  Pair pair(Case{});
  std::vector<std::byte> alone;
  for (bool padded : {true, false}) {
    pair.set_rows(
        {{5, 0, 1, 1}, padded ? Row{} : Row{17, 0, 2, 1}, {6, 0, 3, 1}, padded ? Row{} : Row{80, 0, 4, 1}});
    step(pair.cuda, {4, 4});
    auto logits = pair.cuda.read(pair.cuda.buffers.logits.data, pair.cuda.buffers.logits.bytes());
    for (size_t l : {1u, 3u})
      std::fill_n(logits.begin() + static_cast<long>(l * 90 * 4), 90 * 4, std::byte{0});
    if (padded) alone = logits;
    EXPECT_TRUE(logits == alone);
  }
}

template <class F>
void expect_error(ErrorKind kind, const std::string& part, F f) {
  try {
    f();
    ADD_FAILURE() << "expected " << error_kind_name(kind) << " with \"" << part << "\"";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "left behind for somebody else's call to find";
}

TEST_F(CudaTest, RecordingAStepThatFailsLeavesTheStreamUsable) {
  Pair pair(Case{});
  const auto recorder = make_cuda_recorder(pair.cuda_device());
  pair.set_rows({{1, 0, 1, 1}});
  RecordingCost cost;
  const auto record = [&] { recorder->record([&] { step(pair.cuda, {1, 1}); }, cost); };
  expect_error(ErrorKind::Misuse, "plan", record);  // never run eagerly
  step(pair.cuda, {1, 1});
  pair.cuda.device->synchronize();
  const auto illegal = [&] {
    recorder->record([&] { pair.cuda.device->allocate(256, "scratch of a step"); }, cost);
  };
  expect_error(ErrorKind::Misuse, "scratch of a step", illegal);
  expect_error(ErrorKind::Misuse, "cudaStreamSynchronize",
               [&] { recorder->record([&] { pair.cuda.device->synchronize(); }, cost); });
  expect_error(ErrorKind::Misuse, "already", [&] { recorder->record(record, cost); });
  const auto recording = recorder->record([&] { step(pair.cuda, {1, 1}); }, cost);
  recording->launch();
  pair.cuda.device->synchronize();
}

TEST_F(CudaTest, OutOfMemorySaysWhatWasAskedAndWhatIsFree) {
  const auto device = make_cuda_device(0);
  expect_error(ErrorKind::OutOfMemory,
               "weights: cudaMalloc: 1125899906842624 bytes of device memory were asked for",
               [&] { device->allocate(uint64_t{1} << 50, "weights"); });
  EXPECT_NE(device->allocate(256, "after it")->data(), nullptr);
  EXPECT_EQ(device->allocate(0, "nothing")->data(), nullptr);
}

TEST_F(CudaTest, ADeviceThatDoesNotExistIsRefusedByNumber) {
  expect_error(ErrorKind::InvalidArgument, "cuda:99", [] { make_cuda_device(99); });
  expect_error(ErrorKind::InvalidArgument, "cuda:-1", [] { make_cuda_device(-1); });
}

TEST_F(CudaTest, AForkedChildIsToldSoAndTheParentGoesOn) {
  const auto device = make_cuda_device(0);
  const pid_t child = fork();
  if (child == 0) {
    try {
      device->enter();
      _exit(1);
    } catch (const Error& e) {
      _exit(e.kind() == ErrorKind::Misuse ? 0 : 2);
    }
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const DeviceUse use(*device);
  device->synchronize();
}

TEST_F(CudaTest, AnErrorThatForeignCodeLeftIsNotOurs) {
  Pair pair(Case{});
  pair.set_rows({{1, 0, 1, 1}});
  EXPECT_NE(cudaSetDevice(1 << 20), cudaSuccess);  // stays in the runtime for whoever asks
  step(pair.cuda, {1, 1});
  pair.cuda.device->synchronize();
  cudaGetLastError();
}

TEST_F(CudaTest, WeightsThatDoNotFitTheDimensionsAreRefused) {
  Pair pair(Case{});
  Side& s = pair.cuda;
  Model model = s.model;
  model.layers[0].o_proj.weight.shape = {8, 8};
  expect_error(ErrorKind::InvalidArgument, "layers.0.o_proj.weight: expected f32 [40, 32], found f32 [8, 8]",
               [&] { make_cuda_ops(s.dims, s.buffers, model, pair.cuda_device().stream()); });
  StepDims dims = s.dims;
  dims.activation_dtype = DType::bf16;
  expect_error(ErrorKind::InvalidArgument, "activation_dtype",
               [&] { make_cuda_ops(dims, s.buffers, s.model, pair.cuda_device().stream()); });
}

#ifdef RONDO_SIMT
TEST_F(CudaTest, MachinesWithoutAUsableGpuSayWhy) {
  fake::Device device;
  const auto reason = [&] {
    fake::set_device(device);
    const std::string said = probe_cuda().unusable;
    expect_error(ErrorKind::DeviceLost, said, [] { make_cuda_device(0); });
    fake::reset();
    return said;
  };
  device.count = 0;
  EXPECT_EQ(reason(), "no CUDA device was found");
  device = {};
  device.driver_version = 12020;
  EXPECT_EQ(reason(), "the NVIDIA driver is too old (found 12.2, need 13.0)");
  device.driver_version = 0;
  EXPECT_EQ(reason(), "no NVIDIA driver was found");
  device = {};
  device.major = 7;
  device.minor = 5;
  EXPECT_EQ(reason(), "stand-in has compute capability 7.5, need 8.0");
}

TEST_F(CudaTest, AFaultOnTheDeviceIsDeviceLostFromThenOn) {
  {
    Pair pair(Case{});
    pair.set_rows({{1, 0, 1, 1}});
    step(pair.cuda, {1, 1});
    fake::device_fault(cudaErrorIllegalAddress);
    expect_error(ErrorKind::DeviceLost, "cudaErrorIllegalAddress", [&] { pair.cuda.device->synchronize(); });
    expect_error(ErrorKind::DeviceLost, "cudaErrorIllegalAddress", [&] { pair.cuda.ops->logits({1, 1}); });
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  fake::reset();
}

TEST_F(CudaTest, EverythingIsReleased) {
  fake::reset();
  {
    Pair pair(Case{});
    pair.set_rows({{1, 0, 1, 1}});
    step(pair.cuda, {1, 1});
    pair.cuda.device->synchronize();
    const auto event = pair.cuda.device->make_event();
    event->wait();  // none was recorded: returns at once
    event->record();
    event->wait();
    RecordingCost cost;
    const auto recording = make_cuda_recorder(pair.cuda_device())
                               ->record(
                                   [&] {
                                     step(pair.cuda, {1, 1});
                                   },
                                   cost);
  }
  EXPECT_EQ(fake::live_objects(), 0u) << fake::live_report();
  EXPECT_EQ(fake::misuse(), "");
}
#endif

TEST(CudaCheck, OnlyErrorsThatTakeTheContextAreSticky) {
  for (cudaError_t e : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorLaunchTimeout,
                        cudaErrorECCUncorrectable, cudaErrorCudartUnloading})
    EXPECT_TRUE(cuda::is_sticky(e)) << cudaGetErrorName(e);
  for (cudaError_t e : {cudaErrorMemoryAllocation, cudaErrorInvalidValue, cudaErrorStreamCaptureInvalidated,
                        cudaErrorNotReady})
    EXPECT_FALSE(cuda::is_sticky(e)) << cudaGetErrorName(e);
}

}  // namespace
}  // namespace rondo
