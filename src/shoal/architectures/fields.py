"""What happens to each field of a transformers config when layers go: one declared table.

A config counts the layers and may describe each of them, in a field of its own for every family and
time. `FIELDS` says, by the field's name, by which rule it follows; a list that is as long as the
network is deep and has no rule is an error, never a guess (`undeclared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.architectures.periods import Interval, Periodic, Sparse
from shoal.architectures.rules import (
    Cycle,
    First,
    Gone,
    Indices,
    Last,
    Overrides,
    PerRoot,
    Repeats,
    Rule,
    Slice,
    Sources,
    Stages,
    States,
)
from shoal.errors import ConfigError

__all__ = [
    "ABOUT_PARTS",
    "COUNTS",
    "FIELDS",
    "LAYER_AXES",
    "MIDWAY",
    "NUMBERS",
    "POSITIONAL",
    "REFERENCES",
    "STATEFUL",
    "UNATTENDING",
    "declare",
    "undeclared",
]

_SLICED = (
    "activation_sparsity_pattern",
    "attention_layers",
    "attn_layers",
    "block_type_list",
    "ffn_multipliers",
    "gnn_layers_types",
    "hybrid_override_pattern",
    "indexer_types",
    "intermediate_size",
    "layer_rope_theta",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "moe_intermediate_size",
    "no_rope_layers",
    "num_attention_heads",
    "num_attention_heads_per_layer",
    "num_key_value_heads",
    "num_key_value_heads_per_layer",
    "num_kv_heads",
    "num_query_heads",
    "sliding_window",
    "sliding_windows",
    "swiglu_limits",
    "swiglu_limits_shared",
)
_NUMBERED = (
    "attn_layer_indices",
    "cross_attention_layers",
    "full_attn_idxs",
    "fullatt_block_indexes",
    "global_attention_blocks",
    "global_attn_indexes",
    "hybrid_layer_ids",
    "local_layer_ids",
    "moe_layers",
    "ple_layer_ids",
    "residual_block_indices",
    "rope_scaling_layers",
    "window_block_indexes",
    "window_block_indices",
)
_HANDED_OUT = (
    "backbone_out_indices",
    "deepstack_visual_indexes",
    "extract_layers",
    "intermediate_hidden_state_indices",
    "intermediate_layers_indices",
    "out_indices",
)
_FIRST = ("first_k_dense_replace", "max_window_layers", "num_dense_layers", "num_first_full_attention_layers")
_LAST = ("num_blocks", "num_kv_shared_layers", "num_last_full_attention_layers")
_PREDICTING = ("num_mtp_layers", "num_nextn_predict_layers")

FIELDS: dict[str, Rule] = {
    "_heterogeneity_spec": Overrides("_heterogeneity_spec"),
    **{name: Slice(name) for name in _SLICED},
    **{name: Indices(name) for name in _NUMBERED},
    **{name: Indices(name, needed=True) for name in _HANDED_OUT},
    **{name: First(name) for name in _FIRST},
    **{name: Last(name) for name in _LAST},
    **{name: Gone(name) for name in _PREDICTING},
    "attention_types": Repeats("attention_types"),
    "attn_layer_period": Periodic("attn_layer_period", "attn_layer_offset"),
    "block_types": Cycle("block_types"),
    "moe_layer_interval": Interval("moe_layer_interval", "moe_layer_start_index", "moe_layer_end_index"),
    "scale_depth": PerRoot("scale_depth"),
    "cross_layer_interval": Periodic("cross_layer_interval", fixed=0),
    "decoder_sparse_step": Sparse("decoder_sparse_step", "mlp_only_layers"),
    "encoder_sparse_step": Periodic("encoder_sparse_step"),
    "expert_layer_period": Periodic("expert_layer_period", "expert_layer_offset"),
    "kv_source_layers": Sources("kv_source_layers"),
    "stage_names": Stages(),
}

# Fields of a config about the stack of a config inside it whose name has the word.
ABOUT_PARTS: dict[str, tuple[str, Rule]] = {
    "spatial_vision_layer": ("vision", States("spatial_vision_layer")),
    "vision_feature_layer": ("vision", States("vision_feature_layer")),
}

# Fields that are governed by the rule of another, or describe no layer whatever their length.
_GOVERNED = frozenset({"attn_layer_offset", "expert_layer_offset", "mlp_only_layers", "rope_scaling"})
_STAGE_FIELDS = frozenset({"_out_features", "_out_indices", "out_features", "stage_names"})
_HARMLESS = frozenset(
    {
        "architectures",
        "attribute_map",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "eos_token_id",
        "id2label",
        "image_size",
        "keys_to_ignore_at_inference",
        "label2id",
        "pad_token_id",
        "patch_size",
        "pool_scales",
        "suppress_tokens",
        "task_specific_params",
        "time_step_limit",
    }
)

# Fields that count layers bear one of these in their names.
COUNTS = ("layer", "depth", "block", "stage")

# Attributes of modules that hold the number of their layer, or of their place in the cache.
NUMBERS = frozenset(
    {"block_id", "block_idx", "layer_id", "layer_idx", "layer_index", "layer_num", "layer_number"}
)
# Attributes that hold the number of another layer.
REFERENCES = frozenset({"kv_shared_layer_index"})

# Fields that, switched on, make what happens in a layer or beside it depend on its number.
POSITIONAL = ("n_layers_per_attn_res_block", "rescale_every", "scale_attn_by_inverse_layer_idx")

# Families in which the layer in the middle does more, by the number of layers.
MIDWAY = frozenset({"granite_speech5_encoder", "granite_speech_encoder", "granite_speech_plus_encoder"})

# Families whose layers hand out a state that the next token needs, and keep no place in a cache.
STATEFUL = frozenset({"xlstm"})

# Kinds of layers that keep no keys and values, by the number of which a cache knows its length.
UNATTENDING = frozenset(
    {"conv", "dense", "linear_attention", "mamba", "mamba2", "mlp", "moe", "recurrent", "sparse"}
)

# Weights outside of the layers that hold a part for each of them, and the axis along which they do.
LAYER_AXES: dict[str, int] = {
    "embed_tokens_per_layer.weight": 1,
    "per_layer_model_projection.weight": 0,
}


def declare(name: str, rule: Rule) -> None:
    """Say by which rule a field of a config follows when layers go, where shoal does not know it.

    Args:
        name: The field.
        rule: Its rule.

    Raises:
        ConfigError: If the field has a rule already.

    Example:
        >>> declare("widths_of_my_layers", Slice("widths_of_my_layers"))
        >>> FIELDS.pop("widths_of_my_layers").cut({"widths_of_my_layers": [8, 16, 8]}.get, 3, [0, 2])
        {'widths_of_my_layers': [8, 8]}
    """
    if name in FIELDS:
        raise ConfigError(f"asked to declare a rule for the field {name!r}: it has one, {FIELDS[name]}.")
    FIELDS[name] = rule


def undeclared(fields: Mapping[str, Any], length: int) -> list[str]:
    """Return the names of fields that look as if they described every layer, and have no rule.

    Args:
        fields: All fields of a config.
        length: L.

    Example:
        >>> undeclared({"layer_types": ["a", "b"], "widths": [8, 16], "sizes": [1, 2, 3]}, 2)
        ['widths']
    """
    known = FIELDS.keys() | _HARMLESS | _GOVERNED | _STAGE_FIELDS
    return [name for name, value in fields.items() if name not in known and _is_per_layer(value, length)]


def _is_per_layer(value: Any, length: int) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(type(key) is int and 0 <= key < length for key in value)
    return isinstance(value, (list, tuple)) and len(value) == length
