// Bulk copies with a planted fault: each is an error that names the line, or shows in the result, as soon as
// what it does is not defined on a GPU, whether or not it would go well there. Without the fault the same
// kernels raise no alarm.
#include "tests/simt/faulty_bulk_copies.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/simt/faulty_run.h"

namespace {

using namespace faulty;

constexpr unsigned kThreads = 256;

float sum_of_inputs(size_t t) { return input(t) + input(256 + t) + input(512 + t) + input(768 + t); }

TEST(SoundBulkCopies, RaiseNoAlarmAndAreTheSameInEveryOrder) {
  expect_no_alarm(sum_of_tiles<Fault::none>, 3, kThreads, 0);
  expect_no_alarm(sum_in_one_place<false>, 3, kThreads, 0);
  const Outcome o = run(sum_of_tiles<Fault::none>, 1, kThreads, 0, kOrders[0]);
  for (size_t t = 0; t < kThreads; ++t) ASSERT_EQ(o.out[t], sum_of_inputs(t));
}

template <Fault fault>
void expect_copy_error(const std::string& message) {
  expect_error(sum_of_tiles<fault>, 1, kThreads, message);
  expect_error(sum_of_tiles<fault>, 1, kThreads, "faulty_bulk_copies.cuh:");
}

TEST(FaultyBulkCopy, LandingThatNobodyPrepared) {
  expect_copy_error<Fault::unprepared>("a landing is used before it is prepared");
}
TEST(FaultyBulkCopy, LandingPreparedTwice) {
  expect_copy_error<Fault::prepared_twice>("a landing is prepared twice");
}
TEST(FaultyBulkCopy, LandingThatTheCopyEngineDoesNotKnow) {
  expect_copy_error<Fault::unannounced>("a bulk copy to a landing before prepare_landings_done()");
}
TEST(FaultyBulkCopy, LandingWrittenOver) {
  expect_copy_error<Fault::word_written_over>("a landing's word was written over");
}
TEST(FaultyBulkCopy, LandingOutsideSharedMemory) {
  expect_copy_error<Fault::landing_in_global_memory>("a landing lies outside the block's shared memory");
}
TEST(FaultyBulkCopy, AddressesThatAreNotMultiplesOf16) {
  expect_copy_error<Fault::misaligned_destination>("a bulk copy needs addresses that are multiples of 16");
  expect_copy_error<Fault::misaligned_source>("a bulk copy needs addresses that are multiples of 16");
}
TEST(FaultyBulkCopy, SizesThatTheCopyEngineDoesNotTake) {
  expect_copy_error<Fault::odd_size>("a bulk copy takes a multiple of 16 bytes, and not 0");
  expect_copy_error<Fault::no_bytes>("a bulk copy takes a multiple of 16 bytes, and not 0");
}
TEST(FaultyBulkCopy, PastTheBlocksSharedMemory) {
  expect_copy_error<Fault::past_shared>("a bulk copy runs past the block's shared memory");
}
TEST(FaultyBulkCopy, FromSharedMemory) {
  expect_copy_error<Fault::from_shared>("a bulk copy takes its bytes from global memory");
}
TEST(FaultyBulkCopy, StartedAgainBeforeAnybodyWaited) {
  expect_copy_error<Fault::started_twice>(
      "a bulk copy to a landing whose earlier copy nobody has waited for");
}
TEST(FaultyBulkCopy, TwoUnderWayToTheSameBytes) {
  expect_copy_error<Fault::two_copies_to_one_place>("a bulk copy goes where an earlier one has not landed");
}

// ---- waits

// They move at the last moment there is, or in reverse order at the first.
TEST(FaultyBulkCopy, BytesReadBeforeTheWaitAreTheOldOnesButInReverseOrder) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(sum_of_tiles<Fault::read_before_wait>, 1, kThreads, 0, order);
    ASSERT_EQ(o.status, cudaSuccess) << o.misuse;
    for (size_t t = 0; t < kThreads; ++t)
      ASSERT_EQ(std::isnan(o.out[t]), order.order != simt::Order::reverse) << t;
  }
}
#if !defined(__SANITIZE_THREAD__)
TEST(FaultyBulkCopy, BytesWrittenBeforeTheWaitAreSeenInReverseOrder) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(sum_of_tiles<Fault::written_before_wait>, 1, kThreads, 0, order);
    ASSERT_EQ(o.status, cudaSuccess) << o.misuse;
    for (size_t t = 0; t < kThreads; ++t)
      ASSERT_EQ(o.out[t] == sum_of_inputs(t), order.order != simt::Order::reverse) << t;
  }
}
#endif
TEST(FaultyBulkCopy, BlockThatEndsBeforeItsCopyLanded) {
  expect_copy_error<Fault::last_wait_forgotten>("a block ended with a bulk copy under way");
}
TEST(FaultyBulkCopy, ParityThatAGpuWouldNotWaitFor) {
  expect_copy_error<Fault::wrong_parity_at_first>("a wait for parity 1 of a landing that has had no use");
  expect_copy_error<Fault::wrong_parity_later>("a block ended with a bulk copy under way");
}
TEST(FaultyBulkCopy, ParityThatAGpuWouldWaitForForEver) {
  expect_copy_error<Fault::waits_for_no_copy>("256 for a bulk copy that nobody starts");
}
TEST(FaultyBulkCopy, UseThatAThreadMissesSinceTheNextCopyDoesNotWaitForIt) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(sum_of_tiles<Fault::no_barrier_before_next_copy>, 1, kThreads, 0, order);
    EXPECT_EQ(o.status, cudaErrorLaunchFailure);
    const bool missed = o.misuse.find("it would miss it") != std::string::npos,
               waits = o.misuse.find("for a bulk copy that nobody starts") != std::string::npos;
    EXPECT_TRUE(missed || waits) << o.misuse;
  }
}

// ---- what other threads do with a landing and its bytes

#if defined(__SANITIZE_THREAD__)
TEST(FaultyBulkCopyDeathTest, BytesOverwrittenWhileOthersReadThem) {
  for (const simt::Options& order : kOrders)
    expect_reported_race(sum_in_one_place<true>, 1, kThreads, order, "faulty_bulk_copies.cuh");
}
TEST(FaultyBulkCopyDeathTest, LandingUsedWithoutABarrierBehindItsPreparation) {
  expect_reported_race(sum_of_tiles<Fault::no_barrier_behind_preparation>, 1, kThreads, kOrders[0],
                       "faulty_bulk_copies.cuh");
}
#else
TEST(FaultyBulkCopy, BytesOverwrittenWhileOthersReadThem) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run(sum_in_one_place<true>, 1, kThreads, 0, order);
    ASSERT_EQ(o.status, cudaSuccess) << o.misuse;
    EXPECT_NE(o.out[1], sum_of_inputs(1));
  }
}
TEST(FaultyBulkCopy, LandingUsedWithoutABarrierBehindItsPreparation) {
  const Outcome o =
      run(sum_of_tiles<Fault::no_barrier_behind_preparation>, 1, kThreads, 0, {simt::Order::reverse, 1});
  EXPECT_EQ(o.status, cudaErrorLaunchFailure);
  EXPECT_NE(o.misuse.find("a landing is used before it is prepared"), std::string::npos) << o.misuse;
}
#endif

// ---- tiles and their products

float tile_element(int row, int k) { return row < 32 && k % 2 == 1 ? input(size_t(row * 32 + k / 2)) : 0.0f; }

float sum_of_products(size_t m, size_t n) {
  float sum = 0;
  for (int step = 0; step < kTileSteps; ++step)
    for (int k = 0; k < 64; ++k)
      sum += tile_element(4 * step + int(m), k) * tile_element(8 * step + int(n), k);
  return sum;
}

// What sum i of thread t should be.
float expected_sum(size_t t, size_t i) {
  return sum_of_products(t / 32 * 16 + t % 32 / 4 + i / 2 * 8, t % 4 * 2 + i % 2);
}

bool right(const Outcome& o) {
  for (size_t t = 0; t < 128; ++t)
    for (size_t i = 0; i < 4; ++i)
      if (o.out[4 * t + i] != expected_sum(t, i)) return false;
  return true;
}

template <TileFault fault>
Outcome run_tiles(const simt::Options& order) {
  return run(products_of_tiles<fault>, 1, kTileThreads, kTileShared, order);
}

TEST(SoundTiles, RaiseNoAlarmAndAreTheSameInEveryOrder) {
  expect_no_alarm(products_of_tiles<TileFault::none>, 3, kTileThreads, kTileShared);
  EXPECT_TRUE(right(run_tiles<TileFault::none>(kOrders[0])));
}

template <TileFault fault>
void expect_tile_error(const std::string& message) {
  expect_error(products_of_tiles<fault>, 1, kTileThreads, message, kTileShared);
}

TEST(FaultyTile, AddressThatIsNoMultipleOf1024) {
  expect_tile_error<TileFault::misaligned>("a tile needs an address that is a multiple of 1024");
  expect_tile_error<TileFault::misaligned>("faulty_bulk_copies.cuh:");
}
TEST(FaultyTile, PastTheBlocksSharedMemory) {
  expect_tile_error<TileFault::past_shared>("a bulk copy runs past the block's shared memory");
}
TEST(FaultyTile, BytesThatNobodyExpects) {
  expect_tile_error<TileFault::nothing_expected>("a bulk copy to a landing without expect_bytes() before it");
}
TEST(FaultyTile, MoreBytesThanExpected) {
  expect_tile_error<TileFault::too_many_bytes>(
      "bulk copies to a landing have more bytes than expect_bytes() announced");
}
TEST(FaultyTile, FewerBytesThanExpected) {
  expect_tile_error<TileFault::too_few_bytes>(
      "for a bulk copy that nobody starts or an arrival that nobody makes");
  expect_tile_error<TileFault::too_few_bytes>("1 of 1 arrivals and copies of 9216 of 9232 announced bytes");
}
TEST(FaultyTile, MoreArrivalsThanTheLandingTakes) {
  expect_tile_error<TileFault::expected_twice>("more arrivals at a landing than it was prepared for");
}
TEST(FaultyTile, FewerArrivalsThanTheLandingTakes) {
  expect_tile_error<TileFault::too_few_arrivals>("a landing has ");
  expect_tile_error<TileFault::too_few_arrivals>("deadlock in block (0,0,0)");
}

TEST(FaultyProduct, SumsReadBeforeTheWaitAreTheOldOnes) {
  const Outcome sound = run_tiles<TileFault::none>(kOrders[0]);
  for (const simt::Options& order : kOrders) {
    const Outcome o = run_tiles<TileFault::sums_read_before_wait>(order);
    ASSERT_EQ(o.status, cudaSuccess) << o.misuse;
    EXPECT_LT(o.out[0], sound.out[0]);  // the last step is missing
  }
}
TEST(FaultyProduct, NobodyWaitsForIt) {
  expect_tile_error<TileFault::last_wait_forgotten>("a product was started that nobody waited for");
}
TEST(FaultyProduct, OfWhatIsNoTile) {
  expect_tile_error<TileFault::product_of_misaligned_tile>(
      "a tile needs an address that is a multiple of 1024");
  expect_tile_error<TileFault::product_past_shared>("a product's tile runs past the block's shared memory");
}
TEST(FaultyProduct, OfLessThanAWarpgroup) {
  expect_tile_error<TileFault::product_of_one_warp>("a product of tiles takes a whole warpgroup");
  expect_tile_error<TileFault::lanes_differ>("lanes of one warp have started different products");
  expect_tile_error<TileFault::warps_differ>("warps of one warpgroup multiply different tiles");
}

// A stage that is filled again while warps still multiply what lies there.
#if defined(__SANITIZE_THREAD__)
TEST(FaultyProductDeathTest, TileOverwrittenUnderIt) {
  for (const simt::Options& order : kOrders) {
    expect_reported_race(products_of_tiles<TileFault::refilled_without_release>, 1, kTileThreads, order,
                         "products_of_tiles", kTileShared);
    expect_reported_race(products_of_tiles<TileFault::released_before_wait>, 1, kTileThreads, order,
                         "products_of_tiles", kTileShared);
  }
}
#else
TEST(FaultyProduct, TileOverwrittenUnderIt) {
  for (const simt::Options& order : kOrders) {
    const Outcome o = run_tiles<TileFault::refilled_without_release>(order);
    EXPECT_TRUE(o.status != cudaSuccess || !right(o));
    const Outcome late = run_tiles<TileFault::waited_at_the_end>(order);
    EXPECT_TRUE(late.status != cudaSuccess || !right(late));
  }
}
#endif

#if defined(__SANITIZE_ADDRESS__)
TEST(FaultyBulkCopyDeathTest, PastGlobalMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run(sum_of_tiles<Fault::past_global>, 1, kThreads, 0, kOrders[0]),
               "heap-buffer-overflow(.|\n)*faulty_bulk_copies.cuh");
}
TEST(FaultyTileDeathTest, PastGlobalMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run_tiles<TileFault::past_global>(kOrders[0]),
               "heap-buffer-overflow(.|\n)*faulty_bulk_copies.cuh");
}
#endif

}  // namespace
