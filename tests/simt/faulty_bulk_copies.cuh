// Kernels that stream tiles through shared memory by bulk copies, with one planted fault or none. in: 1024
// floats; out: 1024 floats, zeroed.
#pragma once

#include "kernels/cuda/dialect.h"

namespace faulty {

enum class Fault {
  none,
  unprepared,
  prepared_twice,
  unannounced,
  word_written_over,
  landing_in_global_memory,
  no_barrier_behind_preparation,
  misaligned_destination,
  misaligned_source,
  odd_size,
  no_bytes,
  past_shared,
  from_shared,
  past_global,
  read_before_wait,
  written_before_wait,
  last_wait_forgotten,
  wrong_parity_at_first,
  wrong_parity_later,
  waits_for_no_copy,
  started_twice,
  two_copies_to_one_place,
  no_barrier_before_next_copy,
};

// out[t] = in[t] + in[256 + t] + in[512 + t] + in[768 + t]; one block of 256 threads. Tiles of 256 values go
// through two places in turn, each with its landing; thread 0 starts the copies.
template <Fault fault>
__global__ void sum_of_tiles(float* out, const float* in) {
  constexpr int kTile = 256, kTiles = 4, kPlaces = 2;
  RONDO_SHARED(landings, rondo::cuda::Landing[kPlaces]);
  RONDO_SHARED(places, float4[kPlaces * kTile / 4]);
  const int t = int(threadIdx.x);
  float* const values = reinterpret_cast<float*>(places);
  const auto start = [&](int tile) {
    rondo::cuda::copy_bulk(values + tile % kPlaces * kTile, in + tile * kTile, kTile * sizeof(float),
                           &landings[tile % kPlaces]);
  };
  const auto faulty_start = [&](const void* from, int to, unsigned bytes) {
    rondo::cuda::copy_bulk(values + to, from, bytes, &landings[1]);
  };

  if (t == 0) {
    if (fault != Fault::unprepared)
      for (int i = 0; i < kPlaces; ++i) rondo::cuda::prepare_landing(&landings[i]);
    if (fault == Fault::prepared_twice) rondo::cuda::prepare_landing(&landings[1]);
    if (fault == Fault::word_written_over) landings[1] = 0;
    if (fault == Fault::landing_in_global_memory)
      rondo::cuda::prepare_landing(reinterpret_cast<rondo::cuda::Landing*>(out));
    if (fault != Fault::unannounced) rondo::cuda::prepare_landings_done();
  }
  if (fault != Fault::no_barrier_behind_preparation) __syncthreads();

  if (t == 0) {
    if (fault == Fault::misaligned_destination) faulty_start(in, 1, 16);
    if (fault == Fault::misaligned_source) faulty_start(in + 1, 0, 16);
    if (fault == Fault::odd_size) faulty_start(in, 0, 8);
    if (fault == Fault::no_bytes) faulty_start(in, 0, 0);
    if (fault == Fault::past_shared) faulty_start(in, kTile + 4, kTile * sizeof(float));
    if (fault == Fault::from_shared) faulty_start(values, kTile, 16);
    if (fault == Fault::past_global) faulty_start(in + 1020, 0, 32);
    start(0);
    if (fault == Fault::started_twice) start(0);
    if (fault == Fault::two_copies_to_one_place) faulty_start(in, kTile - 4, 32);
    start(1);
  }
  float sum = 0.0f;
  if (fault == Fault::read_before_wait) {
    __syncthreads();
    sum = values[t];
    __syncthreads();
  }
  if (fault == Fault::written_before_wait) {
    __syncthreads();
    values[t] = -1.0f;
    __syncthreads();
  }
  if (fault == Fault::wrong_parity_at_first) rondo::cuda::wait_landed(&landings[0], 1);
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool wrong = fault == Fault::wrong_parity_later && tile == kTiles - 1;
    if (fault != Fault::last_wait_forgotten || tile < kTiles - 1)
      rondo::cuda::wait_landed(&landings[tile % kPlaces], (tile / kPlaces + (wrong ? 1 : 0)) % 2);
    sum += values[tile % kPlaces * kTile + t];
    if (fault != Fault::no_barrier_before_next_copy) __syncthreads();
    if (t == 0 && tile + kPlaces < kTiles) start(tile + kPlaces);
  }
  if (fault == Fault::waits_for_no_copy) rondo::cuda::wait_landed(&landings[0], 0);
  out[t] = sum;
}

// The same sum with one place for all tiles and a landing for each. Fault: no barrier between what is read of
// the place and the next copy to it.
template <bool kFaulty>
__global__ void sum_in_one_place(float* out, const float* in) {
  constexpr int kTile = 256, kTiles = 4;
  RONDO_SHARED(landings, rondo::cuda::Landing[kTiles]);
  RONDO_SHARED(place, float4[kTile / 4]);
  const int t = int(threadIdx.x);
  if (t == 0) {
    for (int i = 0; i < kTiles; ++i) rondo::cuda::prepare_landing(&landings[i]);
    rondo::cuda::prepare_landings_done();
  }
  __syncthreads();
  float sum = 0.0f;
  for (int tile = 0; tile < kTiles; ++tile) {
    if (t == 0) rondo::cuda::copy_bulk(place, in + tile * kTile, kTile * sizeof(float), &landings[tile]);
    rondo::cuda::wait_landed(&landings[tile], 0);
    sum += reinterpret_cast<const float*>(place)[t];
    if (!kFaulty) __syncthreads();
  }
  out[t] = sum;
}

enum class TileFault {
  none,
  misaligned,
  past_shared,
  past_global,
  nothing_expected,
  too_many_bytes,
  too_few_bytes,
  expected_twice,
  too_few_arrivals,
  refilled_without_release,
  released_before_wait,
  waited_at_the_end,
  sums_read_before_wait,
  last_wait_forgotten,
  product_of_misaligned_tile,
  product_past_shared,
  product_of_one_warp,
  lanes_differ,
  warps_differ,
};

constexpr unsigned kTileThreads = 160;
constexpr int kStageBytes = (64 + 8) * 128, kTileStages = 2, kTileSteps = 4;
constexpr size_t kTileShared = kTileStages * (kStageBytes + 2 * sizeof(rondo::cuda::Landing));

// The copies of all steps, by one thread.
template <TileFault fault>
__device__ void fill_ring(unsigned char* ring, rondo::cuda::Landing* landed, rondo::cuda::Landing* released,
                          const float* in) {
  const int64_t rows = fault == TileFault::past_global ? 64 : 32;
  const rondo::cuda::TileMap a = rondo::cuda::make_tile_map(in, {rows, 1, 1, 1}, {128, 128, 128, 128},
                                                            {64, 1, 1, 1}),
                             b = rondo::cuda::make_tile_map(in, {rows, 1, 1, 1}, {128, 128, 128, 128},
                                                            {8, 1, 1, 1});
  for (int step = 0; step < kTileSteps; ++step) {
    unsigned char* const stage = ring + step % kTileStages * kStageBytes;
    rondo::cuda::Landing* const landing = &landed[step % kTileStages];
    // The fault: until the stage has landed, not until it has been used.
    rondo::cuda::Landing* const free =
        fault == TileFault::refilled_without_release ? landing : &released[step % kTileStages];
    if (step >= kTileStages) rondo::cuda::wait_landed(free, step / kTileStages - 1);
    const int wrong = fault == TileFault::too_many_bytes ? -1024 : fault == TileFault::too_few_bytes ? 16 : 0;
    if (fault != TileFault::nothing_expected)
      rondo::cuda::expect_bytes(landing, unsigned(kStageBytes + wrong));
    if (fault == TileFault::expected_twice) rondo::cuda::expect_bytes(landing, kStageBytes);
    if (fault == TileFault::misaligned) rondo::cuda::copy_tile(stage + 512, a, 0, 0, 0, 0, landing, false);
    if (fault == TileFault::past_shared)
      rondo::cuda::copy_tile(ring + kStageBytes + 2048, a, 0, 0, 0, 0, landing, false);
    rondo::cuda::copy_tile(stage, a, 4 * step, 0, 0, 0, landing, false);
    rondo::cuda::copy_tile(stage + 64 * 128, b, 8 * step, 0, 0, 0, landing, true);
  }
}

// `in` as 32 rows of 64 elements of bf16. out[4 t + i] = D[t][i], what thread t has of the sum over four
// steps s of A_s B_s^T, where A_s are 64 rows from row 4 s on, of which those behind the end are zeros, and
// B_s rows 8 s to 8 s + 7. One block of four warps that multiply and a fifth whose first thread fills a ring
// for them.
template <TileFault fault>
__global__ void products_of_tiles(float* out, const float* in) {
  RONDO_TILE_SHARED(ring);
  rondo::cuda::Landing* const landed =
      reinterpret_cast<rondo::cuda::Landing*>(ring + kTileStages * kStageBytes);
  rondo::cuda::Landing* const released = landed + kTileStages;
  const int t = int(threadIdx.x), warp = t / 32, lane = t % 32;
  if (t == 0) {
    for (int i = 0; i < kTileStages; ++i) {
      rondo::cuda::prepare_landing(&landed[i]);
      rondo::cuda::prepare_landing(&released[i], 4);
    }
    rondo::cuda::prepare_landings_done();
  }
  __syncthreads();
  if (warp == 4 && fault != TileFault::product_of_one_warp) {
    if (lane == 0) fill_ring<fault>(ring, landed, released, in);
    return;
  }

  rondo::cuda::TileProduct<__nv_bfloat16, 8> product;
  product.clear();
  if (warp == 4) product.start(ring, ring, 1024);
  for (int step = 0; step < kTileSteps; ++step) {
    const int stage = step % kTileStages;
    const bool last = step == kTileSteps - 1;
    const unsigned char* a = ring + stage * kStageBytes;
    const unsigned char* b = a + 64 * 128;
    if (fault == TileFault::product_of_misaligned_tile) b -= 128;
    if (fault == TileFault::product_past_shared) a = ring + kStageBytes + 2048;
    if ((fault == TileFault::lanes_differ && lane == 5) || (fault == TileFault::warps_differ && warp == 2))
      b = a;
    const auto release = [&] {
      if (lane == 0 && (fault != TileFault::too_few_arrivals || warp < 3))
        rondo::cuda::arrive(&released[stage]);
    };
    rondo::cuda::wait_landed(&landed[stage], step / kTileStages);
    product.start(a, b, 1024);
    if (fault == TileFault::released_before_wait) release();
    if (fault == TileFault::sums_read_before_wait)
      for (int i = 0; i < 4; ++i) out[4 * t + i] = product.sum[i];
    if (fault == TileFault::last_wait_forgotten ? !last : fault != TileFault::waited_at_the_end || last)
      product.wait();
    if (fault != TileFault::released_before_wait) release();
  }
  if (fault != TileFault::sums_read_before_wait)
    for (int i = 0; i < 4; ++i) out[4 * t + i] = product.sum[i];
}

}  // namespace faulty
