"""What training a gated network computes, as shares of what the whole network would."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from shoal.units import Chain

__all__ = ["Compute", "forward_macs"]


class Compute:
    """Counts the multiply-accumulates (MACs) of one run, for one sample of the example.

    Args:
        chain: The units of the whole network.

    Attributes:
        calls: Forward passes in training so far.
        called: MACs of those.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.calls, self.called = 0, 0.0

    def count(self, off: Collection[int]) -> None:
        """Count a call in training that does without some units."""
        self.calls += 1
        self.called += forward_macs(self.chain, off)

    def left(self, removed: Collection[int]) -> float:
        """Return the share of the network's MACs without some units; 1 where it has none."""
        return forward_macs(self.chain, removed) / self.chain.macs if self.chain.macs else 1.0

    def expected(self, theta: Mapping[int, float]) -> float:
        """Return the share of the network's MACs that a call is expected to take.

        Args:
            theta: Unit → θ, 0 for units that have left; those without a gate are not there.
        """
        shut = math.fsum((1 - theta[index]) * self.chain[index].macs for index in theta)
        return 1 - shut / self.chain.macs if self.chain.macs else 1.0

    def saved(self, asking: float) -> float:
        """Return the share of training compute saved; a backward pass costs twice a forward one.

        Args:
            asking: MACs that asking units what they are worth has cost.
        """
        whole = 3 * self.chain.macs * self.calls
        return 1 - (3 * self.called + asking) / whole if whole else 0.0


def forward_macs(chain: Chain, off: Collection[int], start: int = 0) -> float:
    """Return the multiply-accumulates of a forward pass without some units, none before `start` computed."""
    units = sum(unit.macs for unit in chain)
    computed = (unit.macs for unit in chain if unit.index >= start and unit.index not in off)
    return chain.macs - units + sum(computed)
