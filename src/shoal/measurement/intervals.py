"""How sure a figure is: 95 % intervals of shares, and of means over samples that may weigh differently.

Shapes: N samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MeanTally", "student_quantile", "wilson_interval"]

_NORMAL = 1.959964


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was seen `successes` times in `trials`.

    Example:
        >>> tuple(round(bound, 3) for bound in wilson_interval(9, 10))
        (0.596, 0.982)

    Reference: Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    z = _NORMAL
    share, shrink = successes / trials, 1 + z * z / trials
    middle = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    return max(0.0, (middle - margin) / shrink), min(1.0, (middle + margin) / shrink)


def student_quantile(degrees: int) -> float:
    """Return how many standard errors a 95 % interval of a mean reaches to either side.

    That is the 97.5 % quantile of Student's t: exact for one and two degrees of freedom, within
    0.2 % by its expansion about the normal quantile for more.

    Args:
        degrees: Degrees of freedom, one less than there are samples; at least 1.

    Example:
        >>> [round(student_quantile(degrees), 2) for degrees in (1, 2, 10, 1000)]
        [12.71, 4.3, 2.23, 1.96]

    Reference: Abramowitz and Stegun, 1964, eq. 26.7.5, https://personal.math.ubc.ca/~cbm/aands/page_949.htm.
    """
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, v = _NORMAL, degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, start=1))


class MeanTally:
    """The weighted mean of samples that come batch by batch, and how sure it is; constant memory.

    With values y and weights w the mean is R = Σ w y / Σ w. Both sums vary from one draw of samples
    to the next, so the standard error is that of a ratio, by linearisation over the n samples:
    sqrt(n / (n - 1) · Σ w² (y - R)²) / Σ w. For equal weights that is the usual s / √n.

    Attributes:
        count: How many samples were added.
        weight: Their weights added up.

    Reference: Cochran, 1977, Sampling Techniques, third edition, chapter 6;
    https://en.wikipedia.org/wiki/Ratio_estimator.
    """

    def __init__(self) -> None:
        self.count = 0
        self.weight = 0.0
        # Sums are about the first value: near it, squares lose no digits.
        self._origin = 0.0
        self._sum = 0.0
        self._squares = torch.zeros(3, dtype=torch.float64)

    def add(self, values: Tensor, weights: Tensor) -> None:
        """Add samples.

        Args:
            values: Finite, `(N,)`, float64 on the CPU.
            weights: Not negative, `(N,)`; what weighs nothing is no sample.
        """
        values, weights = values[weights > 0], weights[weights > 0].double()
        if self.count == 0 and len(values):
            self._origin = float(values[0])
        offsets = values - self._origin
        self.count += len(values)
        self.weight += float(weights.sum())
        self._sum += float((weights * offsets).sum())
        self._squares += torch.stack([(weights**2 * offsets**power).sum() for power in range(3)])

    @property
    def mean(self) -> float:
        """The mean of what was added."""
        return self._origin + self._sum / self.weight

    @property
    def error(self) -> float | None:
        """The standard error of the mean; None for fewer than two samples."""
        if self.count < 2:
            return None
        offset = self._sum / self.weight
        plain, once, twice = self._squares.tolist()
        spread = max(0.0, twice - 2 * offset * once + offset**2 * plain)
        return math.sqrt(spread * self.count / (self.count - 1)) / self.weight

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for fewer than two samples."""
        if self.error is None:
            return None
        margin = student_quantile(self.count - 1) * self.error
        return self.mean - margin, self.mean + margin
