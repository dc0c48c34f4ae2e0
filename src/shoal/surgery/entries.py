"""Every way to rewrite the segments of a network's convolutions that its graph allows.

The general rules follow from the graph alone. The published ones are narrower: a segment does not pass a
convolution with a stride, ends are not searched, and nothing but up-sampling convolutions is left out whole.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837; the released code for segments and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Literal

from shoal.architectures.convolutions import Convolutions, Region
from shoal.architectures.operations import activation_name
from shoal.errors import UnitError
from shoal.layers import ConvShape, Layer, MergeEntry
from shoal.surgery.rewriting import ENTRY, Rewrite, merged_shape, rewrite
from shoal.units import Segment

__all__ = ["EntryRules", "find_entries"]


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
    """Yield the best entry for every kernel that a segment can become."""
    best: dict[object, tuple[float, MergeEntry]] = {}
    layers = convolutions.layers
    for kept in _kept_sets(layers, region.segment, rules):
        if (
            rules.largest_kernel is not None
            and _span([layers[index] for index in kept]) > rules.largest_kernel
        ):
            continue
        try:
            entry = _entry(convolutions, rewrite(convolutions, region, kept))
        except UnitError:
            # No one convolution computes it.
            continue
        shape = entry.merged
        if shape is not None and max(shape.kernel) > (rules.largest_kernel or max(shape.kernel)):
            continue
        weights = [_magnitude(layers[index], rules) for index in kept]
        key = None if shape is None else (shape.kernel, shape.stride, shape.dilation, shape.depthwise)
        if key not in best or sum(weights) >= best[key][0]:
            best[key] = sum(weights), entry
    yield from (entry for _, entry in best.values())


def _span(layers: list[Layer]) -> int:
    """The most taps along an axis that layers in a row come to."""
    span, step = 1, 1
    for layer in layers:
        shape = layer.shape
        span += step * max(d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True))
        step *= max(shape.stride)
    return span


def _magnitude(layer: Layer, rules: EntryRules) -> float:
    return layer.magnitude if rules.magnitude == "raw" else layer.folded_magnitude


def _kept_sets(layers: tuple[Layer, ...], segment: Segment, rules: EntryRules) -> Iterator[tuple[int, ...]]:
    """Yield the sets of layers that may stay: those that have to, and the heaviest of every kind."""
    if not rules.prune:
        yield tuple(segment)
        return
    loose: dict[object, list[int]] = {}
    for index in segment:
        shape = layers[index].shape
        if layers[index].reducible and prod(shape.kernel) > 1:
            kind = (shape.kernel, shape.dilation, shape.groups == 1, shape.depthwise)
            loose.setdefault(kind, []).append(index)
    fixed = [index for index in segment if all(index not in members for members in loose.values())]
    ranked = [
        sorted(members, key=lambda index: -_magnitude(layers[index], rules)) for members in loose.values()
    ]
    for counts in product(*(range(len(members) + 1) for members in ranked)):
        kept = [*fixed]
        for members, count in zip(ranked, counts, strict=True):
            kept += members[:count]
        if kept:
            yield tuple(sorted(kept))
    whole = all(layers[index].reducible for index in segment)
    if whole and (rules.empty or (len(segment) == 1 and layers[segment.start].after_resize)):
        yield ()


def _entry(convolutions: Convolutions, found: Rewrite) -> MergeEntry:
    region, layers = found.region, convolutions.layers
    segment, behind = region.segment, region.activation
    name = "" if behind is None else activation_name(region.piece.traced, behind)
    inside = {step.node: convolutions.shape(region.piece, step.node) for step in found.convolutions}
    separate = _in_a_row(list(inside.values()), name)
    beside = tuple(
        convolutions.shape(region.piece, node)
        for node, index in convolutions.projections.items()
        if index in segment and node not in region.nodes
    )
    adds = len(segment) > 1 and found.result != ENTRY and behind is None and found.norm is None
    added = activation_name(region.piece.traced, found.bend) if adds and found.bend is not None else ""
    merged = merged_shape(found)
    if merged is not None and added:
        merged = _with_activation(merged, added)
        separate = _in_a_row(list(inside.values()), added)
    if len(segment) == 1 == len(found.kept):
        separate = (layers[segment.start].shape, *separate[:-1])
    return MergeEntry(
        segment=segment, kept=found.kept, merged=merged, separate=separate, beside=beside, added=added
    )


def _in_a_row(shapes: list[ConvShape], activation: str) -> tuple[ConvShape, ...]:
    return (*shapes[:-1], *(_with_activation(shape, activation) for shape in shapes[-1:]))


def _with_activation(shape: ConvShape, activation: str) -> ConvShape:
    return replace(shape, activation=activation)
