"""Where the layers of a transformers model keep keys and values: places of a cache, by their numbers.

Attention, and whatever else has a place in the cache, bears the number of its layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any, cast

from torch import nn

from shoal.architectures.fields import NUMBERS, POSITIONAL, STATEFUL
from shoal.architectures.hidden import Bypass
from shoal.architectures.skeletons import configs_inside

__all__ = ["numbers_of", "renumber_", "why_not_inside"]


def why_not_inside(model: nn.Module, paths: Sequence[str]) -> str:
    """Return why parts of a layer of a transformers model cannot be bypassed; empty if they can.

    Its config says nothing of them. What matters is the cache, which attention finds by the number of
    its layer.

    Args:
        model: A transformers model.
        paths: Dotted paths, inside it, of the modules that are bypassed together.
    """
    parts = [model.get_submodule(path) for path in paths]
    kind = getattr(model.config, "model_type", "")
    if kind in STATEFUL:
        return f"the layers of a {kind} model hand out states, which something that stands in has none of"
    if not any(_numbered(part) for part in parts):
        return ""
    within = {inner for part in parts for inner in part.modules()}
    stacks = (layer for layers in _lists_of(model) for layer in layers)
    layer = next((each for each in stacks if any(part in set(each.modules()) for part in parts)), None)
    if layer is not None and len(numbers_of(layer)) > 1:
        return "its layer has several places in the cache"
    others = [] if layer is None else [m for m in _numbered(layer) if m not in within and m is not layer]
    if layer is None or any(within.isdisjoint(other.modules()) for other in others):
        return "another module uses its place in the cache"
    if not _keeps_cache(model):
        return ""
    return next(filter(None, (_why_not_cache(part) for _, part in configs_inside(model.config))), "")


def _keeps_cache(model: nn.Module) -> bool:
    return not {"past_key_values", "cache_params"}.isdisjoint(signature(model.forward).parameters)


def _why_not_cache(config: Any) -> str:
    for name in POSITIONAL:
        if value := getattr(config, name, None):
            return f"with {name}={value} what a layer does depends on its number"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if getattr(config, "cross_attention_layers", None):
        kinds = ["attention", "cross attention"]
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
    for layers in _lists_of(model):
        if any(len(numbers_of(layer)) > 1 for layer in layers):
            continue
        number = 0
        for layer in layers:
            numbered = _numbered(layer)
            for module in numbered:
                for name in NUMBERS & vars(module).keys():
                    vars(module)[name] = number
            number += not any(isinstance(module, Bypass) for module in numbered)
        if not number:
            parts = [part for _, part in configs_inside(model.config)]
            for config in (*parts, getattr(model, "generation_config", None)):
                if config is not None:
                    cast(Any, config).use_cache = False


def numbers_of(module: nn.Module) -> set[int]:
    """Return the numbers of layers that a module and its parts bear."""
    return {vars(inner)[name] for inner in _numbered(module) for name in NUMBERS & vars(inner).keys()}


def _lists_of(model: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists whose entries bear numbers of their own, or did: the stacks of layers."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, nn.ModuleList) or module in inside:
            continue
        numbers = [numbers_of(entry) for entry in module]
        if any(numbers) and _ascend(numbers):
            inside.update(module.modules())
            yield module


def _ascend(numbers: list[set[int]]) -> bool:
    found = [(min(each), max(each)) for each in numbers if each]
    return found == sorted(found) and (len(found) < 2 or found[0] != found[-1])


def _numbered(module: nn.Module) -> list[nn.Module]:
    return [
        inner for inner in module.modules() if any(type(vars(inner).get(name)) is int for name in NUMBERS)
    ]
