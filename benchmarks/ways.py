"""What ways of training come to, for benchmarks that compare them, and units left out unasked in training.

B = batch, T = tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from torch import nn
from torch.optim import Optimizer

from shoal.architectures import bypassed
from shoal.budget import Budget
from shoal.planners import Requirement, remove_in_order
from shoal.units import Chain


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network after training, and what that took.

    Attributes:
        model: The network.
        macs: Multiply-accumulates of its training, for one sample of a batch, questions included.
        seconds: What training took.
        removed: Units that left.
        known: What else is told of it.
    """

    model: nn.Module
    macs: float
    seconds: float
    removed: tuple[int, ...] = ()
    known: dict[str, Any] = field(default_factory=dict)


class LeftOut:
    """A pruner for `fit` that leaves units out of each step as it is told, whatever they are worth.

    Args:
        model: The network; what is left out computes nothing, until `close`.
        chain: Its units.
        choose: Step, from 1 → the units that are left out of it.

    Attributes:
        macs: Multiply-accumulates of the steps so far, for one sample.
    """

    def __init__(self, model: nn.Module, chain: Chain, choose: Callable[[int], Collection[int]]) -> None:
        self._model, self._chain, self._choose = model, chain, choose
        self._off: Collection[int] = ()
        self._without = ExitStack()
        self.done, self.macs = 0, 0.0
        self._begin()

    def attach(self, optimizer: Optimizer) -> None:
        """Do nothing: what has no gradient is not moved."""

    def step(self, batch: object) -> None:
        """Count a step, and leave units out of the next one."""
        self.macs += 3 * (self._chain.macs - sum(self._chain[index].macs for index in self._off))
        self.done += 1
        self._begin()

    def close(self) -> None:
        """Leave nothing out any more."""
        self._without.close()

    def status(self) -> str:
        """Return how many units compute."""
        return f"{len(self._chain) - len(self._off)} of {len(self._chain)} units"

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: these runs are short."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""

    def _begin(self) -> None:
        self._without.close()
        self._off = self._choose(self.done + 1)
        self._without.enter_context(bypassed(self._model, self._chain, self._off))


def random_units(chain: Chain, budget: str, seed: int) -> tuple[int, ...]:
    """Return units in a random order, as many as a budget asks for."""
    order = list(chain.removable)
    random.Random(seed).shuffle(order)
    requirement = Requirement.of(chain, Budget.parse(budget))
    return remove_in_order(order, requirement.savings, requirement.need)


def means(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return means and deviations of named figures over the seeds of every way."""
    found: dict[str, Any] = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        found[way] = {"seeds": len(mine)}
        for name in names:
            values = [row[name] for row in mine if row[name] is not None]
            if not values:
                continue
            found[way][name] = mean(values)
            found[way][f"{name}_deviation"] = stdev(values) if len(values) > 1 else None
    return found
