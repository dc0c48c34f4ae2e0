"""A rewritten segment led back to what the original puts out there, in closed form: a cheap stand-in for
tuning.

The correction mixes the output's channels, place by place: a 1×1 convolution with bias, which a merged
convolution can take in. It is the ridge regression of the original's output on that of the rewritten segment.
Only sums over the data are held, whatever its size.

Axes: N places of all samples, C channels.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.convolutions import Convolutions
from shoal.calling import call, evaluating
from shoal.errors import SurgeryError
from shoal.importance.prefixes import Cut, CutBatches
from shoal.layers import MergeEntry
from shoal.steps import Merge
from shoal.surgery.expanding import expand_
from shoal.training import recalibrate_
from shoal.units import Segment

__all__ = ["Mixing", "MixingSums", "expanded", "reconstructed", "with_mixing"]


class Mixing(nn.Module):
    """Hands on a feature map, its channels mixed once there are a matrix and a bias; the identity before."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix: Tensor | None = None
        self.bias: Tensor | None = None

    def set_(self, matrix: Tensor, bias: Tensor) -> None:
        """Mix by a matrix `(C, C)` and a bias `(C,)` from now on."""
        self.matrix, self.bias = matrix, bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the map `(B, C, …)`, mixed."""
        if self.matrix is None or self.bias is None:
            return x
        mixed = torch.einsum("oc,bc...->bo...", self.matrix.to(x), x)
        return mixed + self.bias.to(x).reshape(-1, *[1] * (x.dim() - 2))


class MixingSums:
    """The sums over the data from which a mixing follows."""

    def __init__(self) -> None:
        self.places = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, mine: Tensor, theirs: Tensor) -> None:
        """Add what one batch says.

        Args:
            mine: What is to be mixed, `(B, C, …)`.
            theirs: What it should become, `(B, C, …)`.
        """
        x, y = (map.transpose(0, 1).flatten(1).double() for map in (mine, theirs))
        found = {"x": x.sum(dim=1), "y": y.sum(dim=1), "xx": x @ x.T, "xy": x @ y.T}
        self.places += x.shape[1]
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return the matrix `(C, C)` and the bias `(C,)`.

        Args:
            ridge: How strongly the matrix is drawn to the identity, in terms of the channels' mean variance.
        """
        mine, theirs = self._sums["x"] / self.places, self._sums["y"] / self.places
        within = self._sums["xx"] / self.places - torch.outer(mine, mine)
        across = self._sums["xy"] / self.places - torch.outer(mine, theirs)
        strength = ridge * within.diagonal().mean().clamp(min=1e-12)
        drawn = strength * torch.eye(len(mine), dtype=within.dtype, device=within.device)
        matrix = torch.linalg.solve(within + drawn, across + drawn).T
        return matrix, theirs - matrix @ mine


def reconstructed(
    convolutions: Convolutions,
    entry: MergeEntry,
    cut: Cut,
    batches: CutBatches,
    *,
    ridge: float,
    recalibrate: bool = True,
) -> nn.Module:
    """Return the part behind a cut of the network that is rewritten by an entry and led back.

    A segment that goes with all of its branch has no output of its own to be mixed.

    Args:
        convolutions: The network's.
        entry: How a segment is rewritten.
        cut: Where the network is parted: before the segment.
        batches: What to lead back on.
        ridge: As for `MixingSums.solve`.
        recalibrate: Whether batch norms behind the cut take new statistics, before and after.
    """
    whole, mixing = with_mixing(convolutions, entry.segment, entry)
    network = cut.behind(whole)
    if recalibrate:
        recalibrate_(network, batches)
    original, end = with_mixing(convolutions, entry.segment)
    if mixing is None or end is None:
        return network
    teacher = cut.behind(original)
    sums = MixingSums()
    with evaluating(network), torch.no_grad():
        for number in range(len(batches)):
            mine = _output_at(network, mixing, batches[number][0])
            sums.add(mine, _output_at(teacher, end, batches[number][0]))
    mixing.set_(*sums.solve(ridge))
    if recalibrate:
        # What goes into the norms behind is another now; those inside come to the same again.
        recalibrate_(network, batches)
    return network


def expanded(convolutions: Convolutions, entry: MergeEntry) -> nn.Module:
    """Return a copy of the network that is rewritten in one segment, as it would be trained."""
    return expand_(convolutions.copy(), [_step(convolutions, entry)])


def _step(convolutions: Convolutions, entry: MergeEntry) -> Merge:
    segment = entry.segment
    names = tuple(convolutions.layers[index].name for index in segment)
    return Merge(start=segment.start, stop=segment.stop, kept=entry.kept, layers=names, added=entry.added)


def with_mixing(
    convolutions: Convolutions, segment: Segment, entry: MergeEntry | None = None
) -> tuple[nn.Module, Mixing | None]:
    """Return a copy of the network with a mixing at the end of a segment, and that mixing; None where the
    segment, become the identity, has left nothing that takes its output.

    Args:
        convolutions: The network's.
        segment: The layers; they form a region.
        entry: How they are rewritten; as they are where it is None.
    """
    copied = convolutions.copy()
    region = copied.region(segment)
    if region is None:
        raise SurgeryError(
            f"asked to reconstruct the layers {segment}: they are no region with one way in and one way out. "
            "Use the entries of this network."
        )
    graph, exit, boundary = region.piece.traced.graph, region.exit, region.boundary
    user = next(iter(exit.users))
    place = user.all_input_nodes.index(exit)
    network = copied.pieces.assemble() if entry is None else expand_(copied, [_step(convolutions, entry)])
    if user not in set(graph.nodes):
        # What took the segment's output has gone with it: the sum of a branch that is empty.
        return network, None
    result = user.all_input_nodes[place]
    if entry is not None and entry.added and boundary is exit:
        # What was added stands between.
        (result,) = result.all_input_nodes
    mixing = Mixing()
    region.piece.traced.add_submodule("mixing", mixing)
    with graph.inserting_after(result):
        mixed = graph.call_module("mixing", (result,))
    result.replace_all_uses_with(mixed, delete_user_cb=lambda user: user is not mixed)
    region.piece.traced.recompile()
    return network, mixing


class _Enough(BaseException):
    """Ends a call where nothing behind is of interest."""


def _output_at(network: nn.Module, mixing: Mixing, values: Any) -> Tensor:
    """Return what goes into the mixing when the network is called; what follows is not begun."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise _Enough

    handle = mixing.register_forward_pre_hook(note)
    try:
        with suppress(_Enough):
            call(network, values)
    finally:
        handle.remove()
    return seen[0]
