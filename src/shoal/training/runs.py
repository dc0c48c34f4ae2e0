"""Whole training runs, from given or fresh weights, that may end with a shallower network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shoal.architectures import find_units
from shoal.architectures.initialisation import randomise_, seeded
from shoal.budget import Budget
from shoal.calling import Batch, Inputs, call, check_batches
from shoal.errors import BudgetError, DataError, ShoalWarning
from shoal.measurement import Loss, batch_loss, is_causal
from shoal.plan import Plan
from shoal.processes import together
from shoal.surgery.shortcut_folding import fold_shortcuts
from shoal.training.batchnorm import recalibrate_
from shoal.training.concurrent import ConcurrentPruner, ConcurrentSettings, PruningProgress
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.trace import Trace
from shoal.training.fitting import FitReport, fit
from shoal.training.goals import METHODS, Goal, Start
from shoal.training.optimisation import FitSettings
from shoal.training.plain import absolute, check_folded, gated_copy, plan_with_shortcuts, refusal
from shoal.training.protocols import Objective
from shoal.training.sharing import total_steps
from shoal.units import Granularity

__all__ = ["METHODS", "TrainingResult", "check_budget", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training run has come to.

    Attributes:
        model: The trained network, without what was removed and with shortcuts folded; in evaluation mode.
        plan: What was removed. Its units are those that were gated: with shortcuts, those of the network
            that has them.
        report: How the run went.
        progress: Where pruning ended; None where nothing was pruned.
        trace: What gates and price were on the way; None where nothing was pruned.
        drawn_without_a_rule: With fresh weights: parameters for which the network has no rule, drawn with
            the mean and deviation that they had.
    """

    model: nn.Module
    plan: Plan
    report: FitReport
    progress: PruningProgress | None
    trace: Trace | None
    drawn_without_a_rule: tuple[str, ...] = ()


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    example: Inputs,
    method: str = "concurrent",
    budget: Budget | str | None = None,
    price: Price | float | str | None = None,
    fit_settings: FitSettings | None = None,
    settings: ConcurrentSettings | None = None,
    fresh: bool = False,
    shortcuts: bool = False,
    granularity: Granularity = "block",
    loss: Loss | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Return a network trained on the batches, made shallower on the way where a budget or price is given.

    Args:
        model: The network, whose weights training begins with; stays untouched.
        batches: `(inputs, labels)` for classifiers, `{"input_ids": …}` for language models, gone through once
            an epoch in their own order.
        example: What the model's forward takes, for units and costs.
        method: One of `METHODS`.
        budget: What may remain, such as `macs=0.5`; shares of parameters and MACs are of `model`.
        price: In place of a budget: the mean loss that the network's cost is worth, as `ConcurrentPruner`.
        fit_settings: How to train.
        settings: How gates are trained.
        fresh: Whether training begins with fresh random weights.
        shortcuts: Whether layers of a plain network get paths around them, folded at the end.
        granularity: What may leave: `block`, or `sublayer` for attention and MLP alone, as `find_units`.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        checkpoint: A file for the state of the run.
        resume: Whether to go on from that file if there is one.

    Raises:
        ConfigError: If options do not go together, no layer can have a shortcut, or the checkpoint is of
            another run.
        BudgetError: If the budget cannot be met; names the nearest.
        DataError: If there are no batches, nothing to compute a loss from, or a loss is not finite.
        UnitError: If no unit can be removed.

    Example:
        >>> import torch
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(4)])
        >>> data = [(torch.randn(8, 4), torch.arange(8) % 4)] * 20
        >>> found = train(net, data, example=data[0][0], budget="units=2", fit_settings=FitSettings(epochs=2))
        >>> len(found.model)
        2
    """
    start = Start(model=model, example=example, fresh=fresh, shortcuts=shortcuts)
    goal = Goal(
        method=method, budget=budget, price=price, granularity=granularity, settings=settings, loss=loss
    )
    return _Run(start, goal, fit_settings or FitSettings()).result(batches, checkpoint, resume=resume)


def check_budget(
    model: nn.Module,
    *,
    example: Inputs,
    method: str = "concurrent",
    budget: Budget | str | None = None,
    price: Price | float | str | None = None,
    shortcuts: bool = False,
    granularity: Granularity = "block",
) -> None:
    """Check, before long training, that `train` can do what is asked; all arguments are its own.

    Raises:
        ConfigError, BudgetError, UnitError: As `train`.
    """
    start = Start(model=model, example=example, shortcuts=shortcuts)
    goal = Goal(method=method, budget=budget, price=price, granularity=granularity)
    run = _Run(start, goal, FitSettings())
    pruner = run.pruner(run.student()[0], steps=1)
    if pruner is not None:
        pruner.close()


@dataclass(frozen=True)
class _Run:
    """A training run, from a network to the one that it ends with."""

    start: Start
    goal: Goal
    fitting: FitSettings

    def __post_init__(self) -> None:
        self.goal.check(self.start, self.fitting.mixed_precision)

    def result(self, batches: Iterable[Batch], checkpoint: Path | None, *, resume: bool) -> TrainingResult:
        """Return what the run comes to."""
        student, drawn = self.student()
        with together() as processes:
            steps = total_steps(check_batches(batches), self.fitting, processes.count)
        pruner = self.pruner(student, steps)
        if pruner is None:
            plan = Plan.removing(find_units(student, self.start.example), [], method=self.goal.method)
        report = self._fitted(student, batches, pruner, checkpoint, resume=resume)
        if pruner is not None:
            self._ask_at_the_end(pruner, batches)
            student, plan = pruner.finish(), pruner.plan()
        with seeded(student, self.fitting.seed):
            recalibrate_(student, batches)
        return TrainingResult(
            model=self._folded(student.eval()),
            plan=plan_with_shortcuts(plan, self.start.example) if self.start.shortcuts else plan,
            report=report,
            progress=None if pruner is None else pruner.progress(),
            trace=None if pruner is None else pruner.trace,
            drawn_without_a_rule=tuple(drawn),
        )

    def _ask_at_the_end(self, pruner: ConcurrentPruner, batches: Iterable[Batch]) -> None:
        try:
            with seeded(pruner.model, self.fitting.seed):
                pruner.worth(batches, most_batches=_asked_at_the_end(pruner))
        except DataError as error:
            # No reason to lose what was trained.
            warnings.warn(f"what is left was not asked what it is worth: {error}", ShoalWarning, stacklevel=2)

    def student(self) -> tuple[nn.Module, list[str]]:
        """Return the network to train, and the parameters that were drawn without a rule."""
        start, drawn, student = self.start, list[str](), copy.deepcopy(self.start.model)
        if start.fresh:
            with seeded(student, self.fitting.seed):
                drawn = randomise_(student)
        if start.shortcuts:
            student = gated_copy(student, start.example, seed=self.fitting.seed)
        return student, drawn

    def pruner(self, student: nn.Module, steps: int) -> ConcurrentPruner | None:
        """Return what takes units out of it; None where none shall go."""
        goal, budget = self.goal, self.budget
        if goal.method != "concurrent":
            return None
        if self.start.shortcuts and budget is not None:
            budget = absolute(budget, self.start.model, self.start.example)
        try:
            return ConcurrentPruner(
                student,
                self.start.example,
                steps=steps,
                budget=budget,
                price=goal.price,
                loss=goal.loss,
                settings=goal.settings,
                granularity=goal.granularity,
            )
        except BudgetError as error:
            if self.budget is None or budget == self.budget:
                raise
            raise refusal(self.budget, self.start.model, student, self.start.example) from error

    @property
    def budget(self) -> Budget | None:
        """What may remain of the network that came in."""
        return None if self.goal.budget is None else Budget.parse(self.goal.budget)

    def _fitted(
        self,
        student: nn.Module,
        batches: Iterable[Batch],
        pruner: ConcurrentPruner | None,
        checkpoint: Path | None,
        *,
        resume: bool,
    ) -> FitReport:
        own = self.fitting.purpose
        named = own if isinstance(own, Mapping) else {"purpose": own}
        purpose = {**named, **self.goal.agreed(self.start)}
        try:
            return fit(
                student,
                batches,
                replace(self.fitting, purpose=purpose),
                objective=_objective(student, self.goal.loss),
                pruner=pruner,
                checkpoint=checkpoint,
                resume=resume,
            )
        except BaseException:
            if pruner is not None:
                pruner.close()
            raise

    def _folded(self, trained: nn.Module) -> nn.Module:
        start = self.start
        if not start.shortcuts:
            return trained
        folded = fold_shortcuts(trained)
        if self.budget is not None:
            check_folded(self.budget, start.model, folded, start.example)
        return folded


def _asked_at_the_end(pruner: ConcurrentPruner) -> int:
    """On how many batches: two at least, eight at most, and no more than a twentieth of training costs."""
    passes = 1 + len(pruner.gates.theta) / 2
    return max(2, min(8, int(3 * pruner.done / 20 / passes)))


def _objective(student: nn.Module, loss: Loss | None) -> Objective:
    causal = is_causal(student)

    def objective(model: nn.Module, inputs: Inputs, labels: Any) -> Tensor:
        mean = batch_loss(call(model, inputs), inputs, labels, loss=loss, causal=causal)
        if mean is None:
            raise DataError(
                "asked to train on batches from which no loss can be computed: pass (inputs, labels), a dict "
                "with labels, or loss=. Text alone gives a loss for causal language models only: a masked "
                "one needs labels in its batches."
            )
        return mean

    return objective
