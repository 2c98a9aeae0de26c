// A kernel that streams tiles through shared memory by bulk copies, with one planted fault or none. in: 1024
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

}  // namespace faulty
