"""How many segments: the number k, chosen from the curve of losses of all segmentations.

Axes: L units, k = 1 … K segments, e(k) the loss of the best segmentation into k.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError
from shoal.units import Segmentation

__all__ = ["bic", "penalised", "released_rule"]

# Below this share of the loss of one segment, a loss is rounding.
_NOTHING = 1e-12


def penalised(segmentation: Segmentation, *, beta: float | None = None) -> int:
    """Return the k with the least `e(k) + beta · k`.

    Args:
        segmentation: Segmentations into 1 … K segments, all of them (K = L) where `beta` is None.
        beta: What a segment costs, in the unit of the loss. None: twice the slope at which the
            curve falls over its larger half of k, where more segments explain only noise.

    Returns:
        k in 1 … K; the smallest of those that tie.

    Raises:
        ConfigError: If `beta` is negative or not finite.

    Example:
        >>> from shoal.segmentation import segment_series
        >>> penalised(segment_series([0, 0, 0, 9, 9, 9]), beta=1.0)
        2

    Reference: Birgé and Massart, 2007, https://doi.org/10.1007/s00440-006-0011-8 (slope heuristic).
    """
    if beta is not None and not 0 <= beta < math.inf:
        raise ConfigError(f"asked for the penalty beta={beta}: a number from 0 upwards works.")
    losses = np.asarray(segmentation.losses)
    cost = _slope_penalty(losses) if beta is None else beta
    return int(np.argmin(losses + cost * np.arange(1, len(losses) + 1))) + 1


def bic(segmentation: Segmentation) -> int:
    """Return the k with the least `L ln(e(k) / L) + 2 k ln L`.

    Only k up to L / 2 stand for election: beyond, segments of one unit drive the loss to zero and
    its logarithm to minus infinity, whatever the data. A loss of zero counts as a tiny one.

    Returns:
        k in 1 … max(1, L // 2); the smallest of those that tie.

    Example:
        >>> from shoal.segmentation import segment_series
        >>> bic(segment_series([0, 0, 0, 9, 9, 9]))
        2

    Reference: Schwarz, 1978, https://doi.org/10.1214/aos/1176344136.
    """
    length = segmentation.length
    losses = np.asarray(segmentation.losses[: max(1, length // 2)])
    floor = _NOTHING * losses[0]
    if floor == 0:
        return 1
    counts = np.arange(1, len(losses) + 1)
    criterion = length * np.log(np.maximum(losses, floor) / length) + 2 * counts * math.log(length)
    return int(np.argmin(criterion)) + 1


def released_rule(segmentation: Segmentation, *, most: int) -> int:
    """Return the k that the released SGLP code chooses: nearly always `most`.

    It is the largest k up to `most` whose step from k - 1 lowers the loss by more than 5 %; the
    search ends where the loss is zero. For comparisons only.

    Args:
        segmentation: Segmentations into 1 … K segments.
        most: The largest k to consider.

    Raises:
        ConfigError: If `most` is not in 1 … K.
    """
    losses = segmentation.losses
    if not 1 <= most <= len(losses):
        raise ConfigError(
            f"asked for at most {most} segments: segmentations into 1 to {len(losses)} were computed."
        )
    chosen = 1
    for k in range(2, most + 1):
        before, after = losses[k - 2], losses[k - 1]
        if before <= _NOTHING * losses[0]:
            break
        if (before - after) / before > 0.05:
            chosen = k
    return chosen


def _slope_penalty(losses: NDArray[np.float64]) -> float:
    tail = losses[len(losses) // 2 :] if len(losses) > 2 else losses
    if len(tail) < 2:
        return 0.0
    slope = np.polyfit(np.arange(len(tail)), tail, 1)[0]
    return 2 * max(-float(slope), 0.0)
