"""What every way to rewrite a segment of convolutions costs: convolutions, parameters, MACs or seconds.

A segment runs merged or with the layers that stay one after the other, whichever costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from shoal.budget import Quantity
from shoal.journal import Journal
from shoal.layers import ConvShape, MergeEntry
from shoal.measurement.convolutions import ShapeSettings, time_shapes

__all__ = ["EntryCost", "Seconds", "entry_costs", "time_entries"]

# No convolution is expected to be so much quicker for its MACs than the quickest that was timed.
_BEST = 1.5

Seconds = dict[ConvShape, float]


@dataclass(frozen=True, kw_only=True)
class EntryCost:
    """What an entry costs.

    Attributes:
        merged: As one convolution; infinite where that cannot be, or cannot be worth it.
        separate: With the layers that stay one after the other; infinite where that is not allowed.
        beside: Of what runs besides in either form.
    """

    merged: float
    separate: float
    beside: float = 0.0

    @property
    def fused(self) -> bool:
        """Whether one convolution costs no more."""
        return self.merged <= self.separate

    @property
    def total(self) -> float:
        """Of the cheaper form."""
        return min(self.merged, self.separate) + self.beside


def entry_costs(
    entries: Sequence[MergeEntry],
    quantity: Quantity,
    *,
    batch: int = 1,
    seconds: Seconds | None = None,
    separate: bool = True,
) -> tuple[EntryCost, ...]:
    """Return what each entry costs of a quantity.

    Args:
        entries: The ways to rewrite segments.
        quantity: `units` counts convolutions, projections aside; `latency` is in seconds.
        batch: Samples in a call; for MACs.
        seconds: How long convolutions take, for latency; one that is missing is taken to be too slow.
        separate: Whether the layers that stay may run one after the other.
    """
    known = seconds or {}
    measures: dict[str, Callable[[ConvShape], float]] = {
        "units": lambda shape: 1.0,
        "params": lambda shape: float(shape.params),
        "macs": lambda shape: float(batch * shape.macs),
        "latency": lambda shape: known.get(shape, math.inf),
    }
    measure = measures[quantity]
    found = []
    for entry in entries:
        merged = 0.0 if entry.empty else math.inf if entry.merged is None else measure(entry.merged)
        row = entry.separate
        if quantity == "units":
            # Projections are no layers.
            row = row[: len(entry.kept)]
        apart = sum(map(measure, row)) if separate or entry.unchanged else math.inf
        beside = 0.0 if quantity == "units" else sum(map(measure, entry.beside))
        found.append(EntryCost(merged=merged, separate=apart, beside=beside))
    return tuple(found)


def time_entries(
    entries: Sequence[MergeEntry],
    *,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    settings: ShapeSettings | None = None,
    journal: Journal | None = None,
    key: str = "",
    everything: bool = False,
) -> Seconds:
    """Return how long the convolutions take that entries may leave, each shape timed once.

    First come the layers as they are. Of merged convolutions only those follow that would be worth it if
    they did their MACs faster than any of these; the others are left out.

    Args:
        entries: The ways to rewrite segments.
        batch, device, dtype, settings, journal, key: As for `time_shapes`.
        everything: Whether hopeless ones are timed too.
    """

    def timed(shapes: Iterable[ConvShape]) -> Seconds:
        found = time_shapes(
            dict.fromkeys(shapes),
            batch=batch,
            device=device,
            dtype=dtype,
            settings=settings,
            journal=journal,
            key=key,
        )
        return {shape: timing.seconds for shape, timing in found.items()}

    row = [shape for entry in entries for shape in (*entry.separate, *entry.beside)]
    seconds = timed(row)
    unknown = [(entry, entry.merged) for entry in entries if entry.merged not in (None, *seconds)]
    merged = [(entry, shape) for entry, shape in unknown if shape is not None]
    if everything:
        return seconds | timed(shape for _, shape in merged)
    alone = {
        entry.segment.start: sum(seconds[shape] for shape in (*entry.separate, *entry.beside))
        for entry in entries
        if entry.unchanged
    }
    rates = [shape.macs / seconds[shape] for shape in seconds if seconds[shape] > 0 and shape.groups == 1]
    fastest = _BEST * max(rates, default=math.inf)
    hopeful = [
        shape
        for entry, shape in merged
        if shape.macs / fastest < sum(alone.get(index, math.inf) for index in entry.segment)
    ]
    return seconds | timed(hopeful)
