"""Networks that one command trained for several budgets or prices: as rows, and as points of a front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import DataError
from shoal.plan import Plan
from shoal.reports.figures.trained import trained_figure
from shoal.reports.numbers import number_text, ratio_text
from shoal.reports.tables import Table, columns_of
from shoal.result import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FrontRun", "front_figure", "front_table"]

# What is shown of a network's quality: the first of these that was measured.
_QUALITIES = ("accuracy", "perplexity", "loss")
_NAMES = {"macs": "MACs", "params": "parameters", "units": "units", "latency": "latency"}


@dataclass(frozen=True, kw_only=True)
class FrontRun:
    """One network of a front.

    Attributes:
        asked: What was asked for, such as `macs=0.5`.
        model: The network's name.
        units: Units that are left.
        whole: Units that there were.
        before: What the network cost and how well it did before.
        after: The same of what is left.
        saved: Share of the training compute of the whole network that was saved; None where it is not known.
    """

    asked: str
    model: str
    units: int
    whole: int
    before: Measurement = field(hash=False)
    after: Measurement = field(hash=False)
    saved: float | None = None

    @classmethod
    def of(cls, asked: str, record: Mapping[str, Any]) -> FrontRun:
        """Return what a written folder says of its training.

        Args:
            asked: What was asked for.
            record: The fields of its `shoal.json`.
        """
        plan = Plan.from_json(json.dumps(record["plan"]))
        return cls(
            asked=asked,
            model=plan.model.name,
            units=plan.left,
            whole=len(plan.model.units),
            before=Measurement(**record["before"]),
            after=Measurement(**record["after"]),
            saved=(record["training"]["pruning"] or {}).get("saved"),
        )

    @property
    def quality(self) -> str | None:
        """The name of what is shown of its quality; None where it was not measured."""
        return next((name for name in _QUALITIES if name in self.after.quality), None)

    def left(self, quantity: str) -> float | None:
        """Return the share of a quantity that is left; None where it was not measured."""
        if quantity == "units":
            return self.units / self.whole
        before, after = (getattr(each, quantity) for each in (self.before, self.after))
        return after / before if before and after is not None else None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"before": self.before.as_json(), "after": self.after.as_json()}


def front_table(runs: Sequence[FrontRun], failures: Mapping[str, str]) -> Table:
    """Return what was asked for and what came of it, a row a network.

    Args:
        runs: The networks.
        failures: What was asked for and failed, and why.
    """
    quality = next((each.quality for each in runs if each.quality), None)
    names = ["asked for", "units", "params", "MACs", *([quality] if quality else []), "training saved"]
    return Table(
        title=f"{runs[0].model if runs else 'Nothing'}: {len(runs)} trained",
        columns=columns_of(names, range(1, len(names))),
        rows=tuple(_row(each, quality) for each in runs),
        notes=(
            "params, MACs: shares of the network that came in; training saved: share of its training compute",
            *(f"failed: {asked}: {why}" for asked, why in failures.items()),
        ),
    )


def _row(run: FrontRun, quality: str | None) -> tuple[str, ...]:
    return (
        run.asked,
        f"{run.units} of {run.whole}",
        ratio_text(run.before.params, run.after.params),
        ratio_text(run.before.macs, run.after.macs),
        *([_figure(quality, run.after.quality.get(quality))] if quality else []),
        "-" if run.saved is None else f"{run.saved:.0%}",
    )


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if name == "accuracy" else number_text(value)


def front_figure(runs: Sequence[FrontRun], *, across: str) -> Figure:
    """Return quality against what is left, a point a network, as a figure that `save_figure` writes.

    Args:
        runs: Networks whose quality was measured.
        across: What is left: macs, params, units or latency.

    Raises:
        DataError: If quality or what is left was not measured of all.
        ConfigError: If there are no networks.
        MissingExtraError: If matplotlib is not installed.
    """
    quality, points = next((each.quality for each in runs), None), dict[str, tuple[float, float]]()
    for each in runs:
        left = each.left(across)
        if quality is None or quality not in each.after.quality or left is None:
            raise DataError(
                f"asked to draw quality against {across} of {each.asked}: one of them was not measured. "
                "Measure both of every network."
            )
        points[each.asked] = (left, each.after.quality[quality])
    return trained_figure(
        points,
        title=f"{runs[0].model if runs else ''}: {quality} of what training left",
        across=_NAMES[across],
        quality=str(quality),
        higher_is_better=quality == "accuracy",
    )
