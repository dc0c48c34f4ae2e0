"""Pruning in training as a callback of Lightning's `Trainer`, of `lightning` or `pytorch_lightning`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.optim import Optimizer

from shoal.budget import Budget
from shoal.calling import Inputs
from shoal.errors import ConfigError
from shoal.measurement import Loss
from shoal.training.concurrent.callbacks import LoopPruning
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.units import Granularity

__all__ = ["LightningPruning", "lightning_pruning_callback"]

_LIBRARIES = ("lightning.pytorch", "pytorch_lightning")


def lightning_pruning_callback(
    example: Inputs,
    *,
    network: str = "",
    budget: Budget | str | None = None,
    price: Price | float | str | None = None,
    loss: Loss | None = None,
    settings: ConcurrentSettings | None = None,
    granularity: Granularity = "block",
) -> LightningPruning:
    """Return a Lightning `Callback` that makes a network shallower while Lightning trains it.

        callback = lightning_pruning_callback(example, network="net", budget="macs=0.5")
        Trainer(max_epochs=10, callbacks=[callback]).fit(module, loader)
        small = callback.finish()

    Each step of the optimiser is one of the pruner, on the batch that came last. How far it has come is
    logged as `pruning/…`. `fit(module, loader, ckpt_path=…)` goes on where a checkpoint of a run with this
    callback ended, with a new callback and a module whose network has its full depth.

    Args:
        example: What the network's forward takes, for units and MACs.
        network: Where the network is in the module, such as `net`; the module itself where it is empty.
        budget, price, loss, settings, granularity: As of `ConcurrentPruner`.

    Raises:
        ConfigError: If neither `lightning` nor `pytorch_lightning` is installed.
    """
    made = type("PruningCallback", (LightningPruning, *_bases()), {})
    callback: LightningPruning = made(
        example,
        network=network,
        budget=budget,
        price=price,
        loss=loss,
        settings=settings,
        granularity=granularity,
    )
    return callback


class LightningPruning(LoopPruning):
    """What a Lightning callback does at its events; made by `lightning_pruning_callback`."""

    def __init__(self, example: Inputs, *, network: str, **choices: Any) -> None:
        super().__init__(example, **choices)
        self._path = network
        self._batch: Any = None

    @property
    def state_key(self) -> str:
        """Under which name Lightning keeps the state in its checkpoints."""
        return "shoal.pruning"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See to it that units that had left do so before Lightning loads the weights of a checkpoint.

        Raises:
            ConfigError: If the strategy shards the network, or expects gradients of all weights; if gains are
                to be read off gradients that are scaled; or the module has no such network.
        """
        if stage != "fit":
            return
        self._check(trainer)
        self._network(pl_module)
        load = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._resume_from(pl_module, checkpoint)
            load(checkpoint)

        # Lightning loads weights first, then what callbacks saved; only the module's own hook is before both.
        vars(pl_module)["on_load_checkpoint"] = on_load_checkpoint

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Gate the network.

        Raises:
            ConfigError: If there is more than one optimiser, or no end to training.
            BudgetError, UnitError: As `ConcurrentPruner`.
        """
        vars(pl_module).pop("on_load_checkpoint", None)
        steps = trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ConfigError(
                f"asked to prune in a training of {steps} steps: a known number works, with max_epochs or "
                "max_steps of the trainer."
            )
        if len(trainer.optimizers) != 1:
            raise ConfigError(
                f"asked to prune in a training with {len(trainer.optimizers)} optimisers: one works. Call "
                "ConcurrentPruner in the training step instead."
            )
        self.begin(self._network(pl_module), int(steps), trainer.optimizers[0])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the batch, from which what units are worth is learnt."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Learn what units are worth, and remove those that are not worth their price."""
        self.pruner.step(self._batch)
        self._batch = None
        pl_module.log_dict(self.figures())

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning writes into its checkpoints."""
        return {} if self._pruner is None else self._pruner.state_dict()

    def _check(self, trainer: Any) -> None:
        strategy = trainer.strategy
        asked = f"asked to prune in training with {type(strategy).__name__}"
        if strategy.restore_checkpoint_after_setup:
            raise ConfigError(
                f"{asked}: it shards the network, and units leave that while it is trained. strategy='auto' "
                "on one device works."
            )
        unused = getattr(strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        if trainer.world_size > 1 and not unused:
            raise ConfigError(
                f"{asked}: it expects gradients of all weights, and units that are shut have none. "
                "strategy='ddp_find_unused_parameters_true' works."
            )
        scaled = trainer.precision == "16-mixed"
        if faults := self.faults_of_slopes(accumulated=trainer.accumulate_grad_batches, scaled=scaled):
            raise ConfigError(f"asked to prune in training with {', '.join(faults)}: it works without.")

    def _resume_from(self, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if not state:
            raise ConfigError(
                "asked to resume pruning from a checkpoint: it has no state of this callback. One that a "
                "trainer with it wrote works, unless only weights were saved."
            )
        self.resume(self._network(pl_module), state)

    def _network(self, pl_module: nn.Module) -> nn.Module:
        try:
            return pl_module.get_submodule(self._path)
        except AttributeError as error:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ConfigError(
                f"asked to prune {self._path!r} of {type(pl_module).__name__}: there is none; it has {names}."
            ) from error


def _bases() -> tuple[type, ...]:
    """The classes that the libraries in use expect callbacks to be of: of both, where both are imported."""
    used = [name for name in _LIBRARIES if name in sys.modules]
    installed = used or [name for name in _LIBRARIES if find_spec(name.partition(".")[0]) is not None][:1]
    if not installed:
        raise ConfigError(
            "asked for a callback of Lightning's Trainer: neither lightning nor pytorch_lightning is "
            "installed. `pip install lightning` works."
        )
    return tuple(import_module(name).Callback for name in installed)
