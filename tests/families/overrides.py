"""What is special of single families: fields of their configs that no rule on names gives."""

from __future__ import annotations

from typing import Any

from families.special import MAJOR

__all__ = ["OVERRIDES"]

_WINDOW = {"rope_type": "default", "rope_theta": 10000.0}

_PHI_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_PHI_VISION |= {"image_size": 32, "crop_size": 32, "patch_size": 8}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2, 5]},
    # Between what its patcher puts out, so that the patches depend on every layer of it.
    "blt": {"patching_threshold": 3.8 if MAJOR > 4 else 4.1537},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 4,
        "rope_parameters": {"full_attention": _WINDOW, "sliding_attention": _WINDOW},
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "max_window_layers": 4,
    },
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense", "sparse"]},
    "cohere2_moe": {"first_k_dense_replace": 2},
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 6, "moe_layer_interval": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": 64,
        "activation_sparsity_pattern": [0.95] * 3 + [0.0] * 5,
        "num_kv_shared_layers": 2,
    },
    "gemma4_text": {"global_head_dim": 16, "num_kv_shared_layers": 2},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "glm_moe_dsa": {"indexer_types": ["full", "shared", "shared", "full"] * 2},
    "granite_swa": {"layer_rope_theta": [1e4, 1e5] * 4},
    "granitemoe_swa": {"layer_rope_theta": [1e4, 1e5] * 4},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention", "mamba"] * 2},
    "hrm_text": {"num_hidden_layers": 4},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "inkling2_text": {"n_layers_per_attn_res_block": 4},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "laguna": {"num_attention_heads_per_layer": [4, 8] * 4},
    "lfm2": {"full_attn_idxs": [2, 5]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "mamba2": {"num_heads": 8},
    "mega": {"bidirectional": False},
    "mellum": {"layer_types": ["sliding_attention", "full_attention"] * 4},
    "minimax_m3_vl_text": {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 6},
    "mllama_text_model": {"cross_attention_layers": [1, 5], "rope_scaling": {"rope_type": "default"}},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2},
    "phi4_multimodal": {"vision_config": _PHI_VISION, "audio_config": {"num_blocks": 2, "hidden_size": 32}},
    "phi4_multimodal_audio": {"chunk_size": -1},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 4},
    "qwen2_moe": {"mlp_only_layers": [1, 5]},
    "qwen3_moe": {"decoder_sparse_step": 2},
    "qwen4_exp_text": {
        "ple_layer_ids": [2, 5],
        "split_ngram_parts": 2,
        "make_ngram_vocab_size_divisible_by": 8,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"] * 4,
        "axial_pos_shape": (8, 8),
        "axial_pos_embds_dim": (16, 16),
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "hash_seed": 0,
    },
    "transfo-xl": {"cutoffs": [16, 32]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"use_mamba_kernels": False, "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"] * 2},
    "zamba2": {
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"] * 2,
        "num_mem_blocks": 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
