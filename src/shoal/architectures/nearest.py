"""The cut nearest to one that cannot be had, among those that can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic

__all__ = ["nearest"]

Gone = dict[str, list[int]]
_SECONDS = 10.0


def nearest(
    gone: Mapping[str, Sequence[int]],
    lengths: Mapping[str, int],
    works: Callable[[Mapping[str, Sequence[int]]], bool],
    *,
    seconds: float = _SECONDS,
) -> Gone | None:
    """Return the nearest cut that works; None where none was found.

    Tried are, in this order: another layer in place of one, the nearer the earlier; runs of as many
    layers, the nearer the earlier; a layer less or more; the last layers, up to twice as many.

    Args:
        gone: Numbers of the layers that were to go, by their list.
        lengths: How many layers each list has.
        works: Whether a cut is possible, by the numbers of the layers that stay.
        seconds: How long to look.

    Example:
        >>> def even(kept):
        ...     return all(len(numbers) % 2 == 0 for numbers in kept.values())
        >>> nearest({"layers": [3]}, {"layers": 8}, even)
        {'layers': [2, 3]}
    """
    end = monotonic() + seconds
    tried = {_key(gone)}
    for other in _neighbours(gone, lengths):
        if _key(other) in tried or not any(other.values()):
            continue
        tried.add(_key(other))
        kept = {c: [i for i in range(lengths[c]) if i not in other[c]] for c in gone}
        if all(kept.values()) and works(kept):
            return other
        if monotonic() > end:
            return None
    return None


def _key(gone: Mapping[str, Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((container, tuple(numbers)) for container, numbers in gone.items())


def _neighbours(gone: Mapping[str, Sequence[int]], lengths: Mapping[str, int]) -> Iterator[Gone]:
    for container, numbers in gone.items():
        length, mine = lengths[container], sorted(numbers)
        others = {each: list(found) for each, found in gone.items()}
        for found in _near(mine, length):
            yield others | {container: found}


def _near(gone: list[int], length: int) -> Iterator[list[int]]:
    free = [index for index in range(length) if index not in gone]
    swaps = sorted((abs(old - new), old, new) for old in gone for new in free)
    for _, old, new in swaps:
        yield sorted({*gone, new} - {old})
    centre, size = sum(gone) / max(len(gone), 1), len(gone)
    for count in (size, size - 1, size + 1):
        starts = range(max(length - count + 1, 0))
        for start in sorted(starts, key=lambda start: abs(start + (count - 1) / 2 - centre)):
            yield [*range(start, start + count)]
        if count == size - 1:
            yield from ([index for index in gone if index != left] for left in gone)
        if count == size + 1:
            centres = sorted(free, key=lambda index: min(abs(index - other) for other in gone or [0]))
            yield from (sorted({*gone, more}) for more in centres)
    for count in range(size, 0, -1):
        yield [*range(length - count, length)]
    for count in range(size + 2, min(2 * size + 3, length)):
        yield [*range(length - count, length)]
