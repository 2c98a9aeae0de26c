// The seam between the step and a backend: seven verbs. A transformer step is `embed`, then per layer
// `qkv attend add_project gate_up add_project`, then `logits sample`; runner/step.cc is that page.
//
// Every verb enqueues work on the backend's stream and returns; on the CPU it has happened on return. All
// memory is in the StepBuffers and Model that the Ops was made with, so that a captured step holds only
// addresses that never change; all that differs between two steps (rows, lengths, page tables, sampling) is
// read from the input block when the work runs. A verb touches rows 0 .. bucket.rows - 1 only. R, H, Q, F, V,
// L as in buffers/step_buffers.h.
#pragma once

#include <memory>
#include <string>

#include "buffers/device.h"
#include "buffers/step_buffers.h"
#include "kernels/model.h"
#include "kernels/verbs.h"

namespace rondo {

// Bytes of StepDims::workspace_bytes that the CUDA backend's GEMMs want at their largest (NVIDIA's
// recommendation for cuBLAS on Hopper); the CPU backend wants none.
constexpr uint64_t kCudaWorkspaceBytes = 32ull << 20;
// Of StepDims::product_part_bytes: for the 144 multiprocessors of the largest GPU whose products go by tiles.
constexpr uint64_t kCudaProductPartBytes = 144 * kProductPartBytes;

class Ops {
 public:
  virtual ~Ops() = default;

  // x[r] = embedding[rows[r].token]; notes the token in history[rows[r].slot] at its position; makes of each
  // row what the verbs of all layers need: no other comes before it.
  virtual void embed(Bucket bucket) = 0;

  // In every layer but the first it comes behind the add_project() that was given its norm:
  // n = RMSNorm(x) * attention_norm; qkv = n Wqkv^T (+ bias); per-head RMSNorm of q and k where q_norm and
  // k_norm are present (Qwen3); rotate-half RoPE of q and k at rows[r].position; q [R, Q] to `q`, k and v to
  // the pages of (rows[r].slot, rows[r].position). What follows the product may be left to attend(), the next
  // verb of the same layer.
  virtual void qkv(Bucket bucket, const Layer& layer) = 0;

  // o[r] = softmax(q[r] k^T / sqrt(head_dim)) v over positions max(0, p - sliding_window + 1) .. p, p =
  // rows[r].position, query head i reading K/V head i / (heads / kv_heads). Padding rows (run = 0) may be
  // left untouched.
  virtual void attend(Bucket bucket, const Layer& layer) = 0;

  // x += in W^T (+ bias); in is `o` [R, Q] or `h` [R, F]. `next_norm` [H]: the norm that the next verb begins
  // with, qkv() or gate_up(), which may be begun here; absent: nothing is.
  virtual void add_project(Bucket bucket, const View& in, const Linear& linear,
                           const View& next_norm = {}) = 0;

  // It comes behind the add_project() that was given its norm:
  // n = RMSNorm(x) * mlp_norm; h = silu(n Wgate^T) * (n Wup^T), [R, F].
  virtual void gate_up(Bucket bucket, const Layer& layer) = 0;

  // logits[l] = RMSNorm(x[logit_rows[l]]) * final_norm, times lm_head^T; fp32 [L, V].
  virtual void logits(Bucket bucket) = 0;

  // sampled[l] from logits[l] and the SlotParams of the slot of row logit_rows[l], the tokens at positions up
  // to that row's and the slot's biases. In this order, as transformers' generation/logits_process.py:
  // biases, repetition penalty over all tokens, frequency and presence penalty over those from prompt_length
  // on, temperature, top_k, top_p, min_p; then one draw by Gumbel's trick from a counter-based generator
  // keyed by (seed, position, token id), so that it depends on nothing else in the step. Tokens tied with the
  // last one kept are kept. Greedy: the largest, the lowest id among equals. top[l]: the top_logprobs largest
  // raw logits, the lowest id first among equals. Logits are left as they are, so that it may run again
  // once the rows are written again.
  //
  // Where there is `told`, it has sampled[l] too, at turn turns[1]; embed() made that turns[0], and turns[0]
  // the other.
  //
  // Then the row becomes its own successor, so that the next step of sequences that only decode needs nothing
  // of the host: {drawn token, position + 1, slot, run}, or the same position where the slot's last_position
  // is reached. Rows of slot 0 stay. A row that several entries name is the first one's, which alone draws:
  // unused entries are 0 and must not move row 0 on again.
  virtual void sample(Bucket bucket) = 0;

  // What a verb is made of at that bucket, for people: "rmsnorm + cublasLt + rope_append".
  virtual std::string kernels(Verb verb, Bucket bucket) const = 0;
  // A verb's forms at that bucket, by number, of which 0 is taken where nobody chooses. All do what the verb
  // says; their sums are made in another order. Plans that a form needs are made by these calls, never while
  // a step is recorded; what was recorded before keeps the form that it was recorded with.
  virtual size_t forms(Verb verb, Bucket bucket) {
    static_cast<void>(verb), static_cast<void>(bucket);
    return 1;
  }
  virtual size_t form(Verb verb, Bucket bucket) {  // the one that is taken
    static_cast<void>(verb), static_cast<void>(bucket);
    return 0;
  }
  virtual void choose(Verb verb, Bucket bucket, size_t form) {
    static_cast<void>(verb), static_cast<void>(bucket), static_cast<void>(form);
  }
};

// Nanoseconds of one core below which a loop of the CPU backend is not shared by threads.
constexpr int64_t kWorthSharingNs = 20'000;

struct CpuForms {
  // Products of bf16 weights take activations rounded to bf16 where the CPU multiplies pairs of them
  // (AVX512_BF16), as CUDA's do: twice as many multiply-adds a second. false: activations stay fp32.
  bool pairs = true;
  int64_t worth_sharing_ns = kWorthSharingNs;  // 0 shares every loop
};

// `threads` 0: as many as there are cores. The arguments are copied; the memory they view must outlive the
// Ops.
std::unique_ptr<Ops> make_cpu_ops(const StepDims& dims, const StepBuffers& buffers, const Model& model,
                                  int threads, CpuForms forms = {});

}  // namespace rondo
