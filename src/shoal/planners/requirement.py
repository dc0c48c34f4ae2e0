"""What a budget asks of a chain: what every unit saves, and how much must be saved in all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.budget import Budget
from shoal.errors import BudgetError
from shoal.planners.enough import is_enough
from shoal.tables import LatencyTable
from shoal.units import Chain

__all__ = ["Requirement", "savings_for"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A budget, in the numbers of one network.

    Attributes:
        budget: What was asked.
        savings: What the removal of each unit saves, `(L,)`: 1, parameters, MACs or seconds.
        whole: What the whole network has or takes.
    """

    budget: Budget
    savings: tuple[float, ...]
    whole: float

    @classmethod
    def of(cls, chain: Chain, budget: Budget, latency: LatencyTable | None = None) -> Requirement:
        """Return what `budget` asks of the network whose units are `chain`.

        Args:
            chain: The units.
            budget: What may remain.
            latency: The measured latency of the units; needed for a budget of latency.

        Raises:
            BudgetError: If the budget is of latency and none, or that of other units, was measured.
        """
        if budget.quantity == "latency":
            table = _measured(chain, budget, latency)
            return cls(budget=budget, savings=table.units, whole=table.whole)
        if budget.quantity == "units":
            return cls(budget=budget, savings=(1.0,) * len(chain), whole=float(len(chain)))
        params = budget.quantity == "params"
        return cls(
            budget=budget,
            savings=tuple(float(unit.params if params else unit.macs) for unit in chain),
            whole=float(chain.params if params else chain.macs),
        )

    @property
    def need(self) -> float:
        """How much must be saved; zero or less where the whole network meets the budget."""
        return self.whole - self.budget.allowance(self.whole)

    def remaining(self, removed: Iterable[int]) -> float:
        """Return what remains when these units are removed."""
        return self.whole - math.fsum(self.savings[unit] for unit in set(removed))

    def nearest(self, saved: float) -> Budget:
        """Return the tightest budget of the same form that saving `saved` meets; see `Budget.nearest`."""
        return self.budget.nearest(self.whole - saved, self.whole)

    def check(self, saved: float, circumstance: str = "with every removable unit gone") -> None:
        """Check that a network from which at most `saved` can be saved can meet the budget.

        Args:
            saved: The most that can be saved.
            circumstance: Under which that is so, for the message.

        Raises:
            BudgetError: If it cannot; names the nearest budget that can be had.
        """
        if is_enough(saved, self.need):
            return
        nearest = self.nearest(saved)
        name = self.budget.quantity
        one = not self.budget.relative and self.budget.limit == 1 and name in ("params", "macs")
        shares = f" {name}=1.0 is the whole network." if one else ""
        raise BudgetError(
            f"asked for {self.budget}: {circumstance} {nearest} remain; "
            f"the least that can be asked for is {nearest}.{shares}"
        )


def savings_for(
    chain: Chain, budget: Budget, latency: LatencyTable | None = None
) -> tuple[tuple[float, ...], float]:
    """Return what the removal of each unit saves, `(L,)`, and how much must be saved in all.

    Both are in the quantity of the budget: units, parameters, MACs or seconds. The need is zero or
    less where the whole network meets the budget.

    Args:
        chain: The units.
        budget: What may remain.
        latency: The measured latency of the units; needed for a budget of latency.

    Raises:
        BudgetError: If removing every removable unit would not do, with the nearest budget that can
            be had; or if the budget is of latency and none was measured.
    """
    requirement = Requirement.of(chain, budget, latency)
    requirement.check(math.fsum(requirement.savings[unit] for unit in chain.removable))
    return requirement.savings, requirement.need


def _measured(chain: Chain, budget: Budget, latency: LatencyTable | None) -> LatencyTable:
    if latency is None:
        raise BudgetError(
            f"asked for {budget}: the latency of the units was not measured. Measure it on this "
            "device, or ask for units, params or macs."
        )
    if len(latency.units) != len(chain):
        raise BudgetError(
            f"asked for {budget}: latency was measured of {len(latency.units)} units, and "
            f"{chain.model} has {len(chain)}. Measure it for this network."
        )
    return latency
