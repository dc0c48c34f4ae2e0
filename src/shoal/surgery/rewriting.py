"""What is left of a segment of convolutions when activations and some of its layers go, and what it is
as one affine map.

Steps are numbered from 0 in the order in which they run; -1 stands for what goes into the segment.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from shoal.architectures.convolutions import Convolutions, Region, shape_from
from shoal.architectures.operations import activation_name
from shoal.architectures.symbolic import shape_of
from shoal.errors import UnitError
from shoal.layers import ConvShape
from shoal.surgery.merge import (
    Affine,
    add,
    average,
    channel_sums,
    compose,
    convolution,
    fold_norm,
    identity,
    stack,
)

__all__ = ["ENTRY", "Merged", "Rewrite", "Step", "as_affine", "margins", "merged_shape", "rewrite"]

ENTRY = -1
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One call that is left.

    Attributes:
        kind: As `Operation.kind`: convolution, norm, add, shift, pad, average or concat.
        node: The call in the network's graph.
        inputs: The steps whose outputs it takes.
        pads: Zeros that it puts around its input, a pair an axis.
    """

    kind: str
    node: fx.Node
    inputs: tuple[int, ...]
    pads: tuple[Pair, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Rewrite:
    """A segment without its activations and without the layers that go.

    Attributes:
        region: The segment in the network's graph.
        kept: The layers that stay.
        steps: What is left.
        result: The step whose output is the segment's; `ENTRY` where it becomes the identity.
        bend: The last activation that went; None where there was none.
        norm: The last norm that went because it takes statistics from the data; None for none.
    """

    region: Region
    kept: tuple[int, ...]
    steps: tuple[Step, ...]
    result: int
    bend: fx.Node | None
    norm: fx.Node | None

    @property
    def axes(self) -> int:
        """Spatial axes."""
        return len(shape_of(self.region.entry) or ()) - 2

    def module(self, step: Step) -> nn.Module:
        """Return the module that a step calls."""
        return self.region.piece.traced.get_submodule(str(step.node.target))

    @property
    def convolutions(self) -> tuple[Step, ...]:
        """The convolutions among the steps."""
        return tuple(step for step in self.steps if step.kind == "convolution")


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """A rewritten segment as one affine map of what goes in.

    Attributes:
        affine: The map.
        padding: Zeros before and after, a pair an axis.
        shifts: What is added inside, being the same at every place → the matrix `(O, C)` through which
            it reaches the output.
    """

    affine: Affine
    padding: tuple[Pair, ...]
    shifts: dict[fx.Node, Tensor]


def rewrite(convolutions: Convolutions, region: Region, kept: Collection[int]) -> Rewrite:
    """Return what is left of a region when its activations go, and all its layers but `kept`.

    A branch of a residual sum that loses all its convolutions goes with them, so that the block gives
    what it was given, and not twice that.
    """
    operations = region.piece.operations
    # The step of every call, and whether it is a branch of which nothing is left.
    values: dict[fx.Node, tuple[int, bool]] = {region.entry: (ENTRY, False)}
    steps: list[Step] = []
    bend, norm = None, None
    gone: set[fx.Node] = set()
    for node in region.nodes:
        operation = operations[node]
        taken = [values[each] for each in operation.inputs]
        layer = convolutions.index.get(node)
        if operation.kind in ("activation", "statistics", "identity") or (
            operation.kind == "shift" and not any(index in kept for index in region.segment)
        ):
            bend = node if operation.kind == "activation" else bend
            norm = node if operation.kind == "statistics" else norm
            values[node] = taken[0]
        elif layer is not None and layer not in kept:
            before = operation.inputs[0]
            while operations[before].kind == "pad" and before is not region.entry:
                before = operations[before].inputs[0]
            number, hollow = values[before]
            values[node] = (number, hollow or len(before.users) > 1)
            gone.add(node)
        elif operation.kind == "norm" and operation.inputs[0] in gone:
            values[node] = taken[0]
        elif operation.kind == "add" and (left := _left_of_sum(*taken)) is not None:
            values[node] = left
        else:
            pads = operation.pads
            if operation.kind == "convolution":
                pads = _shape(region, node).padding
            inputs = tuple(number for number, _ in taken)
            steps.append(Step(kind=operation.kind, node=node, inputs=inputs, pads=pads))
            values[node] = (len(steps) - 1, False)
    found = Rewrite(
        region=region,
        kept=tuple(sorted(set(kept) & set(region.segment))),
        steps=tuple(steps),
        result=values[region.exit][0],
        bend=bend,
        norm=norm,
    )
    return _needed(found)


def _left_of_sum(first: tuple[int, bool], second: tuple[int, bool]) -> tuple[int, bool] | None:
    """What a sum comes to when a term has lost its convolutions; None where it stays a sum."""
    if first[1] != second[1]:
        return second if first[1] else first
    return first if first[0] == second[0] else None


def _needed(found: Rewrite) -> Rewrite:
    """The same without steps that nothing takes any more."""
    needed, waiting = set(), [found.result]
    while waiting:
        number = waiting.pop()
        if number == ENTRY or number in needed:
            continue
        needed.add(number)
        waiting += found.steps[number].inputs
    order = sorted(needed)
    moved = {old: new for new, old in enumerate(order)} | {ENTRY: ENTRY}
    steps = [
        replace(found.steps[old], inputs=tuple(moved[each] for each in found.steps[old].inputs))
        for old in order
    ]
    return replace(found, steps=tuple(steps), result=moved[found.result])


def _shape(region: Region, node: fx.Node) -> ConvShape:
    module = region.piece.traced.get_submodule(str(node.target))
    before = shape_of(region.piece.operations[node].inputs[0]) or ()
    return shape_from(module, before[2:])  # type: ignore[arg-type]


def as_affine(
    found: Rewrite, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Merged:
    """Return the one affine map that a rewritten segment is.

    Args:
        found: The segment.
        dtype: In what it is computed.
        device: Where; that of the weights where it is None. On `meta` only shapes are found.

    Raises:
        UnitError: If no single convolution computes it.
    """
    walk = _Walk(found, dtype, device)
    for step in found.steps:
        walk.take(step)
    affine, extent, shifts = walk.values[found.result]
    padding = []
    for axis, (first, taps, reach) in enumerate(
        zip(affine.offset, affine.kernel, affine.dilation, strict=True)
    ):
        before, after = -first, extent[axis] + reach * (taps - 1) + 1 + first
        if before < 0 or after < 0:
            raise UnitError(
                f"asked to merge the layers {found.region.segment}: what they compute reads a part of "
                f"the map that no padding reaches (before {before}, after {after}). Keep them apart."
            )
        padding.append((before, after))
    return Merged(affine=affine, padding=tuple(padding), shifts=shifts)


# Value of a step: the map; per axis what is added to the input's size before it is divided by the
# stride, sizes being (size + extent) // stride + 1; and the matrices of what is added inside.
Value = tuple[Affine, tuple[int, ...], dict[fx.Node, Tensor]]


class _Walk:
    """The maps from what goes in to what the steps put out."""

    def __init__(self, found: Rewrite, dtype: torch.dtype, device: torch.device | str | None) -> None:
        self.found, self.dtype = found, dtype
        modules = [found.module(step) for step in found.convolutions]
        first = next((p for module in modules for p in module.parameters()), torch.empty(0))
        self.device = first.device if device is None else torch.device(device)
        channels = (shape_of(found.region.entry) or (0, 0))[1]
        start = identity(channels, found.axes, dtype=dtype, device=self.device)
        self.values: dict[int, Value] = {ENTRY: (start, (-1,) * found.axes, {})}

    def take(self, step: Step) -> None:
        """Note what a step puts out."""
        values = [self.values[number] for number in step.inputs]
        self.values[len(self.values) - 1] = getattr(self, f"_{step.kind}")(step, values)

    def _convolution(self, step: Step, values: list[Value]) -> Value:
        before = [pad for pad, _ in step.pads]
        own = convolution(self.found.module(step), before, dtype=self.dtype, device=self.device)
        return self._after(values[0], own, step.pads)

    def _average(self, step: Step, values: list[Value]) -> Value:
        module = self.found.module(step)
        own = average(
            values[0][0].out_channels,
            _each(module.kernel_size, self.found.axes),
            _each(module.stride, self.found.axes),
            [before for before, _ in step.pads],
            dtype=self.dtype,
            device=self.device,
        )
        return self._after(values[0], own, step.pads)

    def _after(self, value: Value, own: Affine, pads: tuple[Pair, ...]) -> Value:
        affine, extent, shifts = value
        grown = tuple(
            e + s * (1 + sum(pad) - d * (k - 1) - 1)
            for e, s, pad, d, k in zip(extent, affine.stride, pads, own.dilation, own.kernel, strict=True)
        )
        sums = channel_sums(own) if shifts else None
        through = {node: sums @ matrix for node, matrix in shifts.items()} if sums is not None else {}
        return compose(affine, own), grown, through

    def _norm(self, step: Step, values: list[Value]) -> Value:
        affine, extent, shifts = values[0]
        module = self.found.module(step)
        folded = fold_norm(affine, module)
        if shifts:
            unit = identity(folded.out_channels, self.found.axes, dtype=self.dtype, device=self.device)
            scale = fold_norm(unit, module).weight.reshape(-1, 1)
            shifts = {node: scale * matrix for node, matrix in shifts.items()}
        return folded, extent, shifts

    def _add(self, step: Step, values: list[Value]) -> Value:
        (first, extent, mine), (second, _, theirs) = values
        both = {node: mine[node] + theirs[node] for node in mine.keys() & theirs.keys()}
        return add(first, second), extent, mine | theirs | both

    def _shift(self, step: Step, values: list[Value]) -> Value:
        affine, extent, shifts = values[0]
        (wide,) = self.found.region.piece.operations[step.node].inputs
        (term,) = (each for each in step.node.all_input_nodes if each is not wide)
        matrix = torch.eye(affine.out_channels, dtype=self.dtype, device=self.device)
        return affine, extent, {**shifts, term: matrix}

    def _pad(self, step: Step, values: list[Value]) -> Value:
        affine, extent, shifts = values[0]
        offset = tuple(o - s * p[0] for o, s, p in zip(affine.offset, affine.stride, step.pads, strict=True))
        grown = tuple(e + s * sum(p) for e, s, p in zip(extent, affine.stride, step.pads, strict=True))
        return replace(affine, offset=offset), grown, shifts

    def _concat(self, step: Step, values: list[Value]) -> Value:
        if any(shifts for _, _, shifts in values):
            raise UnitError(
                f"asked to merge the layers {self.found.region.segment}: something is added inside one of "
                "the branches that are joined. Keep them apart."
            )
        return stack([affine for affine, _, _ in values]), values[0][1], {}


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def merged_shape(found: Rewrite) -> ConvShape | None:
    """Return the shape of the one convolution that a rewritten segment becomes, None for the identity.

    Raises:
        UnitError: If no single convolution computes it.
    """
    if found.result == ENTRY:
        return None
    merged = as_affine(found, dtype=torch.float32, device="meta")
    region, affine = found.region, merged.affine
    behind = region.activation
    return ConvShape(
        in_channels=affine.in_channels,
        out_channels=affine.out_channels,
        kernel=affine.kernel,
        stride=affine.stride,
        dilation=affine.dilation,
        padding=merged.padding,
        groups=affine.groups,
        in_size=(shape_of(region.entry) or ())[2:],
        activation="" if behind is None else activation_name(region.piece.traced, behind),
    )


def margins(found: Rewrite) -> dict[int, tuple[Pair, ...]]:
    """Return by how much the map of each step is larger, before and after on every axis, when all zeros
    are put around the segment's input and none inside.

    Of what several steps take, the largest margin counts; the others crop it. The margin of `ENTRY` is
    not in it: each step that takes the input pads it by itself.
    """
    none = ((0, 0),) * found.axes
    larger: dict[int, tuple[Pair, ...]] = {found.result: none}
    for number in reversed(range(len(found.steps))):
        step = found.steps[number]
        for each in step.inputs:
            if each != ENTRY:
                wanted = needed_by(found, step, larger[number])
                larger[each] = tuple(
                    (max(a, c), max(b, d))
                    for (a, b), (c, d) in zip(larger.get(each, none), wanted, strict=True)
                )
    return larger


def needed_by(found: Rewrite, step: Step, margin: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Return the margin that a step's input needs for its output to have this one."""
    if step.kind not in ("convolution", "average", "pad"):
        return margin
    stride: tuple[int, ...] = (1,) * found.axes
    if step.kind != "pad":
        stride = _each(found.module(step).stride, found.axes)
    return tuple(
        (s * before + p, s * after + q)
        for s, (before, after), (p, q) in zip(stride, margin, step.pads, strict=True)
    )
