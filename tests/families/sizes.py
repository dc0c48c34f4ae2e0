"""How small: sizes of tiny networks by the names of config fields, whatever the family.

A field that counts layers is 8 deep; widths are as small as heads and experts allow.
"""

from __future__ import annotations

__all__ = ["LAYERS", "SIZES", "TOKENS", "VOCABULARY"]

LAYERS = 8
VOCABULARY = 64

# Fields of whole numbers, by the value that they get.
_BY_VALUE = (
    (
        LAYERS,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks "
        "encoder_layers num_encoder_layers",
    ),
    (
        VOCABULARY,
        "vocab_size decoder_vocab_size audio_vocab_size vocab_size_per_layer_input max_position_embeddings "
        "n_positions n_ctx max_seq_len context_length max_source_positions max_target_positions "
        "original_max_position_embeddings encoder_hash_byte_group_vocab pronunciation_vocab_size "
        "shape_vocab_size ngram_vocab_size_base position_bias_max_distance unpadded_vocab_size "
        "intermediate_size ffn_dim d_ff dff dim_ff ffn_hidden_size d_inner feed_forward_size mlp_dim "
        "intermediate_size_mlp dense_intermediate_size hidden_dim linear_intermediate_size",
    ),
    (
        32,
        "hidden_size d_model n_embd emb_dim embedding_dim dim embed_dim embedding_size hidden_size_global "
        "lru_width word_embed_proj_dim input_size ple_embed_dim input_embedding_size "
        "output_embedding_size decoder_ffn_dim encoder_ffn_dim prompt_mid_dim codebook_dim codebook_size "
        "vector_quantization_hidden_dimension router_hidden_size mamba_d_ssm projection_dim "
        "pronunciation_embed_dim shape_embed_dim output_channels num_filters audio_hidden_size "
        "backbone_hidden_size dim_model_base image_size projector_input_dim projector_output_dim "
        "vision_output_dim out_hidden_size projection_size pooler_output_size pooler_hidden_size "
        "hidden_size_per_layer_input shared_intermediate_size base_channels crop_size "
        "ext_pw_out_channel depthwise_separable_out_channel nemo_conv_channels "
        "adapter_in_dim adapter_out_dim",
    ),
    (
        16,
        "expert_ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size "
        "shared_experts_intermediate_size moe_shared_expert_intermediate_size q_lora_rank kv_lora_rank "
        "o_lora_rank laurel_rank adapter_rank relative_attention_num_buckets num_buckets num_mel_bins "
        "position_bias_num_buckets swa_intermediate_size adapter_input_size",
    ),
    (
        8,
        "head_dim global_head_dim kv_channels d_kv dim_head attention_head_size "
        "qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim swa_head_dim swa_v_head_dim "
        "linear_head_dim linear_key_head_dim linear_value_head_dim mamba_head_dim mamba_headdim d_head "
        "mamba_d_head mamba_d_state ssm_state_size state_size time_step_rank mamba_dt_rank index_topk "
        "sliding_window sliding_window_size window_size local_attention attention_window_size "
        "attention_chunk_size chunk_size mamba_chunk_size keep_window_size local_attention_window_len "
        "n_mamba_heads mamba_n_heads mamba_num_heads rotary_dim d_rel hc_lowrank patch_size rel_extent "
        "gated_norm_rank bias_max_distance",
    ),
    (
        4,
        "num_attention_heads num_heads n_head n_heads attention_heads encoder_attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "swa_num_attention_heads linear_num_heads linear_num_value_heads index_n_heads num_experts "
        "num_local_experts n_routed_experts moe_num_experts zero_expert_num block_size prompt_length "
        "index_block_size global_attn_every_n_layers conv_num_attention_heads",
    ),
    (
        2,
        "depth num_key_value_heads num_global_key_value_heads "
        "num_kv_heads kv_n_heads num_query_groups swa_num_key_value_heads linear_num_key_heads "
        "num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k top_k_experts topk "
        "first_k_dense_replace num_dense_layers n_group num_expert_group n_groups max_window_layers "
        "num_lstm_layers num_global_layers num_codebooks num_quantizers",
    ),
    (
        1,
        "n_shared_experts num_shared_experts moe_num_shared_experts topk_group num_random_blocks "
        "mamba_n_groups mamba_ngroups num_nextn_predict_layers",
    ),
)
SIZES = {name: value for value, names in _BY_VALUE for name in names.split()}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
