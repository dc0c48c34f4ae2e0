"""What a comparison says: how methods stand beside each other under a budget.

Plain data, to and from versioned JSON. Axes: N judged samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from shoal.comparison.rows import Failure, Row
from shoal.errors import DataError

__all__ = ["Comparison", "Standing"]

VERSION = 1


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
