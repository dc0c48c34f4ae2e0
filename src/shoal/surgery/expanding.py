"""Plan + network → the network that is trained, and the one with merged convolutions that it becomes.

The expanded network has the convolutions of the original, without the activations and layers that go;
the zeros around a segment are put at its beginning, and nothing inside is padded. So the merged network
computes the very same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from shoal.architectures.convolutions import Convolutions
from shoal.architectures.operations import activation_name
from shoal.errors import PlanError, SurgeryError, UnitError
from shoal.steps import Merge
from shoal.surgery.editing import Edit, Task
from shoal.surgery.rewriting import Rewrite, may_go_whole, rewrite

__all__ = ["adopt_", "expand_", "merge_", "rewritten"]


def rewritten(convolutions: Convolutions, step: Merge) -> Rewrite:
    """Return what a step leaves of its segment.

    Raises:
        PlanError: If the segment is no region that can be rewritten, or has no such activation as is to be
            put behind it.
        UnitError: If a layer goes that has to stay, or one is rewritten whose weights others use.
    """
    region = convolutions.region(step.segment)
    if region is None:
        raise PlanError(
            f"asked to rewrite the layers {step.segment}: they are no region with one way in and one way "
            "out. Make a plan for this model."
        )
    for layer in (convolutions.layers[index] for index in step.removed):
        if not layer.reducible and (step.kept or not may_go_whole(region)):
            raise UnitError(
                f"asked to leave out the layer {layer.index} ({layer.name}): {layer.fixed}. Keep it."
            )
    found = rewrite(convolutions, region, step.kept)
    inside = "" if found.bend is None else activation_name(region.piece.traced, found.bend)
    if step.added not in ("", inside):
        raise PlanError(
            f"asked to put {step.added!r} behind the layers {step.segment}: the last activation that goes "
            f"from inside them is {inside or 'none'}, and only that can be put there. Make a plan for this "
            "model."
        )
    return found


def expand_(convolutions: Convolutions, steps: Sequence[Merge]) -> nn.Module:
    """Return the network to be trained, made in place of the traced copy that `convolutions` holds.

    Raises:
        PlanError, UnitError: As `rewritten`.
    """
    edit = Edit(convolutions)
    for task in _tasks(convolutions, steps):
        if task.step.fused or task.step.added or len(task.step.segment) > 1 or not task.step.kept:
            edit.expand(task)
    return edit.finish()


def merge_(convolutions: Convolutions, steps: Sequence[Merge], trained: nn.Module | None = None) -> nn.Module:
    """Return the network with merged convolutions and folded batch norms, made in place of the traced
    copy that `convolutions` holds.

    Args:
        convolutions: The network's.
        steps: What to do.
        trained: What `expand_` returned for both, with the weights that it has come to; those of the traced
            copy where it is None.

    Raises:
        PlanError: As `rewritten`.
        SurgeryError: As `adopt_`.
        UnitError: As `rewritten`, and if a segment is no single convolution.
    """
    if trained is not None:
        adopt_(convolutions, steps, trained)
    edit = Edit(convolutions)
    for task in _tasks(convolutions, steps):
        if task.step.fused:
            edit.merge(task)
        else:
            edit.expand(task)
    edit.fold_norms()
    merged = edit.finish()
    if trained is not None:
        # Some stand on branches that have gone since.
        for path in edit.added & dict(merged.named_modules()).keys():
            merged.get_submodule(path).load_state_dict(trained.get_submodule(path).state_dict())
    return merged


def adopt_(convolutions: Convolutions, steps: Sequence[Merge], trained: nn.Module) -> None:
    """Give convolutions, and what stands between them, the weights of the expanded network.

    Args:
        convolutions: The network's; changed in place.
        steps: What was done.
        trained: What `expand_` returned for both, with the weights that it has come to.

    Raises:
        SurgeryError: If it is something else.
    """
    mine = expand_(convolutions.copy(), steps).state_dict().keys()
    theirs, held = trained.state_dict(), convolutions.pieces.state()
    if mine != theirs.keys():
        odd = sorted(mine ^ theirs.keys())
        raise SurgeryError(
            f"asked to merge {type(trained).__name__}: it is not what the plan expands the network to "
            f"({', '.join(odd[:3])}). Pass what `expand` returned for this plan, trained."
        )
    with torch.no_grad():
        for name in theirs.keys() & held.keys():
            held[name].copy_(theirs[name])


def _tasks(convolutions: Convolutions, steps: Sequence[Merge]) -> list[Task]:
    rewrites = [(step, rewritten(convolutions, step)) for step in steps]
    return [
        Task(step=step, found=found, boundary=found.region.boundary, bend=found.region.activation)
        for step, found in rewrites
    ]
