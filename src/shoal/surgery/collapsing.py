"""What is left of a segment of convolutions as one affine map of what goes in.

Axes: O = output channels, C = channels of something that is added inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from shoal.architectures.symbolic import shape_of
from shoal.surgery.affine import Affine, average, convolution, exact_device, fold_norm, identity
from shoal.surgery.merge import add, channel_sums, compose, stack
from shoal.surgery.rewriting import ENTRY, Pair, Rewrite, Step, axes_of, merged_shape

__all__ = ["Merged", "as_affine"]


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


def as_affine(found: Rewrite, *, dtype: torch.dtype = torch.float64) -> Merged:
    """Return the one affine map that a rewritten segment is, where it is not the identity.

    Args:
        found: The segment.
        dtype: In what it is computed, on the CPU where the device of the weights knows no float64.

    Raises:
        UnitError: If no single convolution computes it.
    """
    shape, walk = merged_shape(found), _Walk(found, dtype)
    for step in found.steps:
        walk.take(step)
    affine, shifts = walk.values[found.result]
    return Merged(affine=affine, padding=() if shape is None else shape.padding, shifts=shifts)


# Value of a step: the map, and the matrices of what is added inside.
Value = tuple[Affine, dict[fx.Node, Tensor]]


class _Walk:
    """The maps from what goes in to what the steps put out."""

    def __init__(self, found: Rewrite, dtype: torch.dtype) -> None:
        self.found = found
        modules = (found.module(step) for step in found.steps if step.node.op == "call_module")
        weights = (each for module in modules for each in module.parameters())
        device = exact_device(next(weights, torch.empty(0)).device)
        self.like = torch.empty(0, dtype=dtype, device=device)
        channels = (shape_of(found.region.entry) or (0, 0))[1]
        self.values: dict[int, Value] = {ENTRY: (self._identity(channels), {})}

    def take(self, step: Step) -> None:
        """Note what a step puts out."""
        values = [self.values[number] for number in step.inputs]
        self.values[len(self.values) - 1] = getattr(self, f"_{step.kind}")(step, values)

    def _identity(self, channels: int) -> Affine:
        return identity(channels, self.found.axes, dtype=self.like.dtype, device=self.like.device)

    def _convolution(self, step: Step, values: list[Value]) -> Value:
        before = [pad for pad, _ in step.pads]
        own = convolution(self.found.module(step), before, dtype=self.like.dtype, device=self.like.device)
        return self._after(values[0], own)

    def _average(self, step: Step, values: list[Value]) -> Value:
        own = average(
            values[0][0].out_channels,
            axes_of(self.found, step, "kernel_size"),
            axes_of(self.found, step, "stride"),
            [before for before, _ in step.pads],
            dtype=self.like.dtype,
            device=self.like.device,
        )
        return self._after(values[0], own)

    def _after(self, value: Value, own: Affine) -> Value:
        affine, shifts = value
        sums = channel_sums(own) if shifts else self.like
        return compose(affine, own), {node: sums @ matrix for node, matrix in shifts.items()}

    def _norm(self, step: Step, values: list[Value]) -> Value:
        affine, shifts = values[0]
        module = self.found.module(step)
        scale = fold_norm(self._identity(affine.out_channels), module).weight.reshape(-1, 1)
        return fold_norm(affine, module), {node: scale * matrix for node, matrix in shifts.items()}

    def _add(self, step: Step, values: list[Value]) -> Value:
        (first, mine), (second, theirs) = values
        return add(first, second), _added(mine, theirs)

    def _shift(self, step: Step, values: list[Value]) -> Value:
        affine, shifts = values[0]
        term = self.found.term(step)
        matrix = torch.eye(affine.out_channels, dtype=self.like.dtype, device=self.like.device)
        return affine, _added(shifts, {term: matrix})

    def _pad(self, step: Step, values: list[Value]) -> Value:
        affine, shifts = values[0]
        offset = tuple(o - s * p[0] for o, s, p in zip(affine.offset, affine.stride, step.pads, strict=True))
        return replace(affine, offset=offset), shifts

    def _concat(self, step: Step, values: list[Value]) -> Value:
        columns = {node: matrix.shape[1] for _, shifts in values for node, matrix in shifts.items()}
        shifts = {
            node: torch.cat(
                [own.get(node, self.like.new_zeros(map.out_channels, count)) for map, own in values]
            )
            for node, count in columns.items()
        }
        return stack([map for map, _ in values]), shifts


def _added(mine: dict[fx.Node, Tensor], theirs: dict[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
    both = {node: mine[node] + theirs[node] for node in mine.keys() & theirs.keys()}
    return mine | theirs | both
