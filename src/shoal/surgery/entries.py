"""Every way to rewrite the segments of a network's convolutions that its graph allows.

The general rules follow from the graph alone. The published ones are narrower: a segment does not pass a
convolution with a stride, ends are not searched, and nothing but up-sampling convolutions is left out whole.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837; the released code for segments and keys.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, combinations, product
from math import gcd, prod
from typing import Literal

from torch import fx

from shoal.architectures.convolutions import Convolutions, Region
from shoal.architectures.operations import activation_name
from shoal.errors import ConfigError, UnitError
from shoal.layers import Axes, ConvShape, Layer, MergeEntry
from shoal.surgery.rewriting import ENTRY, Rewrite, may_go_whole, merged_shape, rewrite
from shoal.units import Segment

__all__ = ["PUBLISHED", "EntryRules", "find_entries"]

# Of so many layers that stand side by side, every subset is looked at.
_FEW = 6


@dataclass(frozen=True, kw_only=True)
class EntryRules:
    """Which ways to rewrite segments are looked at.

    Attributes:
        merge: Whether segments of several layers are.
        prune: Whether layers may go.
        empty: Whether all layers of a segment may go, so that it becomes the identity. Up-sampling
            convolutions may in any case, where `prune` is set.
        strided: Whether a segment may go on behind a convolution with a stride.
        ends: Whether the stem and the head are searched: a first convolution with a stride, and a last
            one that changes the number of channels and lies in no residual block.
        magnitude: By what the layers that stay are chosen: the sum of their absolute weights as they
            are (`raw`), or the mean once batch norms are folded (`folded`).
        largest_kernel: The most taps along an axis that a merged convolution may have; None for any.
    """

    merge: bool = True
    prune: bool = True
    empty: bool = True
    strided: bool = True
    ends: bool = True
    magnitude: Literal["raw", "folded"] = "folded"
    largest_kernel: int | None = 11

    def __post_init__(self) -> None:
        if self.magnitude not in ("raw", "folded"):
            raise ConfigError(f"asked for magnitude={self.magnitude!r}: 'raw' and 'folded' work.")
        if self.largest_kernel is not None and self.largest_kernel < 1:
            raise ConfigError(
                f"asked for largest_kernel={self.largest_kernel}: a merged convolution has one tap or more "
                "along an axis. Ask for 1 or more, or for None, which allows any number."
            )

    @property
    def most_taps(self) -> int:
        """The most taps along an axis, as a number in any case."""
        return sys.maxsize if self.largest_kernel is None else self.largest_kernel


PUBLISHED = EntryRules(empty=False, strided=False, ends=False, magnitude="raw", largest_kernel=None)


def find_entries(convolutions: Convolutions, rules: EntryRules | None = None) -> tuple[MergeEntry, ...]:
    """Return every way to rewrite a segment that the rules allow, by segment and kernel.

    Of the sets of layers that lead to one kernel, the one of largest weights is listed. Every layer has
    an entry in which it stays as it is, unless it is an end that is not searched.

    Args:
        convolutions: The network's.
        rules: Which ways; the general ones where it is None.
    """
    rules = rules or EntryRules()
    layers = convolutions.layers
    searched = [layer.index for layer in layers if rules.ends or not _is_end(convolutions, layer)]
    cuts = () if rules.strided else _cuts(layers)
    found: list[MergeEntry] = []
    for region in convolutions.regions():
        segment = region.segment
        if not set(segment) <= set(searched) or any(segment.start < cut < segment.stop for cut in cuts):
            continue
        if len(segment) > 1 and not rules.merge:
            continue
        found += _entries(convolutions, region, rules)
    alone = {entry.segment.start for entry in found if entry.unchanged}
    found += [_untouched(layers[index]) for index in searched if index not in alone]
    return tuple(sorted(found, key=lambda entry: (entry.segment.start, entry.segment.stop)))


def _is_end(convolutions: Convolutions, layer: Layer) -> bool:
    if layer.index == 0:
        return set(layer.shape.stride) != {1}
    if layer.index < len(convolutions.layers) - 1:
        return False
    changes = layer.shape.in_channels != layer.shape.out_channels
    region = convolutions.region(Segment(layer.index, layer.index + 1))
    place = convolutions.places[layer.index]
    inside = place.piece.operations[region.boundary if region else place.exit].kind == "add"
    return changes and not inside


def _cuts(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """Where no segment goes on: behind a stride, or one layer later where that is of one tap and the
    strided layer mixes no channels.
    """
    cuts = []
    for layer in layers:
        if set(layer.shape.stride) == {1}:
            continue
        behind = layers[layer.index + 1 : layer.index + 2]
        later = layer.shape.depthwise and bool(behind) and prod(behind[0].shape.kernel) == 1
        cuts.append(layer.index + 1 + later)
    return tuple(cuts)


def _untouched(layer: Layer) -> MergeEntry:
    segment = Segment(layer.index, layer.index + 1)
    return MergeEntry(segment=segment, kept=(layer.index,), merged=layer.shape, separate=(layer.shape,))


def _entries(convolutions: Convolutions, region: Region, rules: EntryRules) -> Iterator[MergeEntry]:
    """Yield the best entry for every shape of kernel that a segment can become."""
    best: dict[object, tuple[float, MergeEntry]] = {}
    layers, largest = convolutions.layers, rules.most_taps
    row = _in_a_row(convolutions, region)
    if rules.empty and rules.prune and may_go_whole(region):
        # Its layers may change channels on the way, if it gives what it takes in the end.
        found = rewrite(convolutions, region, ())
        if found.result == ENTRY:
            best[None] = 0.0, _entry(convolutions, found)
    fixed = [layers[index].shape for index in region.segment if not layers[index].reducible]
    if row and _span(fixed) > largest:
        yield from (entry for _, entry in best.values())
        return
    for kept in _kept_sets(layers, region.segment, rules, row=row):
        if row and _span([layers[index].shape for index in kept]) > largest:
            continue
        try:
            entry = _entry(convolutions, rewrite(convolutions, region, kept))
        except UnitError:
            # No one convolution computes it, or others use its weights.
            continue
        shape = entry.merged
        if shape is not None and max(shape.kernel) > largest:
            continue
        weight = sum(_magnitude(layers[index], rules) for index in kept)
        key = None if shape is None else (shape.kernel, shape.stride, shape.dilation, shape.groups)
        if key not in best or weight >= best[key][0]:
            best[key] = weight, entry
    yield from (entry for _, entry in best.values())


def _in_a_row(convolutions: Convolutions, region: Region) -> bool:
    """Whether each layer takes what the one before it puts out, so that none stand side by side."""
    before: dict[fx.Node, int] = {region.entry: 0}
    last = 0
    for node in region.nodes:
        taken = [before[each] for each in region.piece.operations[node].inputs]
        before[node] = max(taken)
        if node in convolutions.index:
            before[node] += 1
            last += 1
            if before[node] != last:
                return False
    return True


def _span(shapes: Sequence[ConvShape]) -> int:
    """The most taps along an axis that convolutions in a row come to."""
    span, step = 1, 1
    for shape in shapes:
        span += step * max(d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True))
        step *= max(shape.stride)
    return span


def _magnitude(layer: Layer, rules: EntryRules) -> float:
    return layer.magnitude if rules.magnitude == "raw" else layer.folded_magnitude


def _kept_sets(
    layers: tuple[Layer, ...], segment: Segment, rules: EntryRules, *, row: bool
) -> Iterator[tuple[int, ...]]:
    """Yield the sets of layers that may stay: those that have to, and the heaviest of every kind, or any of
    few layers that stand side by side.
    """
    if not rules.prune:
        yield tuple(segment)
        return
    fixed = [index for index in segment if not layers[index].reducible]
    free = [index for index in segment if layers[index].reducible]
    for groups in sorted({1, *(layers[index].shape.groups for index in segment)}):
        if any(layers[index].shape.groups % groups for index in fixed):
            continue
        # Others would mix channels that the rest leaves apart.
        fit = [index for index in free if layers[index].shape.groups % groups == 0]
        for chosen in _heaviest(layers, segment, fit, rules) if row or len(fit) > _FEW else _subsets(fit):
            if fixed or chosen:
                yield tuple(sorted([*fixed, *chosen]))
    if not fixed and (rules.empty or (len(segment) == 1 and layers[segment.start].after_resize)):
        yield ()


def _heaviest(
    layers: tuple[Layer, ...], segment: Segment, free: list[int], rules: EntryRules
) -> Iterator[list[int]]:
    """Yield, for every number of layers of every kind, the heaviest. All of a single tap stay: they make no
    kernel larger.
    """
    shapes = {index: layers[index].shape for index in segment}
    scales = accumulate((shape.stride for shape in shapes.values()), _times)
    scale = dict(zip(segment, scales, strict=True))
    single = [index for index in free if prod(shapes[index].kernel) == 1]
    stay = [*single, *(index for index in segment if not layers[index].reducible)]
    mixed = gcd(*(shapes[index].groups for index in stay))
    kinds: dict[tuple[Axes, Axes, Axes, int], list[int]] = {}
    for index in sorted(set(free) - set(single), key=lambda index: -_magnitude(layers[index], rules)):
        shape = shapes[index]
        # Behind a stride a kernel adds more to the merged one. Groups count as far as others leave them.
        kind = (shape.kernel, shape.dilation, scale[index], gcd(mixed, shape.groups))
        kinds.setdefault(kind, []).append(index)
    largest, most = rules.most_taps, []
    for kernel, dilation, step, _ in kinds:
        grows = max(s * d * (k - 1) for s, d, k in zip(step, dilation, kernel, strict=True))
        most.append((largest - 1) // grows)
    numbers = (min(len(members), some) for members, some in zip(kinds.values(), most, strict=True))
    for counts in product(*(range(number + 1) for number in numbers)):
        chosen = [members[:count] for members, count in zip(kinds.values(), counts, strict=True)]
        yield [*single, *chain.from_iterable(chosen)]


def _times(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _subsets(free: list[int]) -> Iterator[list[int]]:
    for count in range(len(free) + 1):
        yield from map(list, combinations(free, count))


def _entry(convolutions: Convolutions, found: Rewrite) -> MergeEntry:
    region = found.region
    segment, behind = region.segment, region.activation
    bends = len(segment) > 1 and found.result != ENTRY and behind is None and found.norm is None
    added = activation_name(region.piece.traced, found.bend) if bends and found.bend is not None else ""
    name = added if behind is None else activation_name(region.piece.traced, behind)
    merged = merged_shape(found)
    return MergeEntry(
        segment=segment,
        kept=found.kept,
        merged=None if merged is None else replace(merged, activation=name),
        separate=_separate(convolutions, found, name),
        beside=tuple(
            convolutions.shape(region.piece, node)
            for node, index in convolutions.projections.items()
            if index in segment and node not in region.nodes
        ),
        added=added,
    )


def _separate(convolutions: Convolutions, found: Rewrite, activation: str) -> tuple[ConvShape, ...]:
    """The convolutions that are left, the activation behind the last layer."""
    shapes = {step.node: step.shape for step in found.convolutions if step.shape is not None}
    order = list(shapes)
    last = max(order, key=lambda node: (convolutions.index.get(node, -1), order.index(node)), default=None)
    return tuple(
        replace(shape, activation=activation) if node is last else shape for node, shape in shapes.items()
    )
