"""What is done to every family: a cut, proved to be the original without the layers, or refused in words.

Shapes: T tokens of the example.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils._pytree import tree_leaves

from shoal.architectures import bypassed
from shoal.architectures.generation import cannot_generate, compare_generation
from shoal.architectures.pretrained import quiet
from shoal.calling import call, evaluating
from shoal.errors import UnitError
from shoal.plan import Plan
from shoal.surgery import apply, save
from shoal.units import Chain

__all__ = ["CUTS", "Difference", "Outcome", "attempt", "cuts_of", "nearest_of", "outcome"]

# Places in a run of 8 units. Layers that come in periods of 2 or 4 stay in step in the last cut only.
CUTS = ((3,), (0, 5), (4, 5, 6, 7))
# What a network keeps for the next call has an entry a layer, and is none of its answers.
_KEPT = ("past_key_values", "mems", "hidden_states")


class Difference(AssertionError):
    """The cut is not what it should be; says in what."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cut that was asked for.

    Attributes:
        removed: The units asked for.
        refused: Why they cannot go; empty where they went and the cut is exact.
        nearest: The units of the cut that the refusal names instead, which is exact; none where it
            names none.
    """

    removed: tuple[int, ...]
    refused: str
    nearest: tuple[int, ...]


def cuts_of(chain: Chain) -> list[tuple[int, ...]]:
    """Three cuts: one inner unit, the first and another, the later half. The first is of the first list of
    units, the second of the last one, the third of all at once; no list loses all of its units.
    """
    groups = [numbers for numbers in chain.groups.values() if len(numbers) > 1] or [range(len(chain))]
    asked = [groups[:1], groups[-1:], groups]
    return [
        tuple(sorted(number for numbers in lists for number in _spread(numbers, places)))
        for places, lists in zip(CUTS, asked, strict=True)
    ]


def _spread(numbers: Sequence[int], places: Sequence[int]) -> list[int]:
    """The numbers at these places of 8, but at least one stays."""
    found = sorted({numbers[place * len(numbers) // 8] for place in places})
    return found[: len(numbers) - 1]


def outcome(
    model: Any, example: Any, chain: Chain, removed: Sequence[int], folder: Path, *, prompt: Tensor | None
) -> Outcome:
    """Return what becomes of a cut; where it is refused, the nearest one is made and proved instead.

    Args:
        model: The original.
        example: What its forward takes.
        chain: Its units.
        removed: Indices of those that go.
        folder: Where cuts are saved.
        prompt: What is written on with and without the cache; None where that is not compared.

    Raises:
        Difference: If a cut is not equal to the original with the layers bypassed.
    """
    refused = attempt(model, example, chain, removed, folder / "asked", prompt=prompt)
    nearest = nearest_of(refused, chain)
    if nearest:
        again = attempt(model, example, chain, nearest, folder / "nearest", prompt=prompt)
        if again:
            raise Difference(f"the cut named as the nearest is refused: {refused} {again}")
    return Outcome(removed=tuple(removed), refused=refused, nearest=nearest)


def attempt(
    model: Any, example: Any, chain: Chain, removed: Sequence[int], folder: Path, *, prompt: Tensor | None
) -> str:
    """Return why a cut was refused; empty where it was made, saved, loaded again and found exact.

    Args: as `outcome`; the folder must not exist.

    Raises:
        Difference: If the cut is not equal to the original with the layers bypassed.
    """
    try:
        plan = Plan.removing(chain, removed)
        small = apply(model, plan)
        save(small, folder, plan=plan)
    except UnitError as error:
        if folder.exists():
            raise Difference("it was refused after a folder was written") from error
        return str(error)
    whole = _outputs(model, example)
    with bypassed(model, chain, removed):
        expected = _outputs(model, example)
    if all(map(torch.equal, whole, expected)):
        raise Difference("what was removed changes nothing, so that nothing is proved")
    loaded = _reloaded(folder)
    for made, where in ((small, "in memory"), (loaded, "reloaded")):
        _check_equal(_outputs(made, example), expected, where)
        if prompt is not None and not cannot_generate(made):
            same, words = compare_generation(made, prompt, tokens=3)
            if not same:
                raise Difference(f"{where}: {words}")
    return ""


def _outputs(model: Any, example: Any) -> list[Tensor]:
    """What the network is asked for."""
    with evaluating(model), torch.no_grad():
        found = dict(call(model, example))
    kept = {name: value for name, value in found.items() if name not in _KEPT}
    return [leaf for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)]


def _check_equal(found: list[Tensor], expected: list[Tensor], where: str) -> None:
    if [each.shape for each in found] != [each.shape for each in expected]:
        raise Difference(f"{where}: other outputs")
    if not all(each.isfinite().all() for each in expected if each.is_floating_point()):
        raise Difference(f"{where}: outputs that are not finite")
    for ours, theirs in zip(found, expected, strict=True):
        if not torch.equal(ours, theirs):
            gap = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
            raise Difference(f"{where}: outputs differ by {gap:.1e} of the largest")


def _reloaded(folder: Path) -> Any:
    """The network as its stock class loads it, without a missing, unexpected or mismatched weight."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    with quiet():
        loaded, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    faults = {
        kind: sorted(map(str, names)) for kind, names in info.items() if kind.endswith("_keys") and names
    }
    if faults:
        raise Difference(f"reloaded with {faults}")
    return loaded


def nearest_of(message: str, chain: Chain) -> tuple[int, ...]:
    """The units of the nearest cut that works, as the words of a refusal name it; none where they do not."""
    words = message.partition("nearest cut that works removes ")[2]
    found = [
        chain[f"{container.rstrip('.')}.{number}"].index if container else number
        for numbers, container in re.findall(r"\[([\d, ]+)\](?: of ([\w.]+))?", words)
        for number in map(int, numbers.split(","))
    ]
    return tuple(sorted(found))
