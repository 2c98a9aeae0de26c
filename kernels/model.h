// The weights of a model as kernels see them: views into the weights arena, and the few numbers beside them.
#pragma once

#include <cstdint>
#include <vector>

#include "buffers/step_buffers.h"
#include "buffers/view.h"

namespace rondo {

// y = W x (+ bias). weight [out, in] as in the checkpoint (torch.nn.Linear), bias [out] or absent.
struct Linear {
  View weight;
  View bias;
};

struct Layer {
  View attention_norm;  // [H]
  Linear qkv;           // [Q + 2 KV, H]: q rows, then k rows, then v rows
  View q_norm;          // [head_dim] or absent
  View k_norm;          // [head_dim] or absent
  Linear o_proj;        // [H, Q]
  View mlp_norm;        // [H]
  Linear gate_up;       // [2 F, H]: gate rows, then up rows
  Linear down_proj;     // [H, F]
  KvPages pages;
  int64_t sliding_window = 0;  // positions a row may look back on, its own included; 0: all
};

// Rotary position embedding as tables. The angle of pair i at position p is p * f[i]; cos and sin are
// multiplied by the scaling. n = max(prompt_length of the slot, p + 1) is the sequence's length as RoPE sees
// it:
//   n <= original_length: f = inv_freq, scaling;   else longrope: f = long_inv_freq, long_scaling;
//   else dynamic: f[i] = 1 / b^(2 i / head_dim),
//     b = theta * (factor * n / original_length - (factor - 1))^(head_dim / (head_dim - 2))
// (transformers, modeling_rope_utils.py, "longrope" and "dynamic").
struct Rope {
  View inv_freq;       // f32 [head_dim / 2]
  View long_inv_freq;  // f32 [head_dim / 2]; absent unless longrope
  float scaling = 1;
  float long_scaling = 1;
  int64_t original_length = INT64_MAX;  // INT64_MAX: no kind that depends on the length
  bool dynamic = false;
  float dynamic_theta = 0;
  float dynamic_factor = 1;
};

struct Model {
  View embedding;  // [V, H]
  std::vector<Layer> layers;
  View final_norm;  // [H]
  Linear lm_head;   // [V, H]; the embedding's own memory where tied
  Rope rope;
  float rms_norm_eps = 1e-6f;
};

}  // namespace rondo
