"""What a comparison found: a row for every network that was made and judged, and how methods stand.

Plain data; `shoal.comparing` makes it. Axes: N judged samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from shoal.errors import DataError
from shoal.plan import Plan
from shoal.result import Measurement

__all__ = ["Comparison", "Failure", "Row", "Standing"]

VERSION = 1


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


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a method stands under a budget, over its seeds: in the end, or before healing.

    Attributes:
        rows: Its rows, one a seed.
        healed: Whether it is told of the networks in the end, after healing where there was some.
        difference: By how much its mean loss is higher than the best method's.
        error: Standard error of that difference over the judged samples, taken in pairs; None for
            fewer than two samples.
    """

    rows: tuple[Row, ...]
    healed: bool
    difference: float
    error: float | None

    @property
    def method(self) -> str:
        """Who chose."""
        return self.rows[0].method

    @property
    def control(self) -> bool:
        """Whether it is there for others to be compared with."""
        return self.rows[0].control

    @property
    def near_best(self) -> bool:
        """Whether its loss lies within one standard error of the best method's, or is the best."""
        return self.difference <= (self.error or 0.0)

    @property
    def own_training(self) -> bool:
        """Whether the method trained weights while it chose, which the others lack."""
        return any(row.own_weights for row in self.rows) and not self.control

    def mean(self, name: str) -> float:
        """Return the mean of a quality over the seeds."""
        return fmean(self._values(name))

    def spread(self, name: str) -> float | None:
        """Return the standard deviation of a quality over the seeds; None where there is one seed."""
        values = self._values(name)
        return stdev(values) if len(values) > 1 else None

    def latency_ratio(self) -> float | None:
        """Return the mean share of the whole network's latency; None where it was not measured."""
        ratios = [row.latency_ratio for row in self.rows]
        return fmean(ratio for ratio in ratios if ratio is not None) if None not in ratios else None

    def as_json(self) -> dict[str, Any]:
        """Return the standing as JSON values, without its rows."""
        return {
            "method": self.method,
            "control": self.control,
            "own_training": self.own_training,
            "seeds": [row.seed for row in self.rows],
            "loss": self.mean("loss"),
            "loss_spread": self.spread("loss"),
            "latency_ratio": self.latency_ratio(),
            "difference": self.difference,
            "difference_error": self.error,
            "near_best": self.near_best,
        }

    def _values(self, name: str) -> list[float]:
        return [row.quality_at(healed=self.healed)[name] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `shoal.compare` hands back.

    Attributes:
        whole: The whole network, one row for every seed of its healing.
        rows: The networks that methods made of it, in the order in which they were made.
        failures: Methods that could not run, with the reason.
        weights: How much each judged sample counts in a mean loss, `(N,)`.
        settings: What was held equal: seeds, healing, granularity.
        data: Which data was used, in words, as far as it is known.
    """

    whole: tuple[Row, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    weights: tuple[float, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(hash=False)
    data: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def budgets(self) -> tuple[str, ...]:
        """The budgets that were asked for."""
        named = [*(row.budget for row in self.rows), *(each.budget for each in self.failures)]
        return tuple(dict.fromkeys(named))

    @property
    def original(self) -> Standing:
        """How the whole network stands in the end, by itself."""
        return Standing(rows=self.whole, healed=True, difference=0.0, error=None)

    def standings(self, budget: str, *, healed: bool = True) -> tuple[Standing, ...]:
        """Return how every method stands under a budget, the lowest loss first.

        Args:
            budget: One of `budgets`.
            healed: Whether in the end, after healing where there was some, or before it.

        Raises:
            DataError: If there is no such budget.
        """
        if budget not in self.budgets:
            raise DataError(
                f"asked for the budget {budget!r} of a comparison: it has {', '.join(self.budgets)}."
            )
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.budget == budget:
                groups.setdefault(row.method, []).append(row)
        ordered = sorted(groups.values(), key=lambda rows: _loss(rows, healed=healed))
        best = ordered[0] if ordered else []
        return tuple(_standing(rows, best, self.weights, healed=healed) for rows in ordered)

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""

        def standings(*, healed: bool) -> dict[str, Any]:
            return {
                budget: [each.as_json() for each in self.standings(budget, healed=healed)]
                for budget in self.budgets
            }

        return {
            "version": VERSION,
            "whole": [row.as_json() for row in self.whole],
            "rows": [row.as_json() for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
            "standings": standings(healed=True),
            "standings_before_healing": standings(healed=False),
            "weights": list(self.weights),
            "settings": dict(self.settings),
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `as_json` wrote.

        Raises:
            DataError: If another version wrote it.
        """
        if fields.get("version") != VERSION:
            raise DataError(
                f"asked to read a comparison of version {fields.get('version')}: this shoal reads version "
                f"{VERSION}. Use the shoal that wrote it."
            )
        return cls(
            whole=tuple(map(Row.from_json, fields["whole"])),
            rows=tuple(map(Row.from_json, fields["rows"])),
            failures=tuple(Failure(**failure) for failure in fields["failures"]),
            weights=tuple(fields["weights"]),
            settings=dict(fields["settings"]),
            data=dict(fields["data"]),
        )


def _loss(rows: Sequence[Row], *, healed: bool) -> float:
    return fmean(row.quality_at(healed=healed)["loss"] for row in rows)


def _standing(
    rows: Sequence[Row], best: Sequence[Row], weights: Sequence[float], *, healed: bool
) -> Standing:
    """By how much the mean loss of these rows is higher, and how sure that is, sample by sample."""
    import torch

    from shoal.measurement import SampleLosses, paired_difference

    difference, error = _loss(rows, healed=healed) - _loss(best, healed=healed), None
    # Older files hold no losses before healing.
    if all(row.losses_at(healed=healed) for row in (*rows, *best)):
        counts = torch.tensor(weights, dtype=torch.float64)
        losses = (
            torch.tensor([row.losses_at(healed=healed) for row in each], dtype=torch.float64)
            for each in (rows, best)
        )
        mine, theirs = (SampleLosses(losses=each.mean(dim=0), weights=counts, quality={}) for each in losses)
        difference, error = paired_difference(mine, theirs)
    return Standing(rows=tuple(rows), healed=healed, difference=difference, error=error)
