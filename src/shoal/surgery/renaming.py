"""Keys of a checkpoint → keys of the cut checkpoint.

The names in a checkpoint are not always those of the modules: they may bear the base model's prefix or
lack it, and loaders of transformers rename and merge weights. What stays the same is that all of layer N
of a list stands under `prefix.N.`, and that a stock loader puts it into entry N.

L = layers of a list before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from shoal.errors import UnitError, VerificationError
from shoal.plan import Plan

__all__ = ["Shortened", "find_prefix", "renamed", "shortened_lists", "surviving_keys"]


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """A list of layers that loses some.

    Attributes:
        container: Its dotted path in the network.
        length: L.
        kept: Numbers of the layers that stay, ascending.
    """

    container: str
    length: int
    kept: tuple[int, ...]


def shortened_lists(model: nn.Module, plan: Plan) -> list[Shortened]:
    """Return the lists from which a plan of deletions removes entries.

    Args:
        model: The network before, with or without weights.
        plan: What is removed from it.

    Raises:
        UnitError: If a list would be shortened that stands in a layer of another one that is.
    """
    gone: dict[str, set[str]] = {}
    for path in (path for step in plan.removals for path in step.modules):
        container, _, key = path.rpartition(".")
        gone.setdefault(container, set()).add(key)
    for outer in gone:
        inner = next((path for path in gone if path.startswith(f"{outer}.")), None)
        if inner is not None:
            raise UnitError(
                f"asked to remove entries of {outer!r} and of {inner!r} inside it, in a checkpoint: that is "
                "done one after the other. Remove from one of them, or load the network."
            )
    found = []
    for container, keys in gone.items():
        names = list(model.get_submodule(container)._modules)
        kept = tuple(number for number, key in enumerate(names) if key not in keys)
        found.append(Shortened(container=container, length=len(names), kept=kept))
    return found


def renamed(name: str, prefix: str, kept: Sequence[int]) -> str | None:
    """Return the name that a weight has when only these layers stay; None if its layer does not.

    Example:
        >>> renamed("h.3.mlp.weight", "h", [0, 3]), renamed("h.2.mlp.weight", "h", [0, 3])
        ('h.1.mlp.weight', None)
        >>> renamed("norm.weight", "h", [0, 3])
        'norm.weight'
    """
    number = _number_in(name, prefix)
    if number is None:
        return name
    if number not in kept:
        return None
    rest = name[len(prefix) + 1 + len(str(number)) :]
    return f"{prefix}.{kept.index(number)}{rest}"


def _number_in(name: str, prefix: str) -> int | None:
    """Which layer of the list of this prefix a weight belongs to."""
    if not name.startswith(f"{prefix}."):
        return None
    part = name[len(prefix) + 1 :].partition(".")[0]
    return int(part) if _is_number(part) else None


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 7 and str(int(part)) == part


def find_prefix(names: Mapping[str, str], layers: Shortened, numbers: frozenset[int]) -> str:
    """Return under which prefix a checkpoint keeps the layers of a list.

    Args:
        names: Name in the network by key in the checkpoint, as a stock loader reads it.
        layers: The list.
        numbers: Which of its layers have weights.

    Raises:
        VerificationError: If none fits, or several do.

    Example:
        >>> layers = Shortened(container="model.h", length=2, kept=(0,))
        >>> find_prefix({"h.0.w": "model.h.0.w", "h.1.w": "model.h.1.w"}, layers, frozenset({0, 1}))
        'h'
    """
    found: dict[str, set[int]] = {}
    strange: set[str] = set()
    for key, name in names.items():
        place = _number_in(name, layers.container)
        for prefix, number in _numbered(key):
            if number == place:
                found.setdefault(prefix, set()).add(number)
            elif number < layers.length:
                strange.add(prefix)
    fitting = sorted(prefix for prefix, held in found.items() if numbers <= held and prefix not in strange)
    if len(fitting) == 1:
        return fitting[0]
    told = f"{' and '.join(fitting)} fit equally well" if fitting else "no list of its weights fits"
    raise VerificationError(
        f"asked to cut the {layers.length} layers of {layers.container!r} in a checkpoint: {told}. Load the "
        "network and cut it in memory (--device cpu)."
    )


def _numbered(key: str) -> Iterator[tuple[str, int]]:
    """Every way to read a key as `prefix.number.rest`."""
    parts = key.split(".")
    for place, part in enumerate(parts[:-1]):
        if place and _is_number(part):
            yield ".".join(parts[:place]), int(part)


def surviving_keys(keys: Iterable[str], lists: Mapping[str, Shortened]) -> dict[str, str]:
    """Return the new key of every weight that stays, by its old one.

    Args:
        keys: The checkpoint's keys.
        lists: The shortened lists, by their prefixes in the checkpoint.

    Raises:
        VerificationError: If the checkpoint holds layers beyond the last of a list.
    """
    kept: dict[str, str] = {}
    for key in keys:
        name: str | None = key
        for prefix, layers in lists.items():
            number = _number_in(key, prefix)
            if number is not None and number >= layers.length:
                raise VerificationError(
                    f"asked to cut the {layers.length} layers of {layers.container!r} in a checkpoint: it "
                    f"holds {key!r}, a layer that its config does not count. Load the network and cut it in "
                    "memory."
                )
            name = name and renamed(name, prefix, layers.kept)
        if name is not None:
            kept[key] = name
    return kept
