"""Settings of generation that name layers of the decoder: they follow the layers that stay.

Two ways to name them are told apart. A layer's number goes with the layer. A depth of n speaks of the
hidden state after the first n layers, and goes to the state after those of them that stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from shoal.errors import UnitError

__all__ = ["RULES", "repair_generation_", "repaired_generation"]

Kept = Sequence[int]


def _pairs(value: Any, kept: Kept) -> list[list[int]]:
    """Pairs of a layer's number and a head."""
    pairs = [[_number(each) for each in _listed(pair)] for pair in _listed(value)]
    if any(len(pair) != 2 for pair in pairs):
        raise TypeError
    return [[kept.index(layer), head] for layer, head in pairs if layer in kept]


def _depths(value: Any, kept: Kept) -> str | list[int]:
    """A half of the network by its name, or depths; the state before the first layer is one of them."""
    if isinstance(value, str):
        return value
    depths = (sum(layer < _number(depth) for layer in kept) for depth in _listed(value))
    return [depth for depth in dict.fromkeys(depths) if depth < len(kept)]


def _depth(value: Any, kept: Kept) -> int | None:
    """A depth short of all layers, and of more than none."""
    depth = sum(layer < _number(value) for layer in kept)
    return depth if depth < len(kept) else None


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _listed(value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return value


# What is left empty says nothing any more, and its field goes.
RULES: dict[str, Callable[[Any, Kept], Any]] = {
    "alignment_heads": _pairs,
    "assistant_early_exit": _depth,
    "dola_layers": _depths,
}


def repaired_generation(
    fields: Mapping[str, Any], model: nn.Module, lists: Mapping[str, Kept]
) -> dict[str, Any]:
    """Return the fields of a generation config as they are when only some layers stay.

    Args:
        fields: What the generation config of the network before says.
        model: A model of transformers, with or without weights.
        lists: Numbers of the layers that stay, by the dotted path of their list in the model; only
            lists that are shortened.

    Raises:
        UnitError: If a field that names layers says something that is not known.

    Example:
        >>> repaired_generation({"dola_layers": [1, 3], "top_k": 2}, nn.ModuleList(), {"layers": [2, 3, 5]})
        {'dola_layers': [0, 1], 'top_k': 2}
    """
    named = [name for name in RULES if fields.get(name) is not None]
    found = _lists_of_decoder(model, lists) if named else {}
    if not found:
        return dict(fields)
    after = dict(fields)
    for name in named:
        try:
            (kept,) = found.values()
            value = RULES[name](fields[name], kept)
        except (TypeError, ValueError) as error:
            raise UnitError(
                f"asked to remove layers of {', '.join(found)} in {type(model).__name__}: its generation "
                f"config says {name} = {str(fields[name])[:80]}, and it is not known which layers that "
                "would be. Remove that field."
            ) from error
        if value in (None, 0, []):
            del after[name]
        else:
            after[name] = value
    return after


def _lists_of_decoder(model: Any, lists: Mapping[str, Kept]) -> dict[str, Kept]:
    """The lists of the part that generates; what stands in a single layer is no list of layers."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    paths = [name for name, module in model.named_modules() if module is decoder]
    path = paths[0] if paths else ""
    return {
        container: kept
        for container, kept in lists.items()
        if f".{container}".startswith(f".{path}." if path else "")
        and not any(part.isdecimal() for part in container.split("."))
    }


def repair_generation_(model: nn.Module, lists: Mapping[str, Kept]) -> None:
    """Make the generation config of a model that lost layers name those that stay.

    Args:
        model: A model of transformers after the cut; a model without a generation config stays as it is.
        lists: As `repaired_generation`.

    Raises:
        UnitError: As `repaired_generation`.
    """
    config: Any = getattr(model, "generation_config", None)
    if config is None:
        return
    before = {name: value for name, value in vars(config).items() if name in RULES}
    after = repaired_generation(before, model, lists)
    usual = vars(type(config)())
    for name in before:
        if name in after:
            setattr(config, name, copy.deepcopy(after[name]))
        elif name in usual:
            setattr(config, name, usual[name])
        else:
            delattr(config, name)
