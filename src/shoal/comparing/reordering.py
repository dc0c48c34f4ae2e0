"""Batches in another order, without holding all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from random import Random

from shoal.calling import Batch

__all__ = ["BUFFER", "Reordered"]

# Batches in memory at a time, of data that cannot be indexed.
BUFFER = 16


class Reordered:
    """Batches in an order drawn from a seed, few of them in memory at a time.

    What can be indexed is; of anything else a buffer is filled, of which one drawn at random comes next.

    Args:
        batches: Gone through again with every iteration, in the same order each time.
        seed: Of the order.
    """

    def __init__(self, batches: Iterable[Batch], seed: int) -> None:
        self._batches, self._seed = batches, seed

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        draw, batches = Random(self._seed), self._batches
        if isinstance(batches, Sized) and hasattr(batches, "__getitem__"):
            order = list(range(len(batches)))
            draw.shuffle(order)
            yield from (batches[place] for place in order)
            return
        buffer: list[Batch] = []
        for batch in batches:
            if len(buffer) < BUFFER:
                buffer.append(batch)
                continue
            place = draw.randrange(BUFFER)
            yield buffer[place]
            buffer[place] = batch
        draw.shuffle(buffer)
        yield from buffer
