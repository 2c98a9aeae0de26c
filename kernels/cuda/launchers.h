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
#include "buffers/loop_buffers.h"
#include "buffers/step_buffers.h"
#include "kernels/cuda/dialect.h"

namespace rondo::cuda {

// Calls f with a null T* of the type that `dtype` names.
template <class F>
void dispatch(DType dtype, const char* what, F f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f16: return f(static_cast<__half*>(nullptr));
    case DType::bf16: return f(static_cast<__nv_bfloat16*>(nullptr));
    default:
      throw Error(ErrorKind::InvalidArgument,
                  std::string(what) + ": expected elements of f32, f16 or bf16, found " + dtype_name(dtype));
  }
}

struct RmsNormArgs {
  const float* x;         // [R, H]
  const int32_t* gather;  // [rows]: which row of x each row of the output takes; null: its own
  const void* weight;     // T [H]
  void* out;              // T [rows, H]
  int64_t hidden_size;
  int rows;
  float eps;
};
void enqueue_rmsnorm(DType dtype, const RmsNormArgs& args, Queue& queue);

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

// cos t and sin t of a pair of elements, scaled: what RoPE turns it by.
struct Angle {
  float cosine;
  float sine;
};

struct EmbedArgs {
  const Row* rows;          // [R]
  const SlotParams* slots;  // [slots]
  const void* table;        // T [V, H]
  float* x;                 // [R, H]
  int32_t* history;         // [slots, max_context]
  int32_t* turns;           // [2]
  Angle* angles;            // [R, head_dim / 2]
  int64_t* places;          // [R]
  RopeTables rope;
  PageMap map;
  int64_t hidden_size;
  int64_t max_context;
  int rows_in_step;  // R
  int kv_heads;
  int head_dim;
};
void enqueue_embed(DType dtype, const EmbedArgs& args, Queue& queue);

struct RopeAppendArgs {
  const Angle* angles;    // [R, head_dim / 2], as embed leaves them
  const int64_t* places;  // [R], likewise
  const void* qkv;        // T [R, Q + 2 KV]
  const void* bias;       // T [Q + 2 KV] or null
  const void* q_norm;     // T [head_dim] or null
  const void* k_norm;     // T [head_dim] or null
  void* q;                // T [R, Q]
  void* k_pages;          // T [pages, kv_heads, page_size, head_dim]
  void* v_pages;          // likewise
  int page_shift;         // log2 of page_size
  int rows_in_step;       // R
  int heads;
  int kv_heads;
  int head_dim;
  float eps;
};
void enqueue_rope_append(DType dtype, const RopeAppendArgs& args, Queue& queue);

struct AttentionArgs {
  const Row* rows;      // [R]
  const void* q;        // T [R, Q]
  const void* k_pages;  // T [pages, kv_heads, page_size, head_dim]
  const void* v_pages;  // likewise
  void* o;              // T [R, Q]
  float* partial_o;     // [R * S, heads, head_dim]
  float* partial_ml;    // [R * S, heads, 2]
  int* tickets;         // [R, heads], 0 between two kernels: which of a tile's blocks comes last
  PageMap map;
  int64_t pages;           // of the layer
  int64_t sliding_window;  // 0: none
  int heads;
  int kv_heads;
  int head_dim;
  int rows_in_step;  // R
  int capacity;      // S: partial results that there is room for per row
  bool look_ahead;   // whether what earlier steps wrote is read before the kernel before has ended: for few
                     // rows
  const SlotParams* slots;  // [slots], and
  RopeTables rope;          // what angles come from where it makes q, k and v
  // From here on set by enqueue_attention() and enqueue_attention_tiles().
  int splits;       // up to S of them are used: chunks of a row, but for the next two
  int long_chunk;   // positions: a longer chunk is cut further,
  int pieces;       // but not so that its row has more chunks than these
  int group;        // query heads for each K/V head
  float per_split;  // 1 / splits
  float per_piece;  // 1 / pieces
};
void enqueue_attention(DType dtype, const AttentionArgs& args, Queue& queue);
const char* attention_kernels(DType dtype, const AttentionArgs& args);  // by name
// The form of it that runs on tensor cores: for 16-bit types and a head_dim that is a multiple of 16.
bool attention_tiles_fit(DType dtype, int head_dim);
// `raw`: of a step of one row, its q, k and v as the product left them, in place of `q`.
void enqueue_attention_tiles(DType dtype, const AttentionArgs& args, Queue& queue,
                             const RopeAppendArgs* raw = nullptr);

struct SiluMulArgs {
  const void* gate_up;  // T [R, 2 F]
  const void* bias;     // T [2 F] or null
  void* h;              // T [R, F]
  int64_t intermediate_size;
};
void enqueue_silu_mul(DType dtype, const SiluMulArgs& args, int rows, Queue& queue);

struct AddBiasArgs {
  float* x;          // [R, N]
  const void* bias;  // T [N]
  int64_t columns;   // N
};
void enqueue_add_bias(DType dtype, const AddBiasArgs& args, int rows, Queue& queue);

// in W^T for a few rows, with what comes before and after it.
enum class StreamInput { norm, plain };  // in: float x [.., K], normalised; T [R, K] as it is
enum class StreamOutput {
  store,        // T [R, N]
  store_f32,    // float [R, N]
  add_f32,      // float [R, N], added to what is there
  silu_mul,     // T [R, N / 2]: W has N / 2 gate rows, then as many up rows
  rope_append,  // q, k and v of the rows, rotated, to where RopeAppendArgs says; without QK-norm
};
struct StreamGemmArgs {
  const void* weight;  // T [N, K]
  const void* bias;    // T [N] or null
  const void* in;
  const int32_t* gather;    // norm: which row of x each row takes; null: its own
  const void* norm_weight;  // norm: T [K]
  void* out;
  int N;
  int K;
  int rows;  // R
  float eps;
  StreamInput input;
  StreamOutput output;
  RopeAppendArgs rope;  // rope_append; its qkv and bias are not looked at
  int units;            // from here on set by stream_gemm_fits(): N, or N / 2 pairs of rows
  int phases;           // how the columns are cut
  int phase_columns;
  int log_rows;  // rows, rounded up to a power of two
  int pause;     // cycles, see pause_of(); by stream_row_fits() too
  // By stream_row_fits(), so that no block starts with divisions, and no chunk with products.
  int depth;           // chunks in flight per warp
  bool asleep;         // whether it pauses asleep
  int each;            // units of each block
  int more;            // blocks that have one more
  int per_row;         // chunks of a row of W
  int rows_per_chunk;  // 2^16 / per_row, rounded up
  int rows_on;         // from a warp's chunk to its next: rows, then chunks of a row
  int columns_on;
  int step;          // the same in elements
  int next_row;      // elements from the chunk behind a row's last one to the next row
  int short_column;  // the chunk of a row that has fewer columns, or -1
  int short_columns;
};
// Whether the kernel can do it (R up to 8, K a multiple of 128, shared memory), and how.
bool stream_gemm_fits(StreamGemmArgs& args, const Queue& queue);
void enqueue_stream_gemm(DType dtype, const StreamGemmArgs& args, Queue& queue);
// The form of it for one row, K a multiple of 256, any output but rope_append.
bool stream_row_fits(StreamGemmArgs& args, const Queue& queue);
void enqueue_stream_row(DType dtype, const StreamGemmArgs& args, Queue& queue);

// The form for 5 to 64 rows, on tiles of W that the copy engine brings.
struct StreamTilesArgs {
  const void* weight;  // T [N, K]
  const void* bias;    // T [N] or null
  const void* in;      // T [R, K]
  void* out;
  int N;
  int K;
  int rows;  // R
  StreamOutput output;
  RopeAppendArgs rope;  // rope_append; its qkv and bias are not looked at
  float* parts;         // sums of tiles that several blocks share; kNotThere between two kernels
  // Of a norm that the product before has begun: `in` is x times its weight, and these are the sums of 16
  // neighbouring squares of x each. Null: `in` is taken as it is.
  const float* squares;  // [K / 16, kBegunRows]
  float eps;
  // add_f32: the norm of the output that is begun here, or null.
  const void* next_norm;  // T [N]
  void* next_in;          // T [R, N]
  float* next_squares;    // [N / 16, kBegunRows]
  // From here on set by stream_tiles_fits(), so that no block starts with divisions.
  int pause;     // cycles, see pause_of()
  int units;     // N, or N / 2 pairs of rows
  int apart;     // rows from a pair's first to its second
  int per_tile;  // steps of a tile
  float tiles_per_step;
  float heads_per_tile;  // rope_append: a head has a whole number of tiles; else 0
  int each;              // steps of each block; the first `more` have one more
  int more;
  TileMap weight_map;  // by enqueue_stream_tiles()
  TileMap in_map;
};
// Whether the kernel can do it (a device with tiles, R up to 64, K a multiple of 64, N of 8, or 16 for pairs,
// rope_append: R up to 32, head_dim of 64), and how.
// `part_bytes`: that args.parts has room for; kProductPartBytes for each multiprocessor are always enough.
bool stream_tiles_fits(StreamTilesArgs& args, const Queue& queue, uint64_t part_bytes);
void enqueue_stream_tiles(DType dtype, const StreamTilesArgs& args, Queue& queue);
bool stream_tiles_compiled();  // for the calling thread's device

struct SampleArgs {
  Row* rows;                  // [R], moved on to the next step
  const int32_t* logit_rows;  // [L]
  const SlotParams* slots;    // [slots]
  const int32_t* history;     // [slots, max_context]
  const SlotBias* biases;     // [slots, kMaxSlotBiases]
  uint32_t* token_words;      // [L, V]
  const float* logits;        // [L, V]
  LogitScan* scans;           // [L, kScanParts]
  Sampled* sampled;           // [L]
  Sampled* told;              // [2, told_stride] in the host's memory, or null
  const int32_t* turns;       // [2]: turns[1] says which half
  int64_t told_stride;
  TopToken* top;  // [L, kMaxTopTokens]
  int64_t vocab_size;
  int64_t max_context;
  int rows_in_list;  // L
  int parts;         // up to kScanParts, that a row is scanned in: set by enqueue_sample()
};
void enqueue_sample(const SampleArgs& args, Queue& queue);

struct LoopEndArgs {
  Row* rows;                  // [R]
  const int32_t* logit_rows;  // [L]
  const Sampled* sampled;     // [L]
  const TopToken* top;        // [L, kMaxTopTokens]
  LoopControl* control;
  LoopSlot* slots;  // [slots]
  // in host memory
  LoopMail* mail;
  Sampled* mail_sampled;  // [loop_steps(), logit_rows_capacity]
  TopToken* mail_top;     // [loop_steps(), logit_rows_capacity, kMaxTopTokens]
  uint64_t condition;
  int64_t logit_rows_capacity;
};
void prepare_loop_end();  // loads the kernel, which can only run in a loop
void enqueue_loop_end(const LoopEndArgs& args, const Queue& queue);

}  // namespace rondo::cuda
