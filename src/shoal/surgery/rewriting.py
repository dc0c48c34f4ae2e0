"""What is left of a segment of convolutions when its activations and some of its layers go.

Steps are numbered from 0 in the order in which they run; -1 stands for what goes into the segment.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from shoal.architectures.convolutions import Convolutions, Region
from shoal.architectures.symbolic import shape_of
from shoal.errors import UnitError
from shoal.layers import ConvShape
from shoal.surgery.residuals import left_of_sum
from shoal.surgery.shapes import in_sequence, in_stack, in_sum

__all__ = [
    "ENTRY",
    "Pair",
    "Rewrite",
    "Step",
    "axes_of",
    "margins",
    "may_go_whole",
    "merged_shape",
    "needed_by",
    "rewrite",
]

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
        shape: For a convolution, its shape as it stands in the network; None for others.
    """

    kind: str
    node: fx.Node
    inputs: tuple[int, ...]
    pads: tuple[Pair, ...] = ()
    shape: ConvShape | None = None


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

    def term(self, step: Step) -> fx.Node:
        """Return what a `shift` adds, being the same at every place."""
        (wide,) = self.region.piece.operations[step.node].inputs
        (term,) = (each for each in step.node.all_input_nodes if each is not wide)
        return term

    @property
    def convolutions(self) -> tuple[Step, ...]:
        """The convolutions among the steps."""
        return tuple(step for step in self.steps if step.kind == "convolution")

    @property
    def terms(self) -> tuple[fx.Node, ...]:
        """What is added inside, being the same at every place, once each."""
        return tuple(dict.fromkeys(self.term(step) for step in self.steps if step.kind == "shift"))


def may_go_whole(region: Region) -> bool:
    """Return whether several layers may go together: what comes out has the shape of what goes in."""
    return len(region.segment) > 1 and shape_of(region.entry) == shape_of(region.exit)


def rewrite(convolutions: Convolutions, region: Region, kept: Collection[int]) -> Rewrite:
    """Return what is left of a region when its activations go, and all its layers but `kept`.

    A branch of a residual sum that loses all its convolutions goes with them, so that the block gives
    what it was given, and not twice that.

    Raises:
        UnitError: If a convolution is left whose weights others use.
    """
    operations = region.piece.operations
    gone = {convolutions.places[index].node for index in region.segment if index not in kept}
    through = {node: operations[node].inputs[0] for node in gone}
    hollow = len(gone) == len(region.segment)
    steps: list[Step] = []
    values: dict[fx.Node, int] = {region.entry: ENTRY}
    bend, norm = None, None
    for node in region.nodes:
        operation = operations[node]
        bend = node if operation.kind == "activation" else bend
        norm = node if operation.kind == "statistics" else norm
        if operation.kind == "add":
            left = left_of_sum(region.piece, node, through)
            through |= {} if left is None else {node: left}
        passed = (
            operation.kind in ("activation", "statistics", "identity")
            or (operation.kind == "shift" and hollow)
            or (operation.kind == "norm" and operation.inputs[0] in gone)
        )
        if passed or node in through:
            values[node] = values[_before_pads(region, through.get(node, operation.inputs[0]), node in gone)]
            continue
        shape = convolutions.shape(region.piece, node) if operation.kind == "convolution" else None
        pads = operation.pads if shape is None else shape.padding
        inputs = tuple(values[each] for each in operation.inputs)
        steps.append(Step(kind=operation.kind, node=node, inputs=inputs, pads=pads, shape=shape))
        values[node] = len(steps) - 1
    found = Rewrite(
        region=region,
        kept=tuple(sorted(set(kept) & set(region.segment))),
        steps=tuple(steps),
        result=values[region.exit],
        bend=bend,
        norm=norm,
    )
    found = _needed(found)
    _check_own(convolutions, found)
    return found


def _check_own(convolutions: Convolutions, found: Rewrite) -> None:
    """Check that what is left, in the place of its first convolution, changes no weights of others."""
    left = [step.node for step in found.convolutions]
    if not left and found.result != ENTRY:
        left = [node for node in found.region.nodes if node in convolutions.index][:1]
    for node in left:
        if why := convolutions.shared.get(node):
            name = found.region.piece.name_of(node)
            raise UnitError(
                f"asked to rewrite the layers {found.region.segment} and keep {name}: {why}. Leave it as "
                "it is, outside of what is merged, or leave it out."
            )


def _before_pads(region: Region, node: fx.Node, padded: bool) -> fx.Node:
    """What a convolution that goes was given before zeros were put around it."""
    while padded and node is not region.entry and region.piece.operations[node].kind == "pad":
        node = region.piece.operations[node].inputs[0]
    return node


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


def merged_shape(found: Rewrite) -> ConvShape | None:
    """Return the shape of the one convolution that a rewritten segment becomes, None for the identity;
    without what follows it.

    Raises:
        UnitError: If no single convolution computes it.
    """
    if found.result == ENTRY:
        return None
    shapes = {ENTRY: _pointwise(found)}
    for number, step in enumerate(found.steps):
        shapes[number] = _shape_of_step(found, step, [shapes[each] for each in step.inputs])
    return shapes[found.result]


def _pointwise(found: Rewrite) -> ConvShape:
    """The identity on what goes in, as a convolution."""
    channels, *size = (shape_of(found.region.entry) or (0, 0))[1:]
    ones = (1,) * found.axes
    return ConvShape(
        in_channels=channels,
        out_channels=channels,
        kernel=ones,
        stride=ones,
        dilation=ones,
        padding=((0, 0),) * found.axes,
        groups=channels,
        in_size=tuple(size),
    )


def _shape_of_step(found: Rewrite, step: Step, taken: list[ConvShape]) -> ConvShape:
    first = taken[0]
    if step.shape is not None:
        return in_sequence(first, step.shape)
    if step.kind in ("average", "pad"):
        pool, channels = replace(_pointwise(found), padding=step.pads), first.out_channels
        if step.kind == "average":
            pool = replace(
                pool, kernel=axes_of(found, step, "kernel_size"), stride=axes_of(found, step, "stride")
            )
        return in_sequence(first, replace(pool, in_channels=channels, out_channels=channels, groups=channels))
    if step.kind == "add":
        return in_sum(*taken)
    return in_stack(taken) if step.kind == "concat" else first


def axes_of(found: Rewrite, step: Step, name: str) -> tuple[int, ...]:
    """Return an attribute of a step's module, such as `stride`, as a number an axis."""
    value: Any = getattr(found.module(step), name)
    return (value,) * found.axes if isinstance(value, int) else tuple(value)


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
    stride = (1,) * found.axes if step.kind == "pad" else axes_of(found, step, "stride")
    return tuple(
        (s * before + p, s * after + q)
        for s, (before, after), (p, q) in zip(stride, margin, step.pads, strict=True)
    )
