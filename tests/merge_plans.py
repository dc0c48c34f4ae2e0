"""Plans of merges drawn at random or written by hand, and how far two networks are apart."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shoal import Plan, find_units
from shoal.architectures.convolutions import Convolutions
from shoal.architectures.operations import activation_name
from shoal.layers import MergeEntry
from shoal.steps import Merge
from shoal.surgery.rewriting import rewrite

__all__ = ["apart", "merge", "plan_of", "steps_from", "steps_of"]


def merge(start: int, stop: int, kept: Sequence[int], **fields: object) -> Merge:
    """A step on layers whose names are not asked for."""
    return Merge(start=start, stop=stop, kept=tuple(kept), layers=(), **fields)


def plan_of(net: nn.Module, example: tuple[Tensor, ...], steps: Sequence[Merge]) -> Plan:
    """The plan of some steps for a network."""
    chain = find_units(net, example, granularity="layer")
    named = [
        Merge(**{**vars(step), "layers": tuple(unit.name for unit in list(chain)[step.start : step.stop])})
        for step in steps
    ]
    return Plan.merging(chain, named)


def steps_of(found: Convolutions, seed: int, *, longest: int = 6) -> list[Merge]:
    """A valid division of a network's layers into segments, of which any layers are left out that may be."""
    rng, steps, at = random.Random(seed), [], 0
    regions: dict[int, list] = {}
    for region in found.regions():
        if len(region.segment) <= longest:
            regions.setdefault(region.segment.start, []).append(region)
    while at < len(found.layers):
        if at not in regions or rng.random() < 0.1:
            at += 1
            continue
        region = rng.choice(regions[at])
        segment = region.segment
        share = rng.choice([0, 0.5, 1])
        kept = [index for index in segment if not found.layers[index].reducible or rng.random() < share]
        bend, added = rewrite(found, region, kept).bend, ""
        if bend is not None and region.activation is None and rng.random() < 0.5:
            added = activation_name(region.piece.traced, bend)
        steps.append(merge(segment.start, segment.stop, kept, fused=rng.random() < 0.85, added=added))
        at = segment.stop
    return steps


def steps_from(entries: Sequence[MergeEntry], seed: int) -> list[Merge]:
    """A division of a network's layers that some entries allow."""
    rng, at, steps = random.Random(seed), 0, []
    last = max(entry.segment.stop for entry in entries)
    while at < last:
        fit = [entry for entry in entries if entry.segment.start == at]
        if not fit:
            at += 1
            continue
        entry = rng.choice(fit)
        if not entry.unchanged:
            steps.append(merge(at, entry.segment.stop, entry.kept, added=entry.added))
        at = entry.segment.stop
    return steps


def apart(net: nn.Module, other: nn.Module, example: tuple[Tensor, ...]) -> float:
    """The largest difference between two networks, over the largest number that the second puts out."""
    with torch.no_grad():
        mine, theirs = (each(*(x.clone() for x in example)).double() for each in (net, other))
    assert mine.shape == theirs.shape
    return ((mine - theirs).abs().max() / theirs.abs().max()).item()
