"""What gates and price were over a run, at points that lie further apart the longer it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Trace"]

_MOST = 200


@dataclass(kw_only=True)
class Trace:
    """At most 200 points of a run, evenly apart, as JSON values.

    Attributes:
        every: Steps from one point to the next.
        steps: The step of every point, from 1.
        theta: A row a point: θ of every unit, `(L,)`; 0 for those that have left, None for those without a
            gate.
        macs: Share of the MACs that a call in training is expected to take.
        price: What all of the network's cost had to be worth, in mean loss.
    """

    every: int = 1
    steps: list[int] = field(default_factory=list)
    theta: list[list[float | None]] = field(default_factory=list)
    macs: list[float] = field(default_factory=list)
    price: list[float] = field(default_factory=list)

    def note(self, step: int, theta: Mapping[int, float], *, units: int, macs: float, price: float) -> None:
        """Keep what a step has come to, where a point is due.

        Args:
            step: Its number, from 1.
            theta: Unit → θ, 0 for units that have left; those without a gate are not there.
            units: How many units there are.
            macs, price: See above.

        Example:
            >>> trace = Trace()
            >>> for step in range(1, 1001):
            ...     trace.note(step, {0: 0.5}, units=1, macs=1.0, price=0.0)
            >>> trace.every, len(trace.steps), trace.steps[:3]
            (8, 125, [1, 9, 17])
        """
        if (step - 1) % self.every:
            return
        self.steps.append(step)
        self.theta.append([theta.get(index) for index in range(units)])
        self.macs.append(macs)
        self.price.append(price)
        if len(self.steps) > _MOST:
            for values in (self.steps, self.theta, self.macs, self.price):
                del values[1::2]
            self.every *= 2
