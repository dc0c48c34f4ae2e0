"""Where the layers of a transformers model keep keys and values: places of a cache, by their numbers.

Attention, and whatever else has a place in the cache, bears the number of its layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from shoal.architectures.families import Family, layers_of
from shoal.architectures.hidden import Bypass

__all__ = ["numbers_of", "renumber_", "why_not_inside"]

# The second name is met in a few families only, none of which has a row.
_NUMBER, _OTHER_NUMBER = "layer_idx", "layer_id"


def why_not_inside(model: nn.Module, paths: Sequence[str]) -> str:
    """Return why parts of a layer of a transformers model cannot be bypassed; empty if they can.

    Its config says nothing of them. What matters is the cache, which attention finds by the number of
    its layer.

    Args:
        model: A transformers model.
        paths: Dotted paths, inside it, of the modules that are bypassed together.
    """
    parts = [model.get_submodule(path) for path in paths]
    if not any(_numbered(part, name) for part in parts for name in (_NUMBER, _OTHER_NUMBER)):
        return ""
    known = layers_of(model)
    if known is None:
        kind = getattr(model.config, "model_type", "") or type(model).__name__
        return f"shoal does not know how a {kind} model numbers its layers in the cache"
    family, layers = known
    within = {inner for part in parts for inner in part.modules()}
    layer = next((each for each in layers if any(part in set(each.modules()) for part in parts)), None)
    others = [] if layer is None else [m for m in _numbered(layer) if m not in within]
    if layer is None or any(within.isdisjoint(other.modules()) for other in others):
        return "another module uses its place in the cache"
    return _why_not_cache(model.config, family)


def _why_not_cache(config: Any, family: Family) -> str:
    for name, value in family.refused.items():
        if getattr(config, name, None) == value:
            return f"with {name}={value} a layer's result depends on its number"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if len(kinds) > 1:
        return f"its layers keep caches of different kinds ({', '.join(kinds)}), by their numbers"
    if getattr(config, "is_heterogeneous", False):
        return "its config has a part of its own for every layer (per_layer_config)"
    return ""


def renumber_(model: nn.Module) -> None:
    """Number the layers of a transformers model in the order in which they come.

    A layer whose attention was bypassed takes no place of the cache: the next one gets its number, so
    that the first place, from which the cache knows its length, is always taken. Where no attention is
    left, no cache is kept unless it is asked for.
    """
    known = layers_of(model)
    if known is None:
        return
    number = 0
    for layer in known[1]:
        numbered = _numbered(layer)
        for module in numbered:
            vars(module)[_NUMBER] = number
        number += not any(isinstance(module, Bypass) for module in numbered)
    if not number:
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                cast(Any, config).use_cache = False


def numbers_of(module: nn.Module) -> set[int]:
    """Return the numbers of layers that a module and its parts bear."""
    return {vars(inner)[_NUMBER] for inner in _numbered(module)}


def _numbered(module: nn.Module, name: str = _NUMBER) -> list[nn.Module]:
    return [inner for inner in module.modules() if type(vars(inner).get(name)) is int]
