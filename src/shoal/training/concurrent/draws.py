"""Which gates are shut: drawn by chance, once for all calls of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["Draws"]

# One draw serves so many calls of a step: a backward pass may call units of any of them again. It serves no
# more, as batches that a loop skips come to no step.
_SERVED = 4


class Draws:
    """Draws the gates of a chain, alike wherever the seed is the same.

    Args:
        units: L, units of the chain, those without gates included.
        seed: Of the draws.
    """

    def __init__(self, units: int, seed: int) -> None:
        self._units = units
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: frozenset[int] = frozenset()
        self._served = 0

    def draw(self, theta: Mapping[int, float]) -> frozenset[int]:
        """Return the units whose gates are shut; every unit draws a number, so that the draws of some do not
        depend on what has become of others.

        Args:
            theta: Unit → probability that its gate is open.
        """
        drawn = torch.rand(self._units, generator=self._generator, dtype=torch.float64).tolist()
        return frozenset(index for index, probability in theta.items() if drawn[index] >= probability)

    def serving(self, theta: Mapping[int, float]) -> frozenset[int]:
        """Return the draw for a call: the last one, unless its step is over or it has served four calls."""
        if not self._served:
            self._drawn = self.draw(theta)
        self._served = (self._served + 1) % _SERVED
        return self._drawn

    def end_step(self) -> None:
        """Let the next call draw anew."""
        self._served = 0

    def state(self) -> dict[str, Any]:
        """Return what goes on from here, as JSON values and one tensor, `generator`."""
        state = self._generator.get_state()
        return {"drawn": sorted(self._drawn), "served": self._served, "generator": state}

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Take that up."""
        self._drawn, self._served = frozenset(map(int, state["drawn"])), int(state["served"])
        self._generator.set_state(state["generator"].cpu())
