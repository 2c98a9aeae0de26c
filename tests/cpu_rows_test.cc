// The bits of a row against company and threads, and the threads themselves.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "kernels/cpu/sharing.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/cpu_bed.h"

namespace rondo {
namespace {

using test::Bed;
using test::put;
using test::Spec;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Whatever else is in the step, and however many threads, the bits of one row: x, q, o, h, logits, its draw,
// its K and V.
std::vector<char> bits_of_row(Bed& t, int rows, int place) {
  const Spec& spec = t.s;
  std::vector<Row> all;
  for (int r = 0; r < rows; ++r)
    all.push_back({(r * 31 + 5) % spec.vocab, 10 + r, r < place ? r + 2 : r + 1, 1});
  all[static_cast<size_t>(place)] = {17, 37, 1, 1};
  t.b.slots.as<SlotParams>()[1].temperature = 1;
  t.step(t.set_rows(all));
  std::vector<char> bits;
  const auto keep = [&](const void* p, int64_t bytes) {
    bits.insert(bits.end(), static_cast<const char*>(p), static_cast<const char*>(p) + bytes);
  };
  for (const View& v : {t.b.x, t.b.q, t.b.o, t.b.h, t.b.logits})
    keep(v.as<float>() + place * v.shape[1], v.shape[1] * 4);
  keep(t.b.sampled.as<Sampled>() + place, sizeof(Sampled));
  const int64_t size = static_cast<int64_t>(dtype_bytes(spec.dtype));
  for (int g = 0; g < spec.kv_heads; ++g)
    for (const View& v : {t.m.layers[0].pages.k, t.m.layers[0].pages.v})
      keep(v.as<char>() + t.page_element(1, 37, g) * size, spec.head_dim * size);
  return bits;
}

#if defined(__SANITIZE_THREAD__)  // how threads share the work does not depend on the dtype
constexpr DType kDTypes[] = {DType::bf16};
#else
constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};
#endif

TEST(CpuRows, BitsDependOnNeitherCompanyNorThreads) {
  for (DType dtype : kDTypes) {
    for (int hidden : {72, 1100}) {
      Spec s;
      s.dtype = dtype;
      s.hidden = hidden;
      s.intermediate = 1030;
      s.threads = 1;
      s.bias = s.head_norm = true;
      Bed first(s);
      const std::vector<char> alone = bits_of_row(first, 1, 0);
      for (auto [threads, worth_sharing_ns] :
           {std::pair{1, int64_t{0}}, {2, 0}, {3, 0}, {2, kWorthSharingNs}}) {
        s.threads = threads;
        s.worth_sharing_ns = worth_sharing_ns;
        Bed bed(s);
        for (auto [rows, place] :
             {std::pair{1, 0}, {2, 1}, {3, 0}, {5, 4}, {7, 3}, {8, 5}, {33, 0}, {33, 20}, {33, 32}})
          ASSERT_TRUE(bits_of_row(bed, rows, place) == alone)
              << dtype_name(dtype) << " hidden " << hidden << " threads " << threads << " row " << place
              << " of " << rows;
      }
    }
  }
}

// Products of `rows` rows of bf16, by what they take alone.
TEST(CpuSharing, TinyLoopsAreTheCallersAndThoseOfLargeModelsAreShared) {
  const auto shared = [](int64_t outputs, int64_t inputs, int64_t rows, int64_t weights) {
    return nanoseconds_alone({outputs * inputs * rows, outputs * inputs * 2}, weights) >= kWorthSharingNs;
  };
  const int64_t demo = 4 << 20, small = 270'000'000, large = 2'470'000'000;
  for (auto [outputs, inputs] : {std::pair{320, 192}, {192, 192}, {1024, 192}, {192, 512}, {256, 192}})
    EXPECT_FALSE(shared(outputs, inputs, 1, demo)) << outputs << " x " << inputs;
  EXPECT_TRUE(shared(1024, 192, 32, demo)) << "a prompt's";
  EXPECT_TRUE(shared(576, 576, 1, small)) << "few multiply-adds, but from memory";
  EXPECT_TRUE(shared(2048, 2048, 1, large));
}

// Few rows are streamed and many go by blocks; a row must not see which.
void expect_the_bits_of_rows_alone(DType dtype, bool pairs) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> scratch(multiply_scratch_floats());
  for (auto [out, in] : {std::pair<int64_t, int64_t>{1, 3}, {7, 512}, {131, 1100}, {270, 40}}) {
    constexpr size_t kRows = 260;  // more than one block of rows
    const size_t outs = static_cast<size_t>(out), ins = static_cast<size_t>(in);
    std::vector<char> memory(static_cast<size_t>(out * in + out) * dtype_bytes(dtype));
    Product p;
    p.weight = View{memory.data(), dtype, {out, in}};
    p.bias = View{memory.data() + static_cast<size_t>(out * in) * dtype_bytes(dtype), dtype, {out}};
    for (int64_t i = 0; i < out * in + out; ++i) put(p.weight, i, uniform(random));
    std::vector<float> x(kRows * ins), before(kRows * outs);
    for (float& f : x) f = uniform(random);
    for (float& f : before) f = uniform(random);
    std::vector<uint16_t> rounded(x.size());
    if (pairs) round_to_bf16(x.data(), x.size(), rounded.data());
    const auto from_row = [&](size_t r) {
      p.x = x.data() + r * ins;
      p.rounded = pairs ? rounded.data() + r * ins : nullptr;
    };
    p.x_stride = ins;
    p.y_stride = outs;
    p.add = true;
    std::vector<float> alone = before;
    for (size_t r = 0; r < kRows; ++r) {
      p.rows = 1;
      from_row(r);
      p.y = alone.data() + r * outs;
      multiply(p, 0, outs, scratch.data());
    }
    for (size_t rows : {2, 3, 4, 5, 6, 7, 9, 17, 260}) {
      std::vector<float> together = before;
      p.rows = rows;
      from_row(0);
      p.y = together.data();
      const size_t middle = outs / 8 * 4;  // as two threads would share it
      multiply(p, 0, middle, scratch.data());
      multiply(p, middle, outs, scratch.data());
      ASSERT_EQ(memcmp(together.data(), alone.data(), rows * outs * sizeof(float)), 0)
          << dtype_name(dtype) << " " << out << " x " << in << ", " << rows << " rows";
      ASSERT_TRUE(std::equal(together.begin() + static_cast<std::ptrdiff_t>(rows * outs), together.end(),
                             before.begin() + static_cast<std::ptrdiff_t>(rows * outs)))
          << "rows beyond the last were written";
    }
  }
}

TEST(CpuProduct, ARowsBitsAreTheSameStreamedAndInBlocks) {
  for (DType dtype : kDTypes) expect_the_bits_of_rows_alone(dtype, false);
}

TEST(CpuProduct, ARowsBitsAreTheSameStreamedAndInBlocksByPairs) {
  if (!has_pairs()) GTEST_SKIP() << "this CPU does not multiply pairs of bf16";
  expect_the_bits_of_rows_alone(DType::bf16, true);
}

TEST(CpuProduct, ActivationsOfPairsAreRoundedToNearestEven) {
  if (!has_pairs()) GTEST_SKIP() << "this CPU does not multiply pairs of bf16";
  std::vector<float> x = {1.00390625f, 1.01171875f, -1.00390625f, 3.4e38f, kNan, -0.0f};
  x.push_back(std::numeric_limits<float>::infinity());
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 1000; ++i) x.push_back(normal(random));
  std::vector<uint16_t> found(x.size() + 1, 0x1234);
  round_to_bf16(x.data(), x.size(), found.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const bool nan = x[i] != x[i];
    EXPECT_TRUE(nan ? std::isnan(f32_from_bf16(found[i])) : found[i] == bf16_from_f32(x[i])) << x[i];
  }
  EXPECT_EQ(found.back(), 0x1234) << "written beyond the last";
}

TEST(CpuRows, NaNInOneRowLeavesTheOthersBitsAlone) {
  Spec s;
  const std::vector<Row> rows = {{1, 3, 1, 1}, {2, 4, 2, 1}, {3, 5, 3, 1}};
  Bed clean(s), dirty(s);
  clean.step(clean.set_rows(rows));
  const Bucket k = dirty.set_rows(rows);
  put(dirty.m.embedding, 2 * s.hidden, kNan);
  dirty.m.lm_head = {};
  dirty.ops = make_cpu_ops(
      dirty.d, dirty.b,
      [&] {
        Model m = dirty.m;
        m.lm_head.weight = clean.m.embedding;
        return m;
      }(),
      2);
  dirty.step(k);
  EXPECT_EQ(dirty.b.sampled.as<Sampled>()[1].status, Sampled::kNumerical);
  EXPECT_EQ(dirty.b.sampled.as<Sampled>()[1].token, 0);
  for (int r : {0, 2}) {
    EXPECT_EQ(dirty.b.sampled.as<Sampled>()[r].status, Sampled::kOk);
    EXPECT_EQ(memcmp(dirty.b.logits.as<float>() + r * s.vocab, clean.b.logits.as<float>() + r * s.vocab,
                     static_cast<size_t>(s.vocab) * 4),
              0);
  }
}

// More threads than cores, so that most come late: each index is done once, a thread's number is nobody
// else's, and what one loop wrote the next one finds.
TEST(ThreadPool, APieceIsTakenOnceByWhoeverComesFirst) {
  constexpr int kThreads = 16, kLoops = 400, kItems = 1000, kGrain = 3;
  ThreadPool pool(kThreads);
  std::vector<int> done(kItems);  // loops, written without a lock
  for (int loop = 0; loop < kLoops; ++loop) {
    std::array<std::atomic<int>, kThreads> busy{};
    std::atomic<int> misused{0};
    pool.parallel_for(kItems, kGrain, [&](int64_t begin, int64_t end, int thread) {
      if (busy[static_cast<size_t>(thread)].fetch_add(1) != 0) ++misused;
      if (begin % kGrain != 0 || (end % kGrain != 0 && end != kItems)) ++misused;
      for (int64_t i = begin; i < end; ++i)
        if (done[static_cast<size_t>(i)]++ != loop) ++misused;
      busy[static_cast<size_t>(thread)].fetch_sub(1);
    });
    ASSERT_EQ(misused.load(), 0) << "loop " << loop;
    ASSERT_EQ(std::count(done.begin(), done.end(), loop + 1), kItems) << "loop " << loop;
  }
}

// A thread that has a long piece keeps nobody from the others.
TEST(ThreadPool, WhoIsHeldUpKeepsOnePieceAlone) {
  ThreadPool pool(2);
  std::atomic<int> others{0};
  int64_t pieces = 0;
  pool.parallel_for(16, 1, [&](int64_t begin, int64_t end, int) {
    if (begin != 0) {
      others.fetch_add(static_cast<int>(end - begin));
      return;
    }
    pieces = end - begin;
    // Whoever has it waits until the other thread has done all the rest.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (others.load() < 15 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT_EQ(pieces, 1);
  EXPECT_EQ(others.load(), 15);
}

TEST(ThreadPool, CoversEveryIndexOnceAndSurvivesSleepAndFork) {
  auto pool = std::make_unique<ThreadPool>(3);
  ASSERT_EQ(pool->threads(), 3);
  const auto covered = [&](int64_t n) {
    std::vector<int> hits(static_cast<size_t>(n));
    pool->parallel_for(n, 2, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
    return std::count(hits.begin(), hits.end(), 1) == n;
  };
  for (int round = 0; round < 300; ++round)
    for (int64_t n : {0, 1, 2, 3, 7, 100}) ASSERT_TRUE(covered(n)) << n;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // workers are asleep by now, and must wake
  ASSERT_TRUE(covered(100));
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool ok = covered(100);
    pool.reset();
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  ASSERT_TRUE(covered(100));
}

}  // namespace
}  // namespace rondo
