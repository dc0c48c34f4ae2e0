"""Scratch: the shallower network with fresh random weights, to be trained like the others.

It tells what the weights that are left are worth: a compressed network should beat one of its own
architecture that was given all the training that both together had. Units go as in `uniform`; weights
are drawn by the rules of the network's own modules (`reset_parameters`, Hugging Face's
`_init_weights`), where there is none with the mean and deviation that they had. The plan holds no
weights: `compress` hands back the network that has them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.architectures.initialisation import randomise_, seeded
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import remove_evenly
from shoal.surgery import apply

__all__ = ["METHOD", "ScratchSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class ScratchSettings:
    """Which weights are drawn.

    Attributes:
        seed: Of the draw.
    """

    seed: int = 0


def choose(request: Request, settings: ScratchSettings) -> Plan:
    """Return the plan that removes evenly spaced units; the request gets what is left, untrained.

    Raises:
        BudgetError: If no plan meets the budget.
    """
    removed = remove_evenly(request.chain.removable, *request.savings())
    small = apply(request.model, Plan.removing(request.chain, removed))
    with seeded(small, settings.seed):
        known = {"drawn_without_a_rule": randomise_(small)}
    request.shallower = small
    return request.plan(removed, method="scratch", settings=asdict(settings), predicted=known)


METHOD = Method(
    name="scratch",
    help="control: the architecture of uniform with random weights, to be trained like the others",
    settings=ScratchSettings,
    presets={"default": ScratchSettings(), "paper": ScratchSettings()},
    choose=choose,
    draws=True,
    control=True,
)
