// Everything one decode step reads and writes, the weights apart: its sizes, its input block, and its layout.
//
// Dimensions, one spelling everywhere: R rows of the bucket, L logit rows, H hidden_size, Q heads x head_dim,
// KV kv_heads x head_dim, F intermediate_size, V vocab_size, S splits, P page_size.
#pragma once

#include <cstdint>
#include <vector>

#include "buffers/arena.h"
#include "buffers/view.h"

namespace rondo {

// One token of one sequence. `slot` names the page table and the sampling parameters, `position` the token's
// place in its sequence, `run` how many adjacent rows of the same sequence form the attention tile that
// starts here (0: the row belongs to a tile that started before it, or is padding). Padding is {0, 0, 0, 0}:
// slot 0 is the scrap slot, and its page table names only the scrap page, 0.
struct Row {
  int32_t token = 0;
  int32_t position = 0;
  int32_t slot = 0;
  int32_t run = 0;
};
static_assert(sizeof(Row) == 16);

// What a slot's rows share. How its next token is drawn: temperature 0 is greedy; top_k 0, top_p 1, min_p 0,
// repetition_penalty 1, frequency_penalty 0 and presence_penalty 0 are off. prompt_length: RoPE kinds that
// depend on the sequence's length (dynamic, longrope) use max(prompt_length, position + 1) for a row, which
// is what transformers' generate() does: the prompt in one forward pass, then token by token; and tokens from
// there on are those that frequency_penalty and presence_penalty count.
struct SlotParams {
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  int32_t top_k = 0;
  uint32_t seed_low = 0;
  uint32_t seed_high = 0;
  int32_t prompt_length = 0;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  int32_t biases = 0;      // entries of the slot's bias list that always count
  int32_t held_back = 0;   // entries behind those, which count while the sequence is shorter than min_length
  int32_t min_length = 0;  // tokens, the prompt's among them
  int32_t top_logprobs = 0;  // how many of the likeliest tokens `sample` lists
  // Up to which `sample` moves the slot's rows on: one that stands there, or behind it, keeps its position.
  int32_t last_position = 0;
  int32_t reserved = 0;
};
static_assert(sizeof(SlotParams) == 64);

// Added to a token's logit; -infinity: it is never drawn.
struct SlotBias {
  int32_t token = 0;
  float bias = 0;
};
constexpr int kMaxSlotBiases = 64;

// One of the likeliest tokens of a row; logprob as in Sampled.
struct TopToken {
  int32_t token = 0;
  float logprob = 0;
};
constexpr int kMaxTopTokens = 20;

// What `sample` leaves for one logit row. logprob is of the full softmax of the raw logits, in fp32.
struct Sampled {
  // kNumerical: a NaN or +inf among the logits, or no finite one, or none left by the biases.
  enum Status : int32_t { kOk = 0, kNumerical = 1 };
  int32_t token = 0;
  float logprob = 0;
  int32_t status = kOk;
  int32_t reserved = 0;
};
static_assert(sizeof(Sampled) == 16);

// What is known of a part of a row's logits after one pass over it: all that a greedy draw needs.
struct LogitScan {
  float max = 0;
  float sum = 0;       // of exp(logit - max)
  uint64_t best = 0;   // the likeliest token, in an order of the backend's own
  int32_t broken = 0;  // a NaN or +inf is among them
  int32_t reserved = 0;
};
static_assert(sizeof(LogitScan) == 24);
constexpr int kScanParts = 128;

// All that the sizes of a step depend on. Checked by whoever makes it (runner/plan.cc); nothing here
// allocates.
struct StepDims {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  DType weight_dtype = DType::bf16;      // of weights and K/V pages
  DType activation_dtype = DType::bf16;  // between kernels; the residual stream and logits are always fp32
  std::vector<int> buckets;              // ascending; the last is the row limit
  int max_logit_rows = 0;
  int max_sequences = 0;    // slots 1 .. max_sequences; slot 0 is scrap
  int64_t max_context = 0;  // positions per sequence
  int page_size = 0;        // positions per page, a power of two
  int64_t pages = 0;        // of each layer, the scrap page included
  uint64_t workspace_bytes = 0;
  uint64_t product_part_bytes = 0;

  int max_rows() const { return buckets.back(); }
  int slots() const { return max_sequences + 1; }
  int64_t pages_per_slot() const { return (max_context + page_size - 1) / page_size; }
  int64_t q_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// A captured graph's size: `rows` rows run, `logit_rows` = min(rows, max_logit_rows) entries of the logit
// list are valid.
struct Bucket {
  int rows = 0;
  int logit_rows = 0;
};
Bucket bucket_of(const StepDims& dims, int rows);

// Splits of the K/V positions per row in split-K attention: enough blocks to fill a large GPU at few rows,
// one where rows alone do. Depends on the bucket and on capacity only, so that a captured grid fits every
// live length.
int attention_splits(const StepDims& dims, int rows);

// Of a matrix product on tiles, for the sums of what several blocks share: of each multiprocessor.
constexpr uint64_t kProductPartBytes = 32 << 10;
// Rows of a step up to which the projection before a norm may begin it.
constexpr int kBegunRows = 16;

struct StepBuffers {
  // the input block: written by the host before a step, read by kernels, and by `sample` moved on to the next
  View rows;         // i32 [R, 4], struct Row
  View logit_rows;   // i32 [L]: which row each logit row takes; unused entries are 0
  View turns;        // i32 [2]: where the next step tells what it draws (0 or 1), and where this one does
  View page_tables;  // i32 [slots, pages_per_slot]
  View slots;        // u8 [slots, 64], struct SlotParams
  View biases;       // u8 [slots, kMaxSlotBiases, 8], struct SlotBias
  View history;      // i32 [slots, max_context]: the token at each position, as far as it was embedded
  // between kernels
  View x;           // f32 [R, H], the residual stream
  View norm;        // [R, H]
  View squares;     // f32 [ceil(H / 16), kBegunRows]: of norms that are begun, each row's sums of 16 squares
  View angles;      // f32 [R, head_dim / 2, 2]: cosine and sine that RoPE turns each row's pairs by, scaled
  View places;      // u8 [R, 8], int64_t: where a row's K and V lie in the pages, see KvPages; -1: nowhere
  View qkv;         // [R, Q + 2 KV]
  View q;           // [R, Q], after RoPE, where attention does not make it of qkv
  View o;           // [R, Q], attention's output
  View gate_up;     // [R, 2 F], gate first
  View h;           // [R, F]
  View partial_o;   // f32 [max over buckets of R * S, heads, head_dim]
  View partial_ml;  // f32 [max over buckets of R * S, heads, 2]: running maximum, sum
  View tickets;     // i32 [R, heads], 0 between two steps: who merges partial results
  View product_parts;  // u8 [product_part_bytes]: fp32 sums that blocks leave for one another
  View logits;         // f32 [L, V]
  View sampled;        // u8 [L, 16], struct Sampled
  View top;  // u8 [L, kMaxTopTokens, 8], struct TopToken: the first SlotParams::top_logprobs are valid
  View token_words;  // u32 [L, V]: what the penalties and biases of a row have to know of each token
  View scans;        // u8 [L, kScanParts, 24], struct LogitScan
  View loop;         // u8: struct LoopControl, then struct LoopSlot [slots] (buffers/loop_buffers.h)
  View workspace;    // u8 [workspace_bytes]
  // In the host's memory, where the device can write: [2, L], or null. A step tells what it draws here too,
  // in turn: a step that is enqueued behind another must not write where the host still reads.
  Sampled* told = nullptr;
};
StepBuffers lay_out_step(Layout& layout, const StepDims& dims);

// Brings what blocks of one kernel tell each other into the state that it has between two kernels: no ticket
// drawn, all bits of partial results set, which stands for "not there"; and the rows' places to nowhere.
void clear_partial_results(Device& device, const StepBuffers& buffers);

// The K and V pages of one layer: [pages, kv_heads, page_size, head_dim] each. Position p of a slot lies in
// page page_tables[slot][p / page_size] at p % page_size. Keys are stored after RoPE. In units of head_dim
// elements that is, for K/V head 0, StepBuffers::places; head h lies h * page_size further.
struct KvPages {
  View k;
  View v;
};
std::vector<KvPages> lay_out_pages(Layout& layout, const StepDims& dims);

}  // namespace rondo
