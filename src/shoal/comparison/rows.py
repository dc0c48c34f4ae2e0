"""What a comparison is made of: a row for every network that was judged, or why there is none.

Plain data. Axes: N judged samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.plan import Plan
from shoal.result import Measurement

__all__ = ["Failure", "Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of a comparison: what is left of the whole network, how it was found, how well it does.

    Attributes:
        method: Who chose, such as `sglp` or `sglp:paper`; `whole` where nothing was removed.
        budget: What was asked for; empty where nothing was removed.
        seed: Of what the method draws, and of healing.
        control: Whether it is there for others to be compared with.
        plan: What was removed.
        asked: How many numbers of each kind the method asked for, known before or not: `loss` of the
            network without some units, `pass` over the calibration data….
        seconds: What choosing took here. A method that comes later finds much of it measured.
        own_weights: Whether the method brought weights of its own, so that the plan applied to the
            whole network does not give its network.
        measured: Cost and quality of the network, before healing.
        latency_whole: Seconds of the whole network, measured in turns with this one.
        healed: Quality after healing; None where nothing was healed.
        losses: Loss on every judged sample, `(N,)`, after healing where there was some.
        unhealed_losses: The same before healing, `(N,)`; empty where nothing was healed.
        same_as: An earlier row with the same network, which was made, judged and healed once for both;
            empty where there is none.
    """

    method: str
    budget: str
    seed: int
    control: bool
    plan: Plan
    asked: Mapping[str, int] = field(hash=False)
    seconds: float
    own_weights: bool
    measured: Measurement
    latency_whole: float | None
    healed: Mapping[str, float] | None = field(hash=False)
    losses: tuple[float, ...] = field(repr=False)
    unhealed_losses: tuple[float, ...] = field(default=(), repr=False)
    same_as: str = ""

    @property
    def units(self) -> int:
        """How many units remain."""
        return self.plan.left

    @property
    def quality(self) -> Mapping[str, float]:
        """Quality of the network in the end: after healing where there was some."""
        return self.quality_at(healed=True)

    @property
    def latency_ratio(self) -> float | None:
        """Latency as a share of the whole network's; None where it was not measured."""
        if self.measured.latency is None or self.latency_whole is None:
            return None
        return self.measured.latency / self.latency_whole

    def quality_at(self, *, healed: bool) -> Mapping[str, float]:
        """Return the quality in the end, or before healing."""
        return self.healed if healed and self.healed is not None else self.measured.quality

    def losses_at(self, *, healed: bool) -> tuple[float, ...]:
        """Return the loss on every judged sample in the end, or before healing, `(N,)`."""
        return self.losses if healed or self.healed is None else self.unhealed_losses

    def __str__(self) -> str:
        return f"{self.method}{f' at {self.budget}' if self.budget else ''}, seed {self.seed}"

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {
            "plan": json.loads(self.plan.to_json()),
            "asked": dict(self.asked),
            "measured": self.measured.as_json(),
            "healed": None if self.healed is None else dict(self.healed),
            "losses": list(self.losses),
            "unhealed_losses": list(self.unhealed_losses),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Row:
        """Return the row that `as_json` wrote."""
        made = {
            "plan": Plan.from_json(json.dumps(fields["plan"])),
            "measured": Measurement(**fields["measured"]),
            "losses": tuple(fields["losses"]),
            "unhealed_losses": tuple(fields.get("unhealed_losses", ())),
        }
        return cls(**{**fields, **made})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A method that could not run under a budget.

    Attributes:
        method: Which.
        budget: Under which budget.
        seed: With which seed.
        reason: What the error said.
    """

    method: str
    budget: str
    seed: int
    reason: str
