"""Whole training runs, from given or fresh weights, that may end with a shallower network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shoal.architectures import find_units
from shoal.architectures.initialisation import randomise_, seeded
from shoal.budget import Budget
from shoal.calling import Batch, Inputs, call, check_batches
from shoal.errors import ConfigError, DataError
from shoal.journal import fingerprint
from shoal.measurement import Loss, batch_loss, is_causal
from shoal.plan import Plan
from shoal.processes import together
from shoal.training.batchnorm import recalibrate_
from shoal.training.concurrent.pruner import ConcurrentPruner, PruningProgress
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.training.fitting import FitReport, Objective, fit, total_steps
from shoal.training.optimisation import FitSettings

__all__ = ["METHODS", "TrainingResult", "train"]

METHODS = {
    "concurrent": "a gate on every unit, which ends open or takes its unit out while the network is trained",
    "dense": "control: the whole network, trained in the same way",
}
"""How networks may be trained, with a line of help each."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training run has come to.

    Attributes:
        model: The trained network, without what was removed; in evaluation mode.
        plan: What was removed.
        report: How the run went.
        progress: Where pruning ended; None where nothing was pruned.
        drawn_without_a_rule: With fresh weights: parameters for which the network has no rule, drawn with
            the mean and deviation that they had.
    """

    model: nn.Module
    plan: Plan
    report: FitReport
    progress: PruningProgress | None
    drawn_without_a_rule: tuple[str, ...] = ()


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    example: Inputs,
    method: str = "concurrent",
    budget: Budget | str | None = None,
    price: float | None = None,
    fit_settings: FitSettings | None = None,
    settings: ConcurrentSettings | None = None,
    fresh: bool = False,
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
        budget: What may remain, such as `macs=0.5`.
        price: In place of a budget: the mean loss that all of the network's MACs are worth.
        fit_settings: How to train.
        settings: How gates are trained.
        fresh: Whether training begins with fresh random weights.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        checkpoint: A file for the state of the run.
        resume: Whether to go on from that file if there is one.

    Raises:
        ConfigError: If the method is unknown, options do not go together, or the checkpoint does not fit.
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
    fit_settings = fit_settings or FitSettings()
    _check(method, budget, price, settings, fit_settings.mixed_precision)
    student = copy.deepcopy(model)
    drawn: list[str] = []
    if fresh:
        with seeded(student, fit_settings.seed):
            drawn = randomise_(student)
    pruner = None
    if method == "concurrent":
        with together() as processes:
            steps = total_steps(check_batches(batches), fit_settings, processes.count)
        pruner = ConcurrentPruner(
            student, example, steps=steps, budget=budget, price=price, loss=loss, settings=settings
        )
    purpose = fingerprint("train", method, str(budget), price, fresh, fit_settings.purpose)
    try:
        report = fit(
            student,
            batches,
            replace(fit_settings, purpose=purpose),
            objective=_objective(student, loss),
            pruner=pruner,
            checkpoint=checkpoint,
            resume=resume,
        )
    except BaseException:
        if pruner is not None:
            pruner.close()
        raise
    trained = student if pruner is None else pruner.finish()
    with seeded(trained, fit_settings.seed):
        recalibrate_(trained, batches)
    return TrainingResult(
        model=trained.eval(),
        plan=_plan(model, example, pruner),
        report=report,
        progress=None if pruner is None else pruner.progress(),
        drawn_without_a_rule=tuple(drawn),
    )


def _plan(model: nn.Module, example: Inputs, pruner: ConcurrentPruner | None) -> Plan:
    if pruner is not None:
        return pruner.plan()
    return Plan.removing(find_units(model, example), [], method="dense")


def _objective(student: nn.Module, loss: Loss | None) -> Objective:
    causal = is_causal(student)

    def objective(model: nn.Module, inputs: Inputs, labels: Any) -> Tensor:
        mean = batch_loss(call(model, inputs), inputs, labels, loss=loss, causal=causal)
        if mean is None:
            raise DataError(
                "asked to train on batches from which no loss can be computed: pass (inputs, labels), text "
                "for a language model, or loss=."
            )
        return mean

    return objective


def _check(
    method: str,
    budget: Budget | str | None,
    price: float | None,
    settings: ConcurrentSettings | None,
    precision: str,
) -> None:
    if method not in METHODS:
        near = get_close_matches(method, METHODS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"asked to train by the method {method!r}: {', '.join(METHODS)} work; the nearest is {near!r}."
        )
    if settings is not None and settings.estimator == "slope" and precision == "fp16":
        raise ConfigError(
            "asked to read gains off gradients (estimator=slope) in fp16, where losses are scaled: flip "
            "works, and mixed_precision bf16 or no."
        )
    given = {"budget": budget, "price": price, "settings of gates": settings}
    if method == "dense" and (idle := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"asked for {', '.join(idle)} with the method dense, which removes nothing.")
