"""Whether units lie where training can only draw them to zero: the condition of the preset `paper`.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from torch import nn
from torch.optim import Optimizer

from shoal.architectures.tracing import trace
from shoal.calling import Inputs
from shoal.training.concurrent.rules import attracted
from shoal.units import Chain

__all__ = ["Attraction"]


class Attraction:
    """The region of attraction of every unit's gate and last weights.

    Args:
        model: The network.
        chain: Its units.
        example: What its forward takes: which weights of a unit come last is seen when it runs.

    Attributes:
        influence: Unit → the most that the loss was seen to change with the norm of its last weights.
    """

    def __init__(self, model: nn.Module, chain: Chain, example: Inputs) -> None:
        order = {module: call.order for module, call in trace(model, example).items()}
        self._last: dict[int, nn.Module | None] = {}
        for unit in chain.select(chain.removable):
            parts = [each for path in unit.modules for each in _entered(model.get_submodule(path), order)]
            owners = [each for each in parts if next(each[1].parameters(recurse=False), None) is not None]
            # Of what was entered at once, the last that is named.
            _, self._last[unit.index] = max(reversed(owners), key=itemgetter(0), default=(0, None))
        self.influence = dict.fromkeys(chain.removable, 0.0)

    def last_weights(self, index: int) -> list[nn.Parameter]:
        """Return the parameters of the module that runs last of a unit's modules with any of their own."""
        module = self._last[index]
        return [] if module is None else list(module.parameters(recurse=False))

    def note(self, index: int, gain: float) -> None:
        """Take in what a unit is known to be worth."""
        norm = _norm_of(self.last_weights(index))
        if norm > 0:
            self.influence[index] = max(self.influence[index], abs(gain) / norm)

    def draws(self, index: int, theta: float, price: float, optimizer: Optimizer | None) -> bool:
        """Return whether a unit will go to zero whatever is trained.

        Args:
            index: The unit.
            theta: θ of its gate.
            price: What it has to be worth.
            optimizer: Which decays its weights.
        """
        weights = self.last_weights(index)
        return attracted(
            theta,
            _norm_of(weights),
            decay=_decay_of(optimizer, weights),
            influence=self.influence[index],
            price=price,
        )


def _entered(
    module: nn.Module, order: Mapping[nn.Module, int], before: int = -1
) -> Iterator[tuple[int, nn.Module]]:
    """A module and all in it, each with when it was entered; if it was not, when what it is in was."""
    at = order.get(module, before)
    yield at, module
    for child in module.children():
        yield from _entered(child, order, at)


def _norm_of(weights: Iterable[nn.Parameter]) -> float:
    return math.sqrt(math.fsum(float(weight.detach().double().square().sum()) for weight in weights))


def _decay_of(optimizer: Optimizer | None, weights: Iterable[nn.Parameter]) -> float:
    """The weight decay of these parameters; 0 where it is not known."""
    ids = {id(weight) for weight in weights}
    groups = () if optimizer is None else optimizer.param_groups
    of = (group.get("weight_decay", 0.0) for group in groups if ids & {id(p) for p in group["params"]})
    return max(of, default=0.0)
