"""Fisher optimal segmentation: the best cuts of a chain into k contiguous segments, for every k.

An exact dynamic program over the scatter of every segment; the order of the units is never changed
(one-dimensional clustering such as Jenks sorts its values, which would be wrong here).

    e(n, 1) = D(0, n);    e(n, k) = min over k - 1 <= j < n of e(j, k - 1) + D(j, n)

Axes: L units. `D[i, j]` is the scatter of the segment [i, j).

Reference: W. D. Fisher, 1958, https://doi.org/10.1080/01621459.1958.10501479, the restricted problem.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.errors import ConfigError, DataError
from shoal.units import Segmentation

__all__ = ["released_backtracking", "row_sums", "segment_series", "segment_similarity"]

Matrix = NDArray[np.float64]


def segment_similarity(similarity: ArrayLike, *, most: int | None = None) -> Segmentation:
    """Return the segmentations with the least scatter of the units in the space of the similarity.

    A similarity such as unbiased CKA is an inner product of unit vectors, one a unit of the chain.
    The scatter of a segment is the sum of the squared distances of its vectors to their mean,
    `D(i, j) = Σ_t C[t, t] - Σ_st C[s, t] / (j - i)` over s and t in [i, j).

    Args:
        similarity: `(L, L)`, symmetric, higher = more alike, C[t, t] = 1 as a rule.
        most: The largest number of segments; L where it is None or larger.

    Returns:
        The best segmentation for every k = 1 … most.

    Raises:
        DataError: If the matrix is empty, not square or holds a value that is not finite.
        ConfigError: If `most` is below 1.

    Example:
        >>> result = segment_similarity([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> result.starts[1], [round(loss, 3) for loss in result.losses]
        ((0, 2), [1.333, 0.0, 0.0])
    """
    matrix = _matrix(similarity)
    return _divide(_similarity_scatter(matrix), most)


def segment_series(series: ArrayLike, *, most: int | None = None) -> Segmentation:
    """Return the segmentations of a series with the least squared deviations from segment means.

    Args:
        series: One number a unit, `(L,)`, in the order of the chain; it is not sorted.
        most: The largest number of segments; L where it is None or larger.

    Returns:
        The best segmentation for every k = 1 … most.

    Raises:
        DataError: If the series is empty, no vector or holds a value that is not finite.
        ConfigError: If `most` is below 1.

    Example:
        >>> segment_series([5, 5, 1, 1, 5]).starts[2]
        (0, 2, 4)
    """
    return _divide(_series_scatter(_vector(series)), most)


def row_sums(similarity: ArrayLike) -> Matrix:
    """Return the row sums `(L,)` of a similarity matrix `(L, L)`, diagonal included.

    They lose structure: two equal groups that differ from each other have equal row sums.

    Raises:
        DataError: If the matrix is empty, not square or holds a value that is not finite.
    """
    return np.asarray(_matrix(similarity).sum(axis=1))


def released_backtracking(series: ArrayLike, k: int) -> tuple[int, ...]:
    """Return the starts of the k segments that the released SGLP code reads out of its tables.

    Each boundary, from the last to the first, is the largest prefix whose best loss with one
    segment less is strictly below the current loss: no argmin, so that cuts come too late. Where
    no prefix is below (a loss of zero), the exact boundary is taken. For comparisons only.

    Args:
        series: One number a unit, `(L,)`.
        k: The number of segments, 1 … L.

    Raises:
        DataError: If the series is empty, no vector or holds a value that is not finite.
        ConfigError: If k is not in 1 … L.
    """
    values = _vector(series)
    if not 1 <= k <= len(values):
        raise ConfigError(f"asked for {k} segments of {len(values)} units: from 1 to {len(values)} work.")
    losses, cuts = _tables(_series_scatter(values), k)
    starts, stop = [0] * k, len(values)
    for index in range(k - 1, 0, -1):
        below = np.flatnonzero(losses[index - 1, :stop] < losses[index, stop])
        stop = int(below[-1]) if below.size else int(cuts[index, stop])
        starts[index] = stop
    return tuple(starts)


def _divide(scatter: Matrix, most: int | None) -> Segmentation:
    length = len(scatter) - 1
    if most is not None and most < 1:
        raise ConfigError(f"asked for at most {most} segments: a number from 1 to {length} works.")
    count = length if most is None else min(most, length)
    losses, cuts = _tables(scatter, count)
    starts = []
    for k in range(1, count + 1):
        firsts, stop = [0] * k, length
        for index in range(k - 1, 0, -1):
            stop = int(cuts[index, stop])
            firsts[index] = stop
        starts.append(tuple(firsts))
    return Segmentation(losses=tuple(losses[:, length].tolist()), starts=tuple(starts), length=length)


def _tables(scatter: Matrix, count: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Return e(n, k) and its argmin j at `[k - 1, n]`, both `(count, L + 1)`."""
    size = len(scatter)
    losses = np.full((count, size), np.inf)
    cuts = np.zeros((count, size), dtype=np.int64)
    losses[0] = scatter[0]
    for k in range(1, count):
        candidates = losses[k - 1, :, None] + scatter
        cuts[k] = candidates.argmin(axis=0)
        losses[k] = candidates[cuts[k], np.arange(size)]
    return losses, cuts


def _similarity_scatter(similarity: Matrix) -> Matrix:
    area = np.pad(similarity.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corner = area.diagonal()
    sums = corner[None, :] - area - area.T + corner[:, None]
    return _scatter(similarity.diagonal(), sums)


def _series_scatter(series: Matrix) -> Matrix:
    # Around the mean, or a common offset would drown the deviations.
    centred = series - series.mean()
    total = np.pad(centred.cumsum(), (1, 0))
    return _scatter(centred**2, (total[None, :] - total[:, None]) ** 2)


def _scatter(squares: Matrix, sums: Matrix) -> Matrix:
    """Return D `(L + 1, L + 1)`, infinite where there is no segment, of squared lengths and inner sums."""
    total = np.pad(squares.cumsum(), (1, 0))
    ends = np.arange(len(total))
    lengths = ends[None, :] - ends[:, None]
    scatter = total[None, :] - total[:, None] - sums / np.maximum(lengths, 1)
    # Rounding must neither make a scatter negative nor that of a single unit positive.
    scatter = np.where(lengths == 1, 0.0, np.maximum(scatter, 0.0))
    return np.where(lengths < 1, np.inf, scatter)


def _matrix(similarity: ArrayLike) -> Matrix:
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise DataError(
            f"asked to segment a similarity of shape {matrix.shape}: it is square, one row and one "
            "column a unit, and has a unit or more."
        )
    _check_finite(matrix, "similarity")
    return matrix


def _vector(series: ArrayLike) -> Matrix:
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise DataError(
            f"asked to segment a series of shape {values.shape}: it is one number a unit, of a unit or more."
        )
    _check_finite(values, "series")
    return values


def _check_finite(values: Matrix, name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = tuple(map(int, bad[0]))
        raise DataError(
            f"asked to segment a {name} with {len(bad)} values that are not finite; the first, "
            f"{values[place]}, is of unit {place[0]}. Look for activations that overflow there."
        )
