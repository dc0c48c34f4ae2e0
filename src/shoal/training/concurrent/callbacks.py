"""What callbacks in other libraries' training loops have in common: a pruner that begins once the loop says
how many steps it has, or goes on from where a checkpoint left it.

Checkpoints hold the network without the units that have left, and so the network that is resumed has to
lose them before its weights and its optimiser are loaded: `resume` comes before both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from shoal.budget import Budget
from shoal.calling import Inputs
from shoal.errors import ConfigError
from shoal.measurement import Loss
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.units import Granularity

__all__ = ["LoopPruning"]


class LoopPruning:
    """Pruning in one training run whose loop belongs to somebody else.

    Args:
        example, budget, price, loss, settings, granularity: As of `ConcurrentPruner`.
    """

    def __init__(
        self,
        example: Inputs,
        *,
        budget: Budget | str | None,
        price: Price | float | str | None,
        loss: Loss | None,
        settings: ConcurrentSettings | None,
        granularity: Granularity,
    ) -> None:
        self._example = example
        self._budget, self._price = budget, price
        self._loss, self._settings, self._granularity = loss, settings, granularity
        self._pruner: ConcurrentPruner | None = None
        self._resumed = False

    @property
    def pruner(self) -> ConcurrentPruner:
        """What prunes.

        Raises:
            ConfigError: If training has not begun.
        """
        if self._pruner is None:
            raise ConfigError(
                "asked what pruning in training has come to: training has not begun. Train with this "
                "callback first."
            )
        return self._pruner

    def finish(self) -> nn.Module:
        """Return the new, ordinary network that training has come to; see `ConcurrentPruner.finish`.

        Raises:
            ConfigError: If training has not begun.
            SurgeryError, UnitError: As `shoal.apply`.
        """
        return self.pruner.finish()

    def faults_of_slopes(self, *, accumulated: int, scaled: bool) -> list[str]:
        """Return in words why gains cannot be read off the gradients of a loop; nothing where they can, or
        are not.

        Args:
            accumulated: Batches whose gradients make a step.
            scaled: Whether losses are scaled, as float16 needs it.
        """
        if self._settings is None or self._settings.estimator != "slope":
            return []
        faults = ["losses that are scaled"] if scaled else []
        faults += [f"{accumulated} batches a step, which divide losses"] if accumulated > 1 else []
        return [f"estimator='slope' and {fault} ('flip' goes with that)" for fault in faults]

    def begin(self, model: nn.Module, steps: int, optimizer: Optimizer) -> None:
        """Begin to prune, or go on with what was resumed.

        Args:
            model: The network that is trained.
            steps: How many steps the whole run has, those before a resumption included.
            optimizer: Loses the weights of units that leave.

        Raises:
            ConfigError: If it is a second run, or has other steps than the one that is resumed.
            BudgetError, UnitError: As `ConcurrentPruner`.
        """
        if self._pruner is None:
            self._pruner = self._made(model, steps, optimizer)
            return
        if not self._resumed:
            raise ConfigError(
                "asked to prune in a second training run with one callback: it has pruned in one already. "
                "Make the network and the callback anew."
            )
        if self._pruner.steps != steps:
            raise ConfigError(
                f"asked to resume pruning in a training of {steps} steps: the checkpoint is of one of "
                f"{self._pruner.steps}. Resume with as many."
            )
        self._resumed = False
        self._pruner.attach(optimizer)

    def resume(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Take up what `ConcurrentPruner.state_dict` returned; units that had left then leave the network.

        Raises:
            ConfigError: If a run has begun already, or the state is of another budget or other settings.
        """
        if self._pruner is not None:
            raise ConfigError(
                "asked to resume pruning with a callback that has pruned already. Make the network and the "
                "callback anew."
            )
        pruner = self._made(model, int(state["agreed"]["steps"]), None)
        try:
            pruner.load_state_dict(state)
        except ConfigError:
            pruner.close()
            raise
        self._pruner, self._resumed = pruner, True

    def figures(self) -> dict[str, float]:
        """Return how far the run has come, for logs; nothing before it has begun."""
        if self._pruner is None:
            return {}
        progress = self._pruner.progress()
        return {
            "pruning/units": float(progress.units),
            "pruning/price": progress.price,
            "pruning/remaining": progress.remaining,
            "pruning/compute_saved": progress.saved,
        }

    def _made(self, model: nn.Module, steps: int, optimizer: Optimizer | None) -> ConcurrentPruner:
        return ConcurrentPruner(
            model,
            self._example,
            steps=steps,
            budget=self._budget,
            price=self._price,
            optimizer=optimizer,
            loss=self._loss,
            settings=self._settings,
            granularity=self._granularity,
        )
