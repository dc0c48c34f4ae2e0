"""How a network is trained and pruned at once: every choice, with the published ones as a preset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError

__all__ = ["PRESETS", "ConcurrentSettings"]


@dataclass(frozen=True, kw_only=True)
class ConcurrentSettings:
    """How gates are trained.

    Attributes:
        start: Probability at first that a unit computes; below 1, so that both states are met.
        estimator: How a unit's gain is learnt from a batch: `flip` runs the batch again from the unit on
            with its gate turned; `slope` takes the gradient at the gate (straight-through), which is biased.
        questions: How often a unit is asked between warm-up and the end of the window, on average; less often
            where that would take more than two questions a step, which cost a third of it.
        probes: In its place: units asked in each step in which any are.
        every: In its place: steps from one in which units are asked to the next.
        memory: Weight of the past in the running averages of gains.
        warmup: Share of all steps in which the weights are trained and the gates stand still.
        window: Share of all steps after which every gate is settled; in the rest the network that is left is
            trained as it is.
        haste: How fast a unit that is worth nothing loses its gate: 1 takes a fifth of all steps, as far as
            what single batches say differs little enough.
        condition: When a unit goes for good: `measured`, its gate nearly shut and its gain below its price
            even two standard errors up; `attracted`, its gate and its last weights inside the region from
            which training can only draw them to zero.
        tolerance: How far above 0 a gate counts as nearly shut.
        floor: Where a gate that is nearly shut is put back to while its unit may still be worth its price.
        confidence: Standard errors between the gain and the price at which a unit goes.
        revisit: Share of the questions that still goes to units whose gates are fully open.
        seed: Of gates and of which units are asked.
    """

    start: float = 0.97
    estimator: Literal["flip", "slope"] = "flip"
    questions: int = 100
    probes: int | None = None
    every: int | None = None
    memory: float = 0.95
    warmup: float = 0.02
    window: float = 0.5
    haste: float = 2.0
    condition: Literal["measured", "attracted"] = "measured"
    tolerance: float = 0.02
    floor: float = 0.1
    confidence: float = 2.0
    revisit: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            (not 0 < self.start < 1, f"start={self.start}: a probability between 0 and 1 works"),
            (self.estimator not in ("flip", "slope"), f"estimator={self.estimator!r}: flip and slope work"),
            (self.probes is not None and self.probes < 1, f"probes={self.probes}: 1 or more works"),
            (self.questions < 1, f"questions={self.questions}: 1 or more works"),
            (self.every is not None and self.every < 1, f"every={self.every}: 1 or more works"),
            (not 0 < self.memory < 1, f"memory={self.memory}: a weight between 0 and 1 works"),
            (
                not 0 <= self.warmup < self.window <= 1,
                f"warmup={self.warmup} and window={self.window}: shares with 0 <= warmup < window <= 1 work",
            ),
            (not self.haste > 0, f"haste={self.haste}: a number above 0 works"),
            (
                self.condition not in ("measured", "attracted"),
                f"condition={self.condition!r}: measured and attracted work",
            ),
            (
                not 0 <= self.tolerance < self.floor < 1,
                f"tolerance={self.tolerance} and floor={self.floor}: 0 <= tolerance < floor < 1 works",
            ),
            (not self.confidence >= 0, f"confidence={self.confidence}: 0 or more works"),
            (not 0 <= self.revisit <= 1, f"revisit={self.revisit}: a share from 0 to 1 works"),
        ]
        found = [fault for wrong, fault in faults if wrong]
        if found:
            raise ConfigError(f"asked to train gates with {'; '.join(found)}.")

    def pace(self, units: int, left: int, span: int) -> tuple[int, int]:
        """Return how many units are asked in a step in which any are, and how many steps lie between those.

        Args:
            units: Gated units at first.
            left: Those that are left.
            span: Steps between warm-up and the end of the window.

        Example:
            >>> ConcurrentSettings().pace(14, 14, 700), ConcurrentSettings().pace(27, 27, 23_000)
            ((2, 1), (1, 8))
        """
        span = max(1, span)
        every = self.every or (1 if self.probes else max(1, span // (self.questions * units)))
        wanted = math.ceil(self.questions * left * every / span)
        return self.probes or max(1, min(wanted, _MOST)), every


# So many units are asked in a step at most: together they cost a third of it.
_MOST = 2

PRESETS = {
    "default": ConcurrentSettings(),
    "paper": ConcurrentSettings(start=0.5, estimator="slope", condition="attracted", warmup=0.0),
}
"""Settings by name; `paper` where the publication, as far as it is known, differs."""
