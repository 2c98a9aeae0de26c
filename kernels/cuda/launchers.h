// What the kernel files offer to cuda_ops.cc: one function per kernel that picks the instance for the element
// type and enqueues it. Pointers are device memory, named and shaped as in buffers/step_buffers.h; T is the
// type that `dtype` names (f32, f16 or bf16). Grids depend on the arguments given here, never on what lies in
// memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "buffers/error.h"
#include "buffers/step_buffers.h"

namespace rondo::cuda {

// Calls f with a null T* of the type that `dtype` names.
template <class F>
void dispatch(DType dtype, const char* what, F f) {
  switch (dtype) {
    case DType::f32:
      return f(static_cast<float*>(nullptr));
    case DType::f16:
      return f(static_cast<__half*>(nullptr));
    case DType::bf16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
    default:
      throw Error(ErrorKind::InvalidArgument,
                  std::string(what) + ": expected elements of f32, f16 or bf16, found " + dtype_name(dtype));
  }
}

struct EmbedArgs {
  const Row* rows;    // [R]
  const void* table;  // T [V, H]
  float* x;           // [R, H]
  int32_t* history;   // [slots, max_context]
  int64_t hidden_size;
  int64_t max_context;
};
void enqueue_embed(DType dtype, const EmbedArgs& args, int rows, cudaStream_t stream);

struct RmsNormArgs {
  const float* x;         // [R, H]
  const int32_t* gather;  // [rows]: which row of x each row of the output takes; null: its own
  const void* weight;     // T [H]
  void* out;              // T [rows, H]
  int64_t hidden_size;
  float eps;
};
void enqueue_rmsnorm(DType dtype, const RmsNormArgs& args, int rows, cudaStream_t stream);

struct RopeTables {
  const float* inv_freq;       // [head_dim / 2]
  const float* long_inv_freq;  // [head_dim / 2] or null
  float scaling;
  float long_scaling;
  int64_t original_length;
  bool dynamic;
  float dynamic_theta;
  float dynamic_factor;
};

struct PageMap {
  const int32_t* page_tables;  // [slots, pages_per_slot]
  int64_t pages_per_slot;
  int page_shift;  // log2 of page_size
};

struct RopeAppendArgs {
  const Row* rows;          // [R]
  const SlotParams* slots;  // [slots]
  const void* qkv;          // T [R, Q + 2 KV]
  const void* bias;         // T [Q + 2 KV] or null
  const void* q_norm;       // T [head_dim] or null
  const void* k_norm;       // T [head_dim] or null
  void* q;                  // T [R, Q]
  void* k_pages;            // T [pages, kv_heads, page_size, head_dim]
  void* v_pages;            // likewise
  PageMap map;
  RopeTables rope;
  int heads;
  int kv_heads;
  int head_dim;
  float eps;
};
void enqueue_rope_append(DType dtype, const RopeAppendArgs& args, int rows, cudaStream_t stream);

struct AttentionArgs {
  const Row* rows;      // [R]
  const void* q;        // T [R, Q]
  const void* k_pages;  // T [pages, kv_heads, page_size, head_dim]
  const void* v_pages;  // likewise
  void* o;              // T [R, Q]
  float* partial_o;     // [R * S, heads, head_dim]
  float* partial_ml;    // [R * S, heads, 2]
  PageMap map;
  int64_t sliding_window;  // 0: none
  int heads;
  int kv_heads;
  int head_dim;
  int splits;  // S
};
void enqueue_attention(DType dtype, const AttentionArgs& args, int rows, cudaStream_t stream);

struct SiluMulArgs {
  const void* gate_up;  // T [R, 2 F]
  const void* bias;     // T [2 F] or null
  void* h;              // T [R, F]
  int64_t intermediate_size;
};
void enqueue_silu_mul(DType dtype, const SiluMulArgs& args, int rows, cudaStream_t stream);

struct AddBiasArgs {
  float* x;          // [R, N]
  const void* bias;  // T [N]
  int64_t columns;   // N
};
void enqueue_add_bias(DType dtype, const AddBiasArgs& args, int rows, cudaStream_t stream);

struct SampleArgs {
  const Row* rows;            // [R]
  const int32_t* logit_rows;  // [L]
  const SlotParams* slots;    // [slots]
  const int32_t* history;     // [slots, max_context]
  const SlotBias* biases;     // [slots, kMaxSlotBiases]
  uint32_t* token_words;      // [L, V]
  const float* logits;        // [L, V]
  Sampled* sampled;           // [L]
  TopToken* top;              // [L, kMaxTopTokens]
  int64_t vocab_size;
  int64_t max_context;
};
void enqueue_sample(const SampleArgs& args, int logit_rows, cudaStream_t stream);

}  // namespace rondo::cuda
