#include "runner/known_keys.h"

#include <string_view>

namespace rondo {
namespace {

// Where the model came from, how it was made, and what a trainer or another program wants to know.
constexpr std::string_view kProvenance[] = {
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "tokenizer_class",
    "finetuning_task",
    "task_specific_params",
    "problem_type",
    "id2label",
    "label2id",
    "num_labels",
    "prefix",
    "initializer_range",
    "is_llama_config",
    "transformers.js_config",
};

// How transformers runs or returns things.
constexpr std::string_view kRunning[] = {
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "torchscript",
    "use_bfloat16",
    "tf_legacy_loss",
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_autoset",
    "attention_dropout",
};

// Tokens that a tokenizer or an encoder-decoder needs.
constexpr std::string_view kTokens[] = {
    "bos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id",
};

// transformers 4 wrote these into config.json, and all of them are transformers' GenerationConfig.
constexpr std::string_view kGeneration[] = {
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "early_stopping",
    "max_time",
    "stop_strings",
    "do_sample",
    "num_beams",
    "use_mtp",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "renormalize_logits",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "token_healing",
    "guidance_scale",
    "watermarking_config",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "encoder_no_repeat_ngram_size",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "low_memory",
    "penalty_alpha",
    "dola_layers",
    "diversity_penalty",
    "num_beam_groups",
    "constraints",
    "force_words_ids",
    "prefill_chunk_size",
};

// Each would make another model of it.
constexpr const char* kMustBeFalse[] = {
    "is_encoder_decoder",  "is_decoder",       "add_cross_attention",
    "tie_encoder_decoder", "rope_interleaved", "use_mrope",
};
constexpr const char* kMustBeEmpty[] = {
    "pruned_heads",
    "cross_attention_hidden_size",
    "quantization_config",
    "compression_config",
    "auto_map",
    "per_layer_config",
};

const char* hint_for(std::string_view key) {
  if (key == "quantization_config" || key == "compression_config") {
    return "quantized checkpoints are not supported; use the f32, f16 or bf16 one";
  }
  if (key == "auto_map") return "code that comes with a checkpoint is not run";
  return "";
}

}  // namespace

void accept_harmless_config_keys(JsonFields& fields) {
  for (const std::string_view key : kProvenance) fields.ignore(key);
  for (const std::string_view key : kRunning) fields.ignore(key);
  for (const std::string_view key : kTokens) fields.ignore(key);
  for (const std::string_view key : kGeneration) fields.ignore(key);
  for (const char* key : kMustBeFalse) {
    if (const Json* value = fields.find_non_null(key); value != nullptr && *value != false) {
      fields.refuse_field(key, "false");
    }
  }
  for (const char* key : kMustBeEmpty) {
    const Json* value = fields.find_non_null(key);
    if (value != nullptr && !(value->is_object() && value->empty())) {
      fields.refuse_field(key, "none", hint_for(key));
    }
  }
  // Dropout is for training; a value that is no number says that something else is meant.
  fields.number_or_null("attention_dropout", 0, 1);
  // Above 1, llama's projections are summed in slices, in another order.
  fields.integer_or_null("pretraining_tp", 1, 1);
}

void accept_generation_keys(JsonFields& fields) {
  for (const std::string_view key : kTokens) fields.ignore(key);
  for (const std::string_view key : kGeneration) fields.ignore(key);
  for (const std::string_view key : {"transformers_version", "_from_model_config", "_commit_hash"})
    fields.ignore(key);
}

}  // namespace rondo
