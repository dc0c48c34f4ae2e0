"""Networks as points of cost and quality, and those of them that none beats in both. No drawing here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from shoal.errors import ConfigError

__all__ = ["Kind", "ParetoPoint", "pareto_front"]

Kind = Literal["whole", "method", "control"]


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """What a network costs and how well it does.

    Attributes:
        label: The method that made it.
        latency: Its measured latency as a share of the uncompressed network's.
        quality: How well it does: a loss, an accuracy…; the mean where there are several seeds.
        spread: Half the height of the error bar, such as the standard deviation over seeds; None
            where there is one seed.
        budget: What the method was asked for, such as `latency=0.6`.
        kind: `method`, `control`, or `whole` for the uncompressed network.
    """

    label: str
    latency: float
    quality: float
    spread: float | None = None
    budget: str = ""
    kind: Kind = "method"

    def __post_init__(self) -> None:
        spread = self.spread or 0.0
        finite = all(map(math.isfinite, (self.latency, self.quality, spread)))
        if not finite or self.latency <= 0 or spread < 0:
            raise ConfigError(
                f"asked for the point {self.label!r} at latency={self.latency}, quality={self.quality}, "
                f"spread={self.spread}: finite numbers, a latency above 0 and a spread from 0 upwards work."
            )
        if self.kind not in get_args(Kind):
            raise ConfigError(
                f"asked for the point {self.label!r} of kind={self.kind!r}: {', '.join(get_args(Kind))} work."
            )


def pareto_front(points: Iterable[ParetoPoint], *, higher_is_better: bool) -> tuple[ParetoPoint, ...]:
    """Return the points that no other beats: each better than all that are as fast; fastest first.

    Of points that are equally fast and good, the first stands for all.

    Args:
        points: Networks.
        higher_is_better: True for accuracies, False for losses.

    Example:
        >>> found = [(0.5, 0.7), (0.6, 0.6), (1.0, 0.9)]
        >>> points = [ParetoPoint(label="a", latency=x, quality=y) for x, y in found]
        >>> [point.latency for point in pareto_front(points, higher_is_better=True)]
        [0.5, 1.0]
    """
    sign = -1 if higher_is_better else 1
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda point: (point.latency, sign * point.quality)):
        if not front or sign * point.quality < sign * front[-1].quality:
            front.append(point)
    return tuple(front)
