"""Is a network without units what the network with the units bypassed is? The first thing to prove of a cut.

The original runs with the units' forwards replaced and everything around them as it was, so that what a
network does by the number of its layers, in its config or in its code, is seen.
"""

from __future__ import annotations

from torch import Tensor, nn

from shoal.architectures import forward_replaced
from shoal.architectures.hidden import stand_ins
from shoal.architectures.pretrained import dtype_of
from shoal.calling import Inputs
from shoal.errors import VerificationError
from shoal.plan import Plan
from shoal.surgery.probe import answers, difference
from shoal.surgery.record import TOLERANCES

__all__ = ["check_equal"]


def check_equal(model: nn.Module, plan: Plan, small: nn.Module, example: Inputs) -> None:
    """Check that a cut answers as the original does whose units are bypassed.

    Of plans that merge layers nothing is checked here: see `certify`.

    Args:
        model: The original; left as it was found.
        plan: What was removed.
        small: What was made of the original by the plan, before any training.
        example: What the forward takes.

    Raises:
        VerificationError: If the first tensor of the answers differs by more than rounding.

    Example:
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> from shoal.surgery import apply
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> plan = Plan.removing(find_units(net, torch.ones(1, 4)), [1])
        >>> check_equal(net, plan, apply(net, plan), torch.ones(1, 4))
    """
    if plan.merges:
        return
    found, expected = answers(small, example)[:1], _bypassed(model, plan, example)
    gap, limit = difference(found, expected), TOLERANCES.get(dtype_of(small), 1e-2)
    if not gap <= limit:
        raise VerificationError(
            f"asked to remove {len(plan.steps)} of {len(plan.model.units)} units of {type(model).__name__}: "
            f"what is left answers otherwise than the original whose units are bypassed, by {gap:.1e} of the "
            f"largest number ({limit:.0e} allowed). Something in the network goes by the number of a layer, "
            "or by how many there are. Remove other units, or the last ones."
        )


def _bypassed(model: nn.Module, plan: Plan, example: Inputs) -> tuple[Tensor, ...]:
    replaced = [
        (model.get_submodule(path), stand_in.forward)
        for step in plan.removals
        for path, stand_in in zip(step.modules, stand_ins(step.outputs, len(step.modules)), strict=True)
    ]
    with forward_replaced(replaced):
        return answers(model, example)[:1]
