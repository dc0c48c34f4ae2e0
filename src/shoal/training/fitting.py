"""A plain training loop: seeded, resumable, on Accelerate for precision and scaling.

Started by `accelerate launch` or torchrun, processes share the batches: a step takes one batch of each, and
the mean of their gradients.

The last step is what comes out, never the best epoch by some test score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from shoal.calling import (
    Batch,
    check_batches,
    device_of,
    evaluating,
    random_state,
    restore_random_state,
    split_batch,
    to_device,
)
from shoal.errors import DataError
from shoal.processes import Processes, together
from shoal.progress import task
from shoal.training.accelerating import accelerating
from shoal.training.batchnorm import single_values_explained
from shoal.training.checkpoint import EpochReport, TrainingState, load_state_, save_state
from shoal.training.optimisation import FitSettings, learning_rate, make_optimizer
from shoal.training.protocols import Objective, Pruner
from shoal.training.sharing import own_batches, share_gradients_, share_statistics_, total_steps
from shoal.training.stopping import stoppable

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["FitReport", "fit"]

# Seconds after which one process saves, whatever the steps; longer where writing takes long.
_SAVED_EVERY, _WRITES = 60.0, 20


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How a run went.

    Attributes:
        steps: Steps done, those before a resumption included.
        epochs: Loss, steps and seconds of every epoch.
        resumed_at: The step that a checkpoint brought back; 0 for a run from the start.
    """

    steps: int
    epochs: tuple[EpochReport, ...] = field(default=())
    resumed_at: int = 0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: FitSettings,
    *,
    objective: Objective,
    pruner: Pruner | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> FitReport:
    """Train `model` in place on the device where it is, and return how it went.

    A resumed run ends with the very weights of one that was never interrupted, on a CPU bit for bit,
    if the batches come in the same order again. That order is the caller's: a list, or a
    `DataLoader`, whose shuffling follows torch's random state (one with a generator of its own does
    not, and has to be made anew).

    Args:
        model: Its parameters that require gradients are trained; training mode, config and random
            state are restored at the end.
        batches: Gone through once an epoch, in their own order.
        settings: How to train.
        objective: The loss of one batch.
        pruner: Takes units out of the network between gradients and step.
        checkpoint: A file for the state of the run, written every so many steps, in one process every
            minute too, at the end, and when Ctrl-C stops the run.
        resume: Whether to go on from that file if there is one; otherwise it is overwritten.

    Raises:
        DataError: If there are no batches, fewer than processes, or a loss or gradient is not finite.
        ConfigError: If nothing is trainable, the checkpoint does not fit, or the precision is not
            supported.
        MissingExtraError: If Accelerate is not installed.
        KeyboardInterrupt: By Ctrl-C; with a checkpoint and in one process after the step in progress, saved.

    Example:
        >>> net, batches = nn.Linear(4, 2), [(torch.randn(8, 4), torch.randn(8, 2))]
        >>> mean = lambda model, inputs, labels: (model(inputs) - labels).square().mean()
        >>> fit(net, batches, FitSettings(epochs=2), objective=mean).steps
        2
    """
    optimizer = make_optimizer(model, settings)
    with (
        together() as processes,
        accelerating(device_of(model), settings) as accelerator,
        evaluating(model, train=True),
    ):
        processes.check_same(model)
        total = total_steps(check_batches(batches), settings, processes.count)
        run = _Run(
            model=model,
            settings=settings,
            objective=objective,
            optimizer=optimizer,
            accelerator=accelerator,
            pruner=pruner,
            processes=processes,
            checkpoint=checkpoint,
            total=total,
        )
        run.start(resume=resume)
        return run.finish(batches)


@dataclass(kw_only=True)
class _Run:
    """One training run: what `fit` was given, and how far it has come."""

    model: nn.Module
    settings: FitSettings
    objective: Objective
    optimizer: Optimizer
    accelerator: Accelerator
    pruner: Pruner | None
    processes: Processes
    checkpoint: Path | None
    total: int
    state: TrainingState = field(default_factory=TrainingState)
    resumed_at: int = 0

    def __post_init__(self) -> None:
        self.device = device_of(self.model)
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer)
        self.loss = math.nan
        self.alone = self.processes.count == 1
        self.saved, self.patience = time.monotonic(), _SAVED_EVERY
        self.stopping: Callable[[], bool] = lambda: False
        if self.pruner is not None:
            self.pruner.attach(self.optimizer)

    def start(self, *, resume: bool) -> None:
        """Seed, or take up the state of the checkpoint."""
        torch.default_generator.manual_seed(self.settings.seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(self.settings.seed)
        if resume and self.checkpoint is not None and self.checkpoint.exists():
            self.state = load_state_(
                self.checkpoint, self.model, self.optimizer, self._agreed(), before=self._take_up
            )
            self.resumed_at = self.state.step
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(self.state.scaler)

    def finish(self, batches: Iterable[Batch]) -> FitReport:
        """Do all steps that are left."""
        kept = self.alone and self.checkpoint is not None
        with task(self._told, self.total) as advance, stoppable(wanted=kept) as self.stopping:
            advance(self.state.step)
            while self.state.step < self.total:
                self._epoch(batches, advance)
            self._keep(now=True)
        return FitReport(steps=self.state.step, epochs=tuple(self.state.history), resumed_at=self.resumed_at)

    def _epoch(self, batches: Iterable[Batch], advance: Callable[[int], None]) -> None:
        state = self.state
        begun = time.perf_counter()
        for batch in self._remaining(batches):
            state.loss_sum += self._step(batch)
            begun, before = time.perf_counter(), begun
            state.seconds += begun - before
            state.step += 1
            state.batch += 1
            advance(1)
            if state.step == self.total:
                break
            self._keep(now=state.step % self.settings.checkpoint_every == 0)
        if state.batch == 0:
            raise DataError("asked to train: the batches were there once and are empty now. Pass a list.")
        report = EpochReport(
            epoch=state.epoch,
            loss=state.loss_sum / state.batch,
            steps=state.batch,
            seconds=state.seconds,
        )
        self.state = TrainingState(step=state.step, epoch=state.epoch + 1, history=[*state.history, report])

    def _remaining(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of this epoch that are not done, in the order of an unbroken run."""
        state = self.state
        if state.batch == 0:
            # Processes draw one order, whatever they have drawn before.
            state.epoch_random = self.processes.exchange(random_state(self.device))[0]
            restore_random_state(state.epoch_random, self.device)
            yield from own_batches(iter(batches), self.processes)
            return
        now = random_state(self.device)
        restore_random_state(state.epoch_random, self.device)
        iterator = iter(batches)
        for _ in range(state.batch * self.processes.count):
            next(iterator, None)
        restore_random_state(now, self.device)
        yield from own_batches(iterator, self.processes)

    def _step(self, batch: Batch) -> float:
        state, settings = self.state, self.settings
        rate = learning_rate(state.step, self.total, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, labels = to_device(split_batch(batch), self.device)
        place = f"train on batch {state.batch} of epoch {state.epoch} (from 0)"
        with self.accelerator.autocast(), single_values_explained(place):
            loss = self.objective(self.model, inputs, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(self._not_finite("loss", value, rate))
        self.accelerator.backward(loss)
        share_gradients_(self._trained(), self.processes)
        self.loss = value
        if self.pruner is not None:
            self.pruner.step(batch)
        if settings.clip is not None:
            norm = float(self.accelerator.clip_grad_norm_(self._trained(), settings.clip))
            # With fp16 an overflow is expected now and then, and the scaler skips that step.
            if not math.isfinite(norm) and settings.mixed_precision != "fp16":
                raise DataError(self._not_finite("norm of the gradient", norm, rate))
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        return value

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _take_up(self, state: TrainingState) -> None:
        if self.pruner is not None:
            self.pruner.load_state_dict(state.pruning)

    def _told(self) -> str:
        loss = "" if math.isnan(self.loss) else f", loss {self.loss:.3g}"
        return f"training{loss}{'' if self.pruner is None else f', {self.pruner.status()}'}"

    def _not_finite(self, what: str, value: float, rate: float) -> str:
        return (
            f"asked to train: at step {self.state.step} (from 0; batch {self.state.batch} of epoch "
            f"{self.state.epoch}) the {what} is {value} with learning rate {rate:.3g}. A lower lr, such as "
            f"{self.settings.lr / 10:.3g}, may work; look for NaN or infinity in that batch too."
        )

    def _agreed(self) -> dict[str, Any]:
        return self.settings.agreed() | {"total": self.total, "processes": self.processes.count}

    def _keep(self, *, now: bool) -> None:
        """Save where it is time to, and stop where that was asked for."""
        # Several processes save together, and have clocks of their own.
        late = self.alone and time.monotonic() - self.saved >= self.patience
        stopping = self.stopping()
        if now or late or stopping:
            self._save()
            # It may have been pressed meanwhile.
            stopping = self.stopping()
        if stopping:
            raise KeyboardInterrupt(
                f"stopped after step {self.state.step:,} of {self.total:,}; --resume (in Python resume=True) "
                "goes on from there"
            )

    def _save(self) -> None:
        begun = time.monotonic()
        share_statistics_(self.model, self.processes)
        if self.checkpoint is not None and self.processes.number == 0:
            if self.accelerator.scaler is not None:
                self.state.scaler = self.accelerator.scaler.state_dict()
            if self.pruner is not None:
                self.state.pruning = self.pruner.state_dict()
            save_state(self.checkpoint, self.model, self.optimizer, self.state, self._agreed())
        self.saved = time.monotonic()
        self.patience = max(_SAVED_EVERY, _WRITES * (self.saved - begun))
