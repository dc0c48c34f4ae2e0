"""When a gate opens, when it closes for good, and what a unit has to be worth: plain numbers, no tensors.

A unit's gain is what the mean training loss rises by when it is left out; its price is what that rise has to
be for the unit to be worth keeping. The objective is affine in every θ, so each ends at 0 or at 1.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shoal.errors import ConfigError

__all__ = ["Gain", "attracted", "moved", "price_of_prior"]

# Fewer batches say too little of how far they differ.
_FEWEST = 10
# A step may move θ by so much for one standard deviation of single batches.
_LARGEST = 0.02


@dataclass(kw_only=True)
class Gain:
    """What is known of a unit's gain: running mean and variance of what single batches say.

    Attributes:
        memory: Weight of the past in each average, below 1.
        count: How many batches spoke.
        total, squares: Averages of values and of their squares, drawn to 0 at first.
    """

    memory: float = 0.98
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take in what one batch says."""
        self.count += 1
        self.total = self.memory * self.total + (1 - self.memory) * value
        self.squares = self.memory * self.squares + (1 - self.memory) * value * value

    @property
    def mean(self) -> float:
        """The average, 0 before any batch spoke."""
        return self.total / self._weight if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of single batches; infinite before there are two."""
        if self.count < 2:
            return math.inf
        return math.sqrt(max(0.0, self.squares / self._weight - self.mean**2))

    @property
    def error(self) -> float:
        """One standard error of the mean; infinite while fewer than ten batches spoke, or one counts."""
        if self.count < _FEWEST:
            return math.inf
        # Weights of an average that forgets: their squares sum to one over the number that counts.
        square = (1 - self.memory) / (1 + self.memory) * (1 - self.memory ** (2 * self.count))
        counting = self._weight**2 / square
        return self.deviation / math.sqrt(counting - 1) if counting > 1 else math.inf

    @property
    def _weight(self) -> float:
        return 1 - self.memory**self.count


def moved(theta: float, gain: float, price: float, *, step: float, share: float, deviation: float) -> float:
    """Return θ after one step of projected gradient descent on the objective.

    Args:
        theta: From 0 to 1.
        gain: What this batch says of the unit's gain.
        price: What the unit has to be worth.
        step: The step size.
        share: Gated units for each one that was asked: those that were not asked stand still.
        deviation: Of single batches' gains; a step may move θ by about 0.02 for one.

    Example:
        >>> moved(0.5, 0.0, 0.01, step=10.0, share=1.0, deviation=0.0)
        0.4
    """
    rate = step * share
    if deviation > 0:
        # One batch alone does not say how far it is off: no step then.
        rate = min(rate, _LARGEST / deviation)
    return min(1.0, max(0.0, theta + rate * (gain - price)))


def price_of_prior(gamma: float, samples: int) -> float:
    """Return the price, in mean loss, that the published hyper-prior p(π | γ) puts on a unit: |log γ| / N.

    The prior that makes the objective affine in θ once it is maximised over π is (γ − 1) / log γ /
    (1 + (γ − 1)(1 − π)) with 0 < γ < 1; its mirror image with γ > 1 gives the same price.

    Args:
        gamma: Above 0 and not 1.
        samples: N, training samples.

    Raises:
        ConfigError: If either is out of range.

    Example:
        >>> round(price_of_prior(0.01, 1000), 6), round(price_of_prior(100, 1000), 6)
        (0.004605, 0.004605)
    """
    if not gamma > 0 or gamma == 1 or not math.isfinite(gamma):
        raise ConfigError(f"asked for a prior of gamma={gamma}: a number above 0 other than 1 works.")
    if samples < 1:
        raise ConfigError(f"asked for a prior on {samples} samples: 1 or more works.")
    return abs(math.log(gamma)) / samples


def attracted(theta: float, norm: float, *, decay: float, influence: float, price: float) -> bool:
    """Return whether training draws a unit to (0, 0): its gate shut and its weights gone.

    True where θ + m·r < θ* + m·r* with the saddle r* = price / k, θ* = decay · price / k², and
    m = (√(decay² + 4k²) − decay) / (2k); where the loss changes by at most k·r.

    Args:
        theta: θ, from 0 to 1.
        norm: r, the norm of the weights that the gate scales.
        decay: Weight decay, above 0.
        influence: k, the most that the loss changes with r.
        price: What the unit has to be worth.

    Example:
        >>> attracted(0.1, 0.1, decay=0.5, influence=0.8, price=0.4)
        True
        >>> attracted(0.9, 0.1, decay=0.5, influence=0.8, price=0.4)
        False
    """
    if influence <= 0:
        return True
    slope = (math.sqrt(decay**2 + 4 * influence**2) - decay) / (2 * influence)
    saddle_norm, saddle_theta = price / influence, decay * price / influence**2
    return theta + slope * norm < saddle_theta + slope * saddle_norm
