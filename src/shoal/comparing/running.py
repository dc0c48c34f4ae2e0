"""`compare`: every method that fits the network, with its controls, under the same conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from shoal.budget import Budget
from shoal.calling import Batch, Inputs
from shoal.comparing.bench import Bench
from shoal.comparing.contenders import Contender, check_seeds, contenders
from shoal.comparison import Comparison, Failure, Row
from shoal.errors import ConfigError, ShoalError, ShoalWarning
from shoal.journal import Journal
from shoal.measurement import LatencySettings, Loss
from shoal.pipeline import check_healing
from shoal.progress import Title, reporting, said, task
from shoal.stages import make_request
from shoal.training import HealSettings
from shoal.units import Granularity

__all__ = ["compare"]


def compare(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    budgets: str | Budget | Iterable[str | Budget],
    evaluation: Iterable[Batch],
    methods: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    example: Inputs | None = None,
    heal: HealSettings | None = None,
    heal_batches: Iterable[Batch] | None = None,
    seeds: int | Sequence[int] = 3,
    heal_seeds: int = 1,
    loss: Loss | None = None,
    latency: bool | LatencySettings = True,
    journal: Journal | None = None,
    granularity: Granularity = "block",
) -> Comparison:
    """Return how methods do on one network: the same units, data, budgets, seeds and healing for all.

    Every method chooses under every budget. Its network is made, judged, healed as all others are,
    judged again and timed in turns with the whole network; so is the whole network, whose healing
    shows what the training alone does. Methods with the same plan share one network. A
    method that cannot run here is listed with the reason.

    Args:
        model: Any network; it is left as it was found.
        batches: Batches to choose on, which the network was not trained on; see `analyze`.
        budgets: What may remain, such as `macs=0.6`; one or several.
        evaluation: Batches to judge by, apart from those to choose and to heal on; there is a warning
            where they are the same.
        methods: Names of methods, or `name:preset`; all with their defaults where it is None.
        settings: Settings by name (as in `methods`), each a mapping of some of them or an instance.
        example: What the model's forward takes; MACs and latency are of one call with it.
        heal: How every network is trained afterwards; not at all where it is None. Its seed is the
            row's.
        heal_batches: Batches to train on; `batches` where it is None. Healing with another than the
            first seed goes through them in another order.
        seeds: Seeds, or how many from 0: methods that draw are run once with each.
        heal_seeds: With how many of them the networks of the other methods are healed.
        loss: `loss(outputs, labels)` for data that is neither labelled nor text.
        latency: Whether and how latency is measured.
        journal: Where all that was done is kept; with the same one nothing is done again.
        granularity: What a unit is, as for `find_units`.

    Raises:
        ConfigError: If there is no such method or setting, or the seeds do not work.
        BudgetError: If a budget cannot be read.
        ShoalError: If the whole network cannot be judged or healed; or if no method can run, then
            the first one's error.

    Example:
        >>> import torch
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> data, test = ([(torch.randn(8, 4), torch.arange(8) % 4)] for _ in range(2))
        >>> found = compare(net, data, budgets="units=2", evaluation=test, methods=["last"], latency=False)
        >>> [(row.method, row.units) for row in found.rows]
        [('last', 2)]
    """
    check_healing(heal)
    wanted = _budgets(budgets)
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    check_seeds(chosen, heal_seeds, healing=heal is not None)
    runners = contenders(methods, settings, seeds=chosen, heal_seeds=heal_seeds)
    request = make_request(
        model,
        batches,
        budget=wanted[0],
        example=example,
        loss=loss,
        journal=journal,
        granularity=_units_of(runners, granularity),
    )
    train = request.heal_batches = batches if heal_batches is None else heal_batches
    bench = Bench(
        request=request,
        train=train,
        evaluation=evaluation,
        heal=heal,
        latency=LatencySettings() if latency is True else latency or None,
        first_seed=chosen[0],
    )
    _warn_of(bench.seen)
    runs = [(each, budget, seed) for budget in wanted for each in runners for seed in each.seeds]
    steps = _Steps(total=heal_seeds + len(runs))
    whole = _whole_rows(bench, chosen[:heal_seeds], steps)
    rows, failures = _method_rows(bench, runs, steps)
    return Comparison(
        whole=whole,
        rows=_shared(whole, rows),
        failures=failures,
        weights=bench.weights,
        settings={
            "seeds": list(chosen),
            "heal_seeds": heal_seeds,
            "heal": None if heal is None else asdict(heal),
            "granularity": granularity,
        },
    )


def _whole_rows(bench: Bench, seeds: Sequence[int], steps: _Steps) -> tuple[Row, ...]:
    """The rows of the whole network, one for every seed of its healing."""
    rows = []
    for seed in seeds:
        with steps.next("the whole network"):
            rows.append(bench.whole(seed))
    return tuple(rows)


def _method_rows(
    bench: Bench, runs: Iterable[tuple[Contender, Budget, int]], steps: _Steps
) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    """The rows of the methods, and why there is none of some; the first one's error where there is no row."""
    rows: list[Row] = []
    failures: list[Failure] = []
    errors: list[ShoalError] = []
    for runner, budget, seed in runs:
        try:
            with steps.next(f"{runner.label} at {budget}"):
                rows.append(bench.row(runner, budget, seed))
        except ShoalError as error:
            errors.append(error)
            failures.append(Failure(method=runner.label, budget=str(budget), seed=seed, reason=str(error)))
    if not rows:
        raise errors[0]
    return tuple(rows), tuple(failures)


def _units_of(runners: Sequence[Contender], granularity: Granularity) -> Granularity:
    """What the units are: those of the methods where all of them bring the same."""
    own = {runner.method.granularity or granularity for runner in runners}
    return own.pop() if len(own) == 1 else granularity


def _budgets(budgets: str | Budget | Iterable[str | Budget]) -> list[Budget]:
    given = [budgets] if isinstance(budgets, (str, Budget)) else budgets
    wanted = list(dict.fromkeys(map(Budget.parse, given)))
    if not wanted:
        raise ConfigError("asked to compare under no budget: give one or several, such as macs=0.6.")
    return wanted


def _warn_of(seen: Sequence[str]) -> None:
    if seen:
        warnings.warn(
            f"asked to judge by the same batches as to {' and to '.join(seen)} on: by these, networks look "
            "better than they are. Pass an evaluation of its own.",
            ShoalWarning,
            stacklevel=3,
        )


def _shared(whole: Sequence[Row], rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, each saying which earlier one has the same network."""
    first: dict[object, Row] = {}
    told = []
    for row in (*whole, *rows):
        # Only healing makes networks of one plan differ.
        network = (row.plan.identity, None if row.healed is None else row.seed)
        earlier = row if row.own_weights else first.setdefault(network, row)
        told.append(row if earlier is row else replace(row, same_as=str(earlier)))
    return tuple(told[len(whole) :])


@dataclass(kw_only=True)
class _Steps:
    """Says, in the title of all progress, which row is worked on and how many there are.

    There is no bar of its own: a screen that refreshes would disturb what is timed.
    """

    total: int
    done: int = 0

    def next(self, title: str) -> AbstractContextManager[None]:
        self.done += 1
        return reporting(_Titled(f"{self.done} of {self.total}, {title}"))


class _Titled:
    def __init__(self, title: str) -> None:
        self._title, self._outside = title, copy_context()

    def task(self, title: Title, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        def whole() -> str:
            return f"{self._title}: {said(title)}"

        return self._outside.run(task, whole() if isinstance(title, str) else whole, total)
