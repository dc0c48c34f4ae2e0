"""Tiny random networks of every family of transformers, made by rules on the names of config fields.

`made(name)` returns the causal language model of a family, or a network of `ENCODERS`, with what its
forward takes: 8 layers deep, in float32 and evaluation mode. A config is its class's default with every
size that has a name in `SIZES` replaced, through nested configs; fields with an entry a layer are left
to the class, which computes them anew for 8 layers. `OVERRIDES` holds what is special of a family.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from families.encoders import ENCODERS, INPUTS, PROMPT
from families.overrides import OVERRIDES
from families.sizes import LAYERS, SIZES, TOKENS, VOCABULARY

__all__ = [
    "build",
    "causal_config",
    "causal_families",
    "lively_",
    "made",
    "networks",
    "prompt_of",
    "second_names",
]

# What the forward takes beside ids.
EXAMPLES: dict[str, dict[str, Any]] = {"blt": {"use_cache": False}}
# They choose among more than 8 tokens, or keep no more of them, by rounded numbers.
SHORT = {"axk2", "deepseek_v32", "dots3_note_text", "glm_moe_dsa", "hy_v4", "moshi", "recurrent_gemma"}
SHORT |= {"reformer", "zamba2"}


def causal_families() -> tuple[str, ...]:
    """The families of causal language models that the installed package names."""
    return tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def second_names() -> dict[str, str]:
    """Families whose class and config are those of another one, and the name of that one."""
    kinds = defaultdict(list)
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        kinds[name].append(kind)
    second: dict[str, str] = {}
    for same in kinds.values():
        if len(same) < 2:
            continue
        configs = {kind: _config_class(kind) for kind in same}
        first = {config: kind for kind, config in configs.items() if kind == config.model_type}
        second |= {kind: first[config] for kind, config in configs.items() if kind != first[config]}
    return second


def networks() -> tuple[str, ...]:
    """The names of all networks, each once."""
    second = second_names()
    return (*(kind for kind in causal_families() if kind not in second), *ENCODERS)


def prompt_of(kind: str) -> torch.Tensor:
    """What a model of the family writes on."""
    return PROMPT[:, :4] if kind in SHORT else PROMPT


def tiny_config(cls: type, **fields: Any) -> Any:
    """A config of a class, shrunk; `fields` and those of `OVERRIDES` go before the rules."""
    return cls(**_fields(cls, fields))


def _fields(cls: Any, special: Mapping[str, Any]) -> dict[str, Any]:
    default = vars(cls())
    special = {**OVERRIDES.get(cls.model_type, {}), **special}
    fields = {
        name: size for name, value in default.items() if (size := _size(name, value, default)) is not None
    }
    for name, value in default.items():
        if isinstance(value, PretrainedConfig):
            more = special.pop(name, {})
            if name in ("vision_config", "audio_config"):
                more = {key: 2 for key in vars(value) if SIZES.get(key) == LAYERS} | more
            fields[name] = _fields(type(value), more) | (
                {"model_type": kind} if (kind := value.model_type) else {}
            )
    return {**fields, **_tokens(default), **special}


def _size(name: str, value: Any, fields: Mapping[str, Any]) -> int | None:
    if name == "num_key_value_heads" and "kv_lora_rank" in fields:
        return SIZES["num_attention_heads"]
    whole = type(value) is int or (value is None and name in ("head_dim", "num_key_value_heads"))
    return SIZES.get(name) if whole else None


def _tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of special tokens inside the vocabulary; those of other modalities at its end."""
    if "vocab_size" not in values and "n_vocab" not in values:
        return {}
    named = [name for name, value in values.items() if re.search("_token_(id|index)$", name)]
    named = [name for name in named if name in TOKENS or values[name] is not None]
    return {name: TOKENS.get(name, VOCABULARY - 1 - number) for number, name in enumerate(named)}


def made(name: str) -> tuple[Any, dict[str, Any]]:
    """The network of a family of causal language models, or of `ENCODERS`, and what its forward takes."""
    if name in ENCODERS:
        fields, takes = ENCODERS[name]
        cls = getattr(transformers, name)
        model = build(cls, tiny_config(cls.config_class, **fields))
    else:
        model, takes = build(_causal_class(name), causal_config(name)), ("input_ids",)
    example = {what: INPUTS[what] for what in takes} | EXAMPLES.get(name, {})
    if "attention_mask" in signature(model.forward).parameters and "input_ids" in takes:
        example["attention_mask"] = torch.ones_like(PROMPT)
    return model, example


def causal_config(kind: str) -> Any:
    """The config of a family's causal language model, tiny."""
    config = tiny_config(_config_class(kind))
    if "is_decoder" in vars(config):
        config.is_decoder = True
    return config


def _causal_class(kind: str) -> Any:
    return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])


def _config_class(kind: str) -> Any:
    """Where a family has several parts, its causal language model may be one of them."""
    own = CONFIG_MAPPING[kind]
    return _causal_class(kind).config_class if own.sub_configs else own


def build(cls: Any, config: Any) -> Any:
    """The network of a class, its weights drawn anew, all of them, from seed 0."""
    torch.manual_seed(0)
    return lively_(cls(config).eval())


def lively_(model: nn.Module) -> nn.Module:
    """Move every weight off its initial value where that is a constant, and all norms and biases.

    A gate that begins at zero hides whatever is behind it. Buffers that no file holds are computed anew
    when a model is loaded, and stay as they are.
    """
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and (tensor.dim() == 1 or tensor.min() == tensor.max())
        ):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data += 0.2 * (noise.abs() if "var" in name else noise)
    return model
