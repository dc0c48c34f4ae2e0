"""Which Hugging Face models can lose layers, and how their configs are kept true.

A transformers config counts the layers and may describe each of them; every layer knows its number,
which is where the cache keeps its keys and values. `FAMILIES` declares, one row a `model_type`, what
has to follow when layers go. Whatever has no row is refused, never written wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast

from torch import nn

from shoal.architectures.cache import renumber_
from shoal.architectures.families import FAMILIES, Family, layers_of, submodule
from shoal.errors import UnitError
from shoal.units import Removal

__all__ = [
    "FAMILIES",
    "Family",
    "is_pretrained",
    "owner_of",
    "repair_config_",
    "why_not",
]


# Lists and tables that may by chance be as long as the network is deep, and do not describe layers.
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
    }
)
_STAGES = ("stage_names", "_out_features", "_out_indices", "out_features", "out_indices")


def is_pretrained(module: nn.Module) -> TypeGuard[Any]:
    """Return whether this is a model of transformers; never imports it."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def owner_of(model: nn.Module, path: str) -> tuple[str, Any] | None:
    """Return path and module of the outermost transformers model that holds `path`, or None.

    Args:
        model: Any network; a transformers model may be a part of it.
        path: Dotted path of a module of it.
    """
    parts = path.split(".") if path else []
    for depth in range(len(parts) + 1):
        prefix = ".".join(parts[:depth])
        module = model.get_submodule(prefix)
        if is_pretrained(module):
            return prefix, module
    return None


def why_not(model: nn.Module, container: str, *, removal: Removal = "delete", keep: int = 1) -> str:
    """Return why entries of `container` cannot be removed from a transformers model; empty if they can.

    Args:
        model: A transformers model.
        container: Dotted path, inside it, of the module that holds the entries.
        removal: How they would be removed; a pass-through cannot be written into a config.
        keep: How many would stay.
    """
    kind = getattr(model.config, "model_type", "")
    family = FAMILIES.get(kind)
    if family is None:
        called = kind or type(model).__name__
        return f"shoal does not know how the config of a {called} model describes its layers"
    layers = _list_of_layers(model, container)
    if layers is None:
        where = " or ".join(family.containers)
        return f"the config of a {kind} model counts the layers in {where}; {container or 'this'!r} is not it"
    if removal != "delete":
        return f"the config of a {kind} model cannot say that a pass-through stands in a layer's place"
    return _why_not_config(model, family, len(layers), keep)


def _why_not_config(model: Any, family: Family, length: int, keep: int) -> str:
    config = model.config
    count = getattr(config, family.count, None)
    if count != length:
        return f"its config says {family.count}={count} and it has {length} layers"
    if keep < 1:
        return f"at least one of its {length} layers has to stay"
    if "Backbone" in type(model).__name__:
        return "a backbone hands out the results of layers by their numbers"
    for name, value in family.refused.items():
        if getattr(config, name, None) == value:
            return f"with {name}={value} a layer's result depends on its number"
    if getattr(config, "is_heterogeneous", False):
        return "its config has a part of its own for every layer (per_layer_config)"
    unknown = _unknown_fields(config, family, length)
    if unknown:
        return f"its config describes every layer in fields that shoal does not know: {', '.join(unknown)}"
    return ""


def _unknown_fields(config: Any, family: Family, length: int) -> list[str]:
    known = _HARMLESS | set(family.sliced) | (set(_STAGES) if family.staged else set())
    fields = {name: value for name, value in vars(config).items() if name not in known}
    return [name for name, value in fields.items() if _is_per_layer(value, length)]


def _is_per_layer(value: Any, length: int) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(type(key) is int and 0 <= key < length for key in value)
    return isinstance(value, (list, tuple)) and len(value) == length


def repair_config_(model: nn.Module, container: str, kept: Sequence[int]) -> None:
    """Make the config and the layers' numbers of a transformers model fit the layers that were kept.

    Args:
        model: A transformers model whose list of layers already lacks the removed ones.
        container: Dotted path of that list.
        kept: Original numbers of the layers that are left, ascending.

    Raises:
        UnitError: If the model has no row in `FAMILIES`, or the path is not its list of layers.
    """
    family = FAMILIES.get(getattr(model.config, "model_type", ""))
    if family is None or _list_of_layers(model, container) is None:
        raise UnitError(
            f"asked to repair the config of {type(model).__name__} for {container!r}: "
            f"{why_not(model, container)}. Known: {', '.join(FAMILIES)}."
        )
    renumber_(model)
    for config in _configs(model):
        _repair_(config, family, kept)


def _configs(model: nn.Module) -> list[Any]:
    """The configs of the model and of its parts that describe the same layers."""
    own = cast(Any, model).config
    found = {id(own): own}
    for module in model.modules():
        config = vars(module).get("config")
        if type(config) is type(own):
            found[id(config)] = config
    return list(found.values())


def _repair_(config: Any, family: Family, kept: Sequence[int]) -> None:
    for name in family.sliced:
        entries = getattr(config, name, None)
        if entries is not None:
            setattr(config, name, [entries[index] for index in kept])
    for name in family.recounted:
        first = getattr(config, name, None)
        if first is not None:
            setattr(config, name, sum(index < first for index in kept))
    setattr(config, family.count, len(kept))
    if family.staged:
        last = len(kept)
        config.stage_names = ["stem", *(f"stage{number}" for number in range(1, last + 1))]
        config._out_features, config._out_indices = [f"stage{last}"], [last]


def _list_of_layers(model: nn.Module, container: str) -> nn.ModuleList | None:
    """The list of layers that the config counts, if it is the one of this path."""
    known = layers_of(model)
    return known[1] if known is not None and submodule(model, container) is known[1] else None
