"""How merges of convolutions are measured and chosen: settings of all methods that merge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shoal.errors import ConfigError
from shoal.importance import MergeLossSettings
from shoal.measurement import ShapeSettings

__all__ = ["MergeSettings"]


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """How merges are measured and chosen.

    Attributes:
        importance: How what an entry costs in quality is measured.
        timing: How convolutions are timed.
        measure: Which entries are measured: those that are `needed` to prove the plan best, taking the
            others to cost nothing until they are; or `all`, so that the front holds for every budget.
        tolerance: How far, in loss, the plan may lie from the best by the tables; with 0 it is proved best.
        objective: What is made small: the sum of added losses, or as `published` minus the sum of
            exp(Δ accuracy / 100) over the segments, which favours many segments.
        quantum: Seconds to which latencies are rounded, as published; exact where it is None.
        rounding: Downwards (`floor`, as published, may exceed the budget) or upwards (`ceil`).
        separate: Whether the layers that stay may run one after the other where merging them is slower.
        time_all: Whether convolutions are timed too that cannot be worth it.
    """

    importance: MergeLossSettings = field(default_factory=MergeLossSettings)
    timing: ShapeSettings = field(default_factory=lambda: ShapeSettings(sweeps=2))
    measure: Literal["needed", "all"] = "needed"
    tolerance: float = 0.01
    objective: Literal["loss", "published"] = "loss"
    quantum: float | None = None
    rounding: Literal["floor", "ceil"] = "ceil"
    separate: bool = True
    time_all: bool = False

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ConfigError(f"asked for tolerance={self.tolerance}: 0 or more works.")
        if self.quantum is not None and not self.quantum > 0:
            raise ConfigError(f"asked for quantum={self.quantum}: seconds above 0 work, or null.")
        if self.objective == "published" and self.measure != "all":
            raise ConfigError("asked for objective=published: it needs every entry measured (measure=all).")
        if self.importance.fresh_single and self.objective != "published":
            raise ConfigError(
                "asked for importance.fresh_single=true with objective=loss: layers that stay as they are "
                "cost nothing there. It needs objective=published."
            )
        if self.rounding == "floor" and self.quantum is None:
            raise ConfigError("asked for rounding=floor without a quantum: name one, such as quantum=0.0001.")
