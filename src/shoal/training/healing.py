"""Healing: what a network does after surgery to get back what it lost.

Batch norms are recalibrated; then the network is trained for a short while on the task, on what a
teacher says, or both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shoal.calling import Batch, Inputs, call, check_batches, evaluating
from shoal.errors import ConfigError, DataError
from shoal.measurement import Loss, is_causal, sample_losses
from shoal.plan import Plan
from shoal.training.batchnorm import recalibrate_
from shoal.training.distillation import feature_gap, hidden_states, output_gap
from shoal.training.fitting import fit
from shoal.training.optimisation import FitSettings

__all__ = ["HealSettings", "heal"]


@dataclass(frozen=True, kw_only=True)
class HealSettings:
    """How a network is healed.

    Attributes:
        epochs: How often the batches are gone through; 0 recalibrates only.
        max_steps: Steps after which to stop; None for whole epochs. Overrides `epochs`.
        lr: Highest learning rate; None takes 1e-4 for language models and 1e-3 for others with
            `adamw`, 1e-2 with `sgd`.
        optimizer: `adamw` or `sgd`.
        weight_decay: Of weights.
        warmup: Share of the steps in which the learning rate rises.
        clip: Largest norm of the gradient; None leaves it as it is.
        distil: Weight of the teacher's outputs, from 0 to 1; the task has the rest. Of no effect
            without a teacher.
        temperature: Of the teacher's and the student's outputs.
        features: Weight of the match of the kept units' outputs, beside both; needs a teacher and
            a plan.
        recalibrate_batches: Batches for the statistics of batch norms, before training; 0 for none.
        mixed_precision: `no`, `bf16`, or `fp16` on a GPU.
        checkpoint_every: Steps between two checkpoints.
        seed: Seeds torch for the run; the state outside is restored after it.
    """

    epochs: int = 3
    max_steps: int | None = None
    lr: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float | None = 1.0
    distil: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    recalibrate_batches: int = 100
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            (not 0 <= self.distil <= 1, f"distil={self.distil}: a weight from 0 to 1 works"),
            (not self.temperature > 0, f"temperature={self.temperature}: a number above 0 works"),
            (not self.features >= 0, f"features={self.features}: 0 or more works"),
            (
                self.recalibrate_batches < 0,
                f"recalibrate_batches={self.recalibrate_batches}: 0 or more works",
            ),
        ]
        found = [fault for wrong, fault in faults if wrong]
        if found:
            raise ConfigError(f"asked to heal with {'; '.join(found)}.")
        self.fit_settings(language=False)

    def fit_settings(self, *, language: bool) -> FitSettings:
        """Return the settings of the training run.

        Raises:
            ConfigError: If a value is impossible.
        """
        usual = 1e-2 if self.optimizer == "sgd" else 1e-4 if language else 1e-3
        names = FitSettings.__dataclass_fields__.keys() & asdict(self).keys()
        shared = {name: getattr(self, name) for name in names}
        others = {name: value for name, value in asdict(self).items() if name not in names}
        shared["lr"] = usual if self.lr is None else self.lr
        return FitSettings(**shared, purpose=others)


def heal(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    teacher: nn.Module | None = None,
    plan: Plan | None = None,
    settings: HealSettings | None = None,
    loss: Loss | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> nn.Module:
    """Return a healed copy of a network: recalibrated, then trained for a short while.

    The loss of a batch is `(1 - distil) · task + distil · gap to the teacher's outputs + features ·
    gap to the teacher's kept units`; without a teacher the task alone, without labels the teacher
    alone.

    Args:
        model: The network after surgery; stays untouched.
        batches: `(inputs, labels)` for classifiers, `{"input_ids": …}` for language models, in the
            order of training; inputs alone are enough with a teacher.
        teacher: The network before surgery, on the same device; stays untouched.
        plan: The plan between the two, which says what unit of one is what unit of the other.
        settings: How to heal.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        checkpoint: A file for the state of the run.
        resume: Whether to go on from that file if there is one.

    Raises:
        DataError: If there are no batches, nothing to compute a loss from, or a loss is not finite.
        ConfigError: If unit outputs are to be matched without a teacher and a plan, or the
            checkpoint does not fit.
        MissingExtraError: If Accelerate is not installed.
    """
    settings = settings or HealSettings()
    if settings.features > 0 and (teacher is None or plan is None):
        raise ConfigError(
            f"asked to match unit outputs (features={settings.features}) without a "
            f"{'teacher' if teacher is None else 'plan'}: pass both `teacher` and `plan`."
        )
    student = copy.deepcopy(model)
    # Looking into a loader that shuffles moves torch's random state on.
    with torch.random.fork_rng(devices=[]):
        check_batches(batches)
    if settings.recalibrate_batches:
        recalibrate_(student, batches, most_batches=settings.recalibrate_batches)
    steps = settings.fit_settings(language=bool(is_causal(model)))
    if steps.epochs == 0 and steps.max_steps is None:
        return student
    with ExitStack() as stack:
        objective = _Objective(
            student=student,
            teacher=None if teacher is None else stack.enter_context(evaluating(teacher)),
            settings=settings,
            loss=loss,
            matched=_matched(plan) if settings.features > 0 and plan is not None else {},
        )
        objective.watch(stack)
        fit(student, batches, steps, objective=objective, checkpoint=checkpoint, resume=resume)
    return student


@dataclass(kw_only=True)
class _Objective:
    """The loss of one batch, from the labels and from the teacher."""

    student: nn.Module
    teacher: nn.Module | None
    settings: HealSettings
    loss: Loss | None
    matched: Mapping[str, str]
    mine: Mapping[str, Tensor] = field(default_factory=dict)
    theirs: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.causal = is_causal(self.student)

    def watch(self, stack: ExitStack) -> None:
        """Collect the outputs of the matched units until the stack is closed."""
        if self.matched and self.teacher is not None:
            self.mine = stack.enter_context(hidden_states(self.student, self.matched.values()))
            self.theirs = stack.enter_context(hidden_states(self.teacher, self.matched))

    def __call__(self, model: nn.Module, inputs: Inputs, labels: Any) -> Tensor:
        outputs = call(model, inputs)
        distil = self.settings.distil if self.teacher is not None else 0.0
        task = self._task(outputs, inputs, labels) if distil < 1 else None
        if task is None and self.teacher is None:
            raise DataError(
                f"asked to heal on outputs of type {type(outputs).__name__} "
                f"{'without' if labels is None else 'with'} labels: there is nothing to compute a loss "
                "from. Labels, input_ids for a causal language model, `loss` or a `teacher` work."
            )
        if self.teacher is None:
            return task  # type: ignore[return-value]
        return self._with_teacher(self.teacher, task, outputs, inputs, labels)

    def _task(self, outputs: Any, inputs: Inputs, labels: Any) -> Tensor | None:
        if self.loss is not None and labels is None:
            return None
        losses = sample_losses(outputs, inputs, labels, loss=self.loss, causal=self.causal)
        return None if losses is None else losses.mean()

    def _with_teacher(
        self, teacher: nn.Module, task: Tensor | None, outputs: Any, inputs: Inputs, labels: Any
    ) -> Tensor:
        settings = self.settings
        with torch.no_grad():
            taught = call(teacher, inputs)
        weight = settings.distil if task is not None else 1.0
        total = torch.zeros((), device=next(self.student.parameters()).device)
        if task is not None and weight < 1:
            total = total + (1 - weight) * task
        if weight > 0:
            gap = output_gap(
                outputs, taught, inputs, labels, temperature=settings.temperature, causal=self.causal
            )
            total = total + weight * gap
        if self.matched:
            total = total + settings.features * feature_gap(self.mine, self.theirs, self.matched)
        return total


def _matched(plan: Plan) -> dict[str, str]:
    """Return the last module of every kept unit in the teacher → the same in the student."""
    return {_last_module(old): _last_module(new) for old, new in plan.surviving_names.items()}


def _last_module(unit: str) -> str:
    container, dot, key = unit.rpartition(".")
    first, colon, stop = key.partition(":")
    return f"{container}{dot}{int(stop) - 1 if colon else first}"
