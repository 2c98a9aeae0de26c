// Planted faults: each is caught, by an error that names the line, by a result that is NaN or depends on the
// order of threads, or by a sanitizer, which then needs a build with it. Without the fault, the same kernels
// raise no alarm.
#include "tests/simt/faulty_kernels.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "buffers/error.h"
#include "tests/simt/faulty_run.h"

namespace {

using namespace faulty;
using rondo::cuda::launch;
using simt_test::DeviceArray;

struct Sound {
  const char* name;
  Kernel kernel;
  unsigned grid, block;
  size_t shared;
};
class SoundKernel : public testing::TestWithParam<Sound> {};
INSTANTIATE_TEST_SUITE_P(
    Kernels, SoundKernel,
    testing::Values(Sound{"sum_without_barrier", sum_without_barrier<false>, 4, 256, 0},
                    Sound{"reuse_without_barrier", reuse_without_barrier<false>, 1, 256, 0},
                    Sound{"exchange_without_syncwarp", exchange_without_syncwarp<false>, 1, 32, 0},
                    Sound{"sum_without_atomics", sum_without_atomics<false>, 1, 256, 0},
                    Sound{"blocks_overwrite", blocks_overwrite<false>, 4, 256, 0},
                    Sound{"past_static_shared", past_static_shared<false>, 1, 32, 0},
                    Sound{"reverse_in_dynamic_shared", reverse_in_dynamic_shared<true>, 1, 256, 1024},
                    Sound{"read_unwritten_shared", read_unwritten_shared<false>, 1, 256, 0},
                    Sound{"misaligned_load", misaligned_load<false>, 1, 32, 0},
                    Sound{"misaligned_async_copy", misaligned_async_copy<false>, 1, 32, 0},
                    Sound{"misaligned_matrix_row", misaligned_matrix_row<false>, 1, 32, 0},
                    Sound{"past_global", past_global<false>, 1, 256, 0},
                    Sound{"leave_before_barrier", leave_before_barrier<false>, 1, 256, 0},
                    Sound{"two_barriers", two_barriers<false>, 1, 256, 0},
                    Sound{"shuffle_after_exit", shuffle_after_exit<false>, 1, 32, 0},
                    Sound{"two_collectives", two_collectives<false>, 1, 32, 0},
                    Sound{"mask_without_caller", mask_without_caller<false>, 1, 32, 0},
                    Sound{"give_up", give_up<false>, 1, 32, 0},
                    Sound{"too_much_static_shared", too_much_static_shared<false>, 1, 32, 0}),
    [](const testing::TestParamInfo<Sound>& sound) { return std::string(sound.param.name); });

TEST_P(SoundKernel, RaisesNoAlarmAndIsTheSameInEveryOrder) {
  const Sound& k = GetParam();
  expect_no_alarm(k.kernel, k.grid, k.block, k.shared);
}

// ---- faults that end the launch with an error

TEST(FaultyKernel, BarrierThatSomeThreadsNeverReach) {
  expect_error(leave_before_barrier<true>, 1, 256, "56 threads have exited, 200 wait at __syncthreads()");
  expect_error(leave_before_barrier<true>, 1, 256, "faulty_kernels.cuh:");
}
TEST(FaultyKernel, AWordOfABlockThatComesLater) {
  constexpr auto kInOrder = rondo::cuda::Blocks::wait_for_lower;
  for (const simt::Options& order : kOrders) {
    EXPECT_EQ(run<kInOrder>(word_of_another_block<false>, 4, 1, 0, order).status, cudaSuccess);
    const Outcome o = run<kInOrder>(word_of_another_block<true>, 4, 1, 0, order);
    EXPECT_EQ(o.status, cudaErrorLaunchFailure);
    EXPECT_NE(o.misuse.find("a block waits for a word that no block before it has left: block (0,0,0)"),
              std::string::npos)
        << o.misuse;
  }
}
TEST(FaultyKernel, TwoBarriers) {
  expect_error(two_barriers<true>, 1, 256, "threads of one block meet at different __syncthreads()");
}
TEST(FaultyKernel, ShuffleAfterSomeLanesLeft) {
  const Outcome o = run(shuffle_after_exit<true>, 1, 32, 0, kOrders[0]);
  EXPECT_EQ(o.status, cudaErrorLaunchFailure);
  EXPECT_NE(o.misuse.find("sample_kernels.cuh:"), std::string::npos) << o.misuse;
}
TEST(FaultyKernel, TwoCollectivesInOneWarp) {
  expect_error(two_collectives<true>, 1, 32, "lanes of one warp meet in different collectives");
}
TEST(FaultyKernel, MaskWithoutItsCaller) {
  expect_error(mask_without_caller<true>, 1, 32, "a lane calls a warp collective whose mask leaves it out");
}
TEST(FaultyKernel, Trap) { expect_error(give_up<true>, 1, 32, "__trap(): block (0,0,0) thread (3,0,0)"); }
TEST(FaultyKernel, AsynchronousCopyFromAnAddressAskew) {
  expect_error(misaligned_async_copy<true>, 1, 32, "addresses that are multiples of 16");
  expect_error(misaligned_async_copy<true>, 1, 32, "faulty_kernels.cuh:");
}
TEST(FaultyKernel, MatrixRowAtAnAddressAskew) {
  expect_error(misaligned_matrix_row<true>, 1, 32, "an address that is a multiple of 16");
  expect_error(misaligned_matrix_row<true>, 1, 32, "faulty_kernels.cuh:");
}
TEST(FaultyKernel, TooMuchStaticSharedMemory) {
  expect_error(too_much_static_shared<true>, 1, 32, "static shared memory over 48 KiB");
}

TEST(FaultyKernel, TheErrorsTextSaysWhatTheExecutorSaw) {
  fake::reset();
  DeviceArray<float> x(32);
  launch(give_up<true>, dim3(1), dim3(32), 0, nullptr, x.data(), static_cast<const float*>(x.data()));
  const cudaError_t e = cudaStreamSynchronize(nullptr);
  EXPECT_EQ(e, cudaErrorLaunchFailure);
  EXPECT_NE(std::string(cudaGetErrorString(e)).find("unspecified launch failure (__trap()"),
            std::string::npos);
  fake::reset();
}

TEST(FaultyKernel, TheExecutorWorksOnAfterAnError) {
  run(two_barriers<true>, 1, 256, 0, kOrders[0]);
  const Outcome o = run(two_barriers<false>, 1, 256, 0, kOrders[0]);
  EXPECT_EQ(o.status, cudaSuccess) << o.misuse;
  EXPECT_EQ(o.out[255], input(255));
}

TEST(FaultyKernel, LaunchesBeyondTheLimits) {
  EXPECT_THROW(run(reverse_in_dynamic_shared<true>, 1, 256, 50000, {}), rondo::Error);
  EXPECT_THROW(run(leave_before_barrier<false>, 1, 1025, 0, {}), rondo::Error);
  fake::reset();
}

// ---- faults that show in the result

TEST(FaultyKernel, UnwrittenSharedMemoryIsNaN) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(read_unwritten_shared<true>, 1, 256, 0, order);
    EXPECT_TRUE(std::isnan(o.out[0]));
    EXPECT_EQ(o.out[1], input(254));
  }
}

TEST(FaultyKernel, BlocksThatOverwriteEachOtherDependOnTheOrder) {
  const Outcome forward = run(blocks_overwrite<true>, 4, 256, 0, {simt::Order::forward, 1});
  const Outcome reverse = run(blocks_overwrite<true>, 4, 256, 0, {simt::Order::reverse, 1});
  EXPECT_NE(forward.out, reverse.out);
}

// ---- races between the threads of a block: ThreadSanitizer sees each of them in any order, a plain build
// sees that the result depends on the order, or is NaN

#if defined(__SANITIZE_THREAD__)
void expect_race(Kernel kernel, unsigned grid, unsigned block) {
  for (const simt::Options& order : kOrders)
    expect_reported_race(kernel, grid, block, order, "faulty_kernels.cuh");
}
#else
void expect_race(Kernel kernel, unsigned grid, unsigned block) {
  const Outcome first = run(kernel, grid, block, 0, kOrders[0]);
  bool suspicious = false;
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(kernel, grid, block, 0, order);
    suspicious |= o.out != first.out;  // NaN is unlike itself
  }
  EXPECT_TRUE(suspicious);
}
#endif

TEST(FaultyKernelDeathTest, MissingBarrier) { expect_race(sum_without_barrier<true>, 4, 256); }
TEST(FaultyKernelDeathTest, SharedBufferReusedTooEarly) { expect_race(reuse_without_barrier<true>, 1, 256); }
TEST(FaultyKernelDeathTest, MissingSyncwarp) { expect_race(exchange_without_syncwarp<true>, 1, 32); }
#if defined(__SANITIZE_THREAD__)  // a fiber is not interrupted between its load and its store
TEST(FaultyKernelDeathTest, SumWithoutAtomics) { expect_race(sum_without_atomics<true>, 1, 256); }
#endif

// ---- accesses outside or askew, which AddressSanitizer and UndefinedBehaviorSanitizer see

#if defined(__SANITIZE_ADDRESS__)
void expect_death(Kernel kernel, unsigned block, size_t shared, const char* report) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const simt::Options& order : {kOrders[0], kOrders[1]})
    EXPECT_DEATH(run(kernel, 1, block, shared, order), report);
}
TEST(FaultyKernelDeathTest, PastStaticShared) {
  expect_death(past_static_shared<true>, 32, 0, "heap-buffer-overflow(.|\n)*faulty_kernels.cuh");
}
TEST(FaultyKernelDeathTest, DynamicSharedTooSmall) {
  expect_death(reverse_in_dynamic_shared<true>, 256, 1020, "heap-buffer-overflow(.|\n)*faulty_kernels.cuh");
}
TEST(FaultyKernelDeathTest, PastGlobal) {
  expect_death(past_global<true>, 256, 0, "heap-buffer-overflow(.|\n)*faulty_kernels.cuh");
}
TEST(FaultyKernelDeathTest, MisalignedLoad) {
  expect_death(misaligned_load<true>, 32, 0, "faulty_kernels.cuh(.|\n)*misaligned address");
}

// A graph that still holds the address of memory that was freed.
void replay_with_a_stale_pointer() {
  DeviceArray<float> in(32);
  auto out = std::make_unique<DeviceArray<float>>(32);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(give_up<false>, dim3(1), dim3(32), 0, stream, out->data(), static_cast<const float*>(in.data()));
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  out.reset();
  cudaGraphLaunch(exec, stream);
  cudaStreamSynchronize(stream);
}
TEST(FaultyKernelDeathTest, StalePointerInAGraph) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(replay_with_a_stale_pointer(), "heap-use-after-free");
}
#endif

}  // namespace
