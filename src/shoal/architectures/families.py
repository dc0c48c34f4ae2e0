"""The families of transformers models whose configs and layers shoal knows, one row a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["FAMILIES", "Family", "layers_of", "submodule"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the config of one `model_type` describes its layers.

    Attributes:
        containers: Dotted paths, inside the base model, at which versions of transformers hold the
            list of layers.
        count: Field that counts the layers; `attribute_map` of the config is followed.
        sliced: Fields with one entry a layer.
        recounted: Fields that say how many of the first layers are of a kind.
        staged: The config names one stage a layer (`stage_names`, `out_features`, `out_indices`).
        refused: Fields whose value makes a layer's result depend on its number.
    """

    containers: tuple[str, ...]
    count: str = "num_hidden_layers"
    sliced: tuple[str, ...] = ()
    recounted: tuple[str, ...] = ()
    staged: bool = False
    refused: Mapping[str, Any] = field(default_factory=dict, hash=False)


_DECODER = Family(containers=("layers",))
_TYPED = Family(containers=("layers",), sliced=("layer_types",))
_WINDOWED = Family(containers=("layers",), sliced=("layer_types",), recounted=("max_window_layers",))
_ENCODER = Family(containers=("encoder.layer",))
_VISION = Family(containers=("layers", "encoder.layer"))

FAMILIES: Mapping[str, Family] = {
    "bert": _ENCODER,
    "camembert": _ENCODER,
    "cohere": _DECODER,
    "deit": _VISION,
    "dinov2": Family(containers=("encoder.layer", "layers"), staged=True),
    "distilbert": Family(containers=("transformer.layer",)),
    "electra": _ENCODER,
    "gemma": _DECODER,
    "gemma2": _TYPED,
    "gemma3_text": _TYPED,
    "gpt2": Family(containers=("h",), refused={"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": _DECODER,
    "granite": _DECODER,
    "llama": _DECODER,
    "mistral": _TYPED,
    "olmo": _DECODER,
    "olmo2": _DECODER,
    "opt": Family(containers=("decoder.layers",)),
    "phi": _DECODER,
    "phi3": _DECODER,
    "qwen2": _WINDOWED,
    "qwen3": _WINDOWED,
    "roberta": _ENCODER,
    "smollm3": Family(containers=("layers",), sliced=("layer_types", "no_rope_layers")),
    "stablelm": _DECODER,
    "starcoder2": _DECODER,
    "vit": _VISION,
    "xlm-roberta": _ENCODER,
}


def layers_of(model: Any) -> tuple[Family, nn.ModuleList] | None:
    """Return the family of a transformers model and its list of layers; None where either is not known."""
    family = FAMILIES.get(getattr(model.config, "model_type", ""))
    found = (submodule(model.base_model, path) for path in (family.containers if family else ()))
    layers = next((each for each in found if isinstance(each, nn.ModuleList)), None)
    return None if family is None or layers is None else (family, layers)


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module of this dotted path; None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
