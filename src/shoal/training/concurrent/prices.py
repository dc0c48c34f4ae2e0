"""What units cost, and how the price of cost is led so that a budget is met in one run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from shoal.budget import Budget
from shoal.calling import Inputs
from shoal.errors import ConfigError
from shoal.measurement import unit_latency
from shoal.planners import Requirement, is_enough, remove_in_order
from shoal.processes import together
from shoal.surgery.shortcuts import Shortcut
from shoal.tables import LatencyTable
from shoal.training.concurrent.price import Price
from shoal.units import Chain

__all__ = ["UnitPrices", "prices_of"]

# The price may change by so much a step, and no faster.
_FASTEST = 0.05
_LOWEST = 1e-6


@dataclass
class UnitPrices:
    """What each unit costs, as a share of the network, and what has to be left.

    Attributes:
        chain: The units.
        requirement: What every unit saves, and what the whole network costs.
        level: The mean loss that all of the network's cost is worth: a unit's price is its share of it.
        whole_stages: Whether stages may lose all of their units, as what leads around each of them stays.
    """

    chain: Chain
    requirement: Requirement
    level: float = 0.0
    whole_stages: bool = False

    @classmethod
    def of(
        cls, chain: Chain, budget: Budget, latency: LatencyTable | None = None, *, whole_stages: bool = False
    ) -> UnitPrices:
        """Return the prices of a chain that are to be led to a budget.

        Args:
            chain: The units.
            budget: What may remain.
            latency: What units take, in seconds, for budgets of latency.
            whole_stages: As the attribute.

        Raises:
            BudgetError: If the budget cannot be met while one unit of each group stays; names the nearest
                that can.
        """
        found = cls(chain, Requirement.of(chain, budget, latency), whole_stages=whole_stages)
        least = found.requirement.remaining(found.removable(()))
        gone = "every unit gone" if whole_stages else "one unit of every stage left and every other one gone"
        found.requirement.check(found.requirement.whole - least, f"with {gone}")
        return found

    @classmethod
    def fixed(
        cls, chain: Chain, price: Price, latency: LatencyTable | None = None, *, whole_stages: bool = False
    ) -> UnitPrices:
        """Return prices that stay: of each quantity a unit's share, times what all of it is worth.

        Args:
            chain, latency, whole_stages: As for `of`.
            price: What all of each quantity is worth.

        Raises:
            ConfigError: If the network has nothing of a quantity.
        """
        wholes = [Budget(quantity=name, limit=1.0, relative=True) for name, _ in price.levels]
        costs = [Requirement.of(chain, whole, latency) for whole in wholes]
        if missing := [whole.quantity for whole, cost in zip(wholes, costs, strict=True) if cost.whole <= 0]:
            raise ConfigError(
                f"asked for a price of {price}: {chain.model} has no {', '.join(missing)}; units=0.1 works."
            )
        level = math.fsum(worth for _, worth in price.levels)
        if len(costs) == 1:
            return cls(chain, costs[0], level=level, whole_stages=whole_stages)
        parts = [worth / level if level else 1 / len(costs) for _, worth in price.levels]
        savings = (
            math.fsum(
                part * cost.savings[index] / cost.whole for part, cost in zip(parts, costs, strict=True)
            )
            for index in range(len(chain))
        )
        mixed = Requirement(budget=wholes[0], savings=tuple(savings), whole=1.0)
        return cls(chain, mixed, level=level, whole_stages=whole_stages)

    def share(self, index: int) -> float:
        """Return what part of the network's cost a unit is."""
        return self.requirement.savings[index] / self.requirement.whole

    def price(self, index: int) -> float:
        """Return what a unit has to be worth, in mean loss."""
        return self.level * self.share(index)

    def expected(self, theta: Mapping[int, float], removed: Collection[int]) -> float:
        """Return the share of the cost that a call in training is expected to have, from 0 to 1.

        Args:
            theta: Unit → θ, of those that are left.
            removed: Those that have left.
        """
        shut = math.fsum((1 - theta[index]) * self.requirement.savings[index] for index in theta)
        return (self.requirement.remaining(removed) - shut) / self.requirement.whole

    @property
    def goal(self) -> float:
        """The share that may remain."""
        return 1 - max(0.0, self.requirement.need) / self.requirement.whole

    def removable(self, removed: Collection[int]) -> tuple[int, ...]:
        """Return the units that may all go from here; of every group the one that costs least stays, unless
        whole stages may go.
        """
        stay = set()
        for members in () if self.whole_stages else self.chain.groups.values():
            left = [index for index in members if index not in removed]
            if left and all(self.chain[index].removable for index in left):
                stay.add(min(left, key=lambda index: self.requirement.savings[index]))
        return tuple(index for index in self.chain.removable if index not in stay and index not in removed)

    def is_last(self, index: int, removed: Collection[int]) -> bool:
        """Return whether a unit has to stay as the last of its group."""
        if self.whole_stages:
            return False
        members = self.chain.groups[self.chain[index].group]
        return all(other == index or other in removed for other in members)

    def is_needed(self, index: int, removed: Collection[int]) -> bool:
        """Return whether the budget could not be met any more once this unit is gone, too: it is a cheap one
        of its stage, and a dear one would be the last.
        """
        gone = {*removed, index}
        least = self.requirement.remaining(gone.union(self.removable(gone)))
        return not is_enough(self.requirement.whole - least, self.requirement.need)

    def is_met(self, removed: Collection[int]) -> bool:
        """Return whether what is left meets the budget."""
        return is_enough(self.requirement.whole - self.requirement.remaining(removed), self.requirement.need)

    def start(self, gains: Mapping[int, float]) -> None:
        """Raise the level to where the units that are worth least for their cost leave, as many as the budget
        asks for.
        """
        worths = {index: max(gain, 0.0) / max(self.share(index), _LOWEST) for index, gain in gains.items()}
        going = self.surplus(gains, ())
        highest = max(worths.values(), default=0.0)
        # Where units still add nothing, the price of those that do says what is little.
        self.level = max([self.level, _LOWEST, 0.01 * highest, *(worths[index] for index in going)])

    def lead(self, expected: float, target: float, *, haste: float) -> None:
        """Raise the level while more is expected to remain than should.

        It never falls: several gates that are half open would meet a budget together, and stay so.

        Args:
            expected: Share of the cost that is expected to remain.
            target: Share that should remain by now.
            haste: How much the level's logarithm changes a step for a share of 1.
        """
        change = haste * (expected - target)
        self.level *= math.exp(min(_FASTEST, max(0.0, change)))

    def settle(self, gains: Mapping[int, float], removed: Collection[int]) -> None:
        """Lower the level to the highest at which all units that are left, and could leave, are worth their
        price: that is the price of the budget, which leading has overshot.

        Args:
            gains: Unit → its gain, of those that are left.
            removed: Those that have left.
        """
        free = (index for index in gains if not self.is_last(index, removed))
        worths = (max(gains[index], 0.0) / max(self.share(index), _LOWEST) for index in free)
        self.level = min([self.level, *worths])

    def surplus(self, gains: Mapping[int, float], removed: Collection[int]) -> tuple[int, ...]:
        """Return the units that have to go for the budget: those worth least for what they cost.

        Args:
            gains: Unit → its gain, of those that are left.
            removed: Those that have left.
        """
        need = self.requirement.need - math.fsum(self.requirement.savings[index] for index in set(removed))
        order = sorted(gains, key=lambda index: (gains[index] / max(self.share(index), 1e-12), index))
        free, gone = [], set(removed)
        for index in order:
            if not (self.is_last(index, gone) or self.is_needed(index, gone)):
                free.append(index)
                gone.add(index)
        return remove_in_order(free, self.requirement.savings, need)


def prices_of(
    model: nn.Module, example: Inputs, chain: Chain, budget: Budget | None, price: Price | None
) -> UnitPrices:
    """Return the prices of a network's units: led to a budget, or fixed where there is none.

    Args:
        model: The network; its latency is measured where that is what costs.
        example: What its forward takes.
        chain: Its units.
        budget: What may remain, or None.
        price: What its cost is worth where there is no budget.

    Raises:
        BudgetError: If the budget cannot be met; names the nearest that can.
    """
    asked = [budget.quantity] if budget is not None else [name for name, _ in (price or Price()).levels]
    latency = None
    if "latency" in asked:
        with together() as processes:
            # Clocks differ; prices must not.
            latency = processes.exchange(unit_latency(model, chain, example))[0]
    shortcuts = any(isinstance(module, Shortcut) for module in model.modules())
    if budget is not None:
        return UnitPrices.of(chain, budget, latency, whole_stages=shortcuts)
    return UnitPrices.fixed(chain, price or Price(), latency, whole_stages=shortcuts)
