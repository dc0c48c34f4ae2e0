"""Pruning in training as a callback of transformers' `Trainer`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Inputs
from shoal.errors import ConfigError, MissingExtraError
from shoal.measurement import Loss
from shoal.training.concurrent.callbacks import LoopPruning
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.units import Granularity, Unit

__all__ = ["TrainerPruning", "pruning_callback"]

STATE_NAME = "shoal_pruning.json"


def pruning_callback(
    model: nn.Module,
    example: Inputs,
    *,
    budget: Budget | str | None = None,
    price: Price | float | str | None = None,
    loss: Loss | None = None,
    settings: ConcurrentSettings | None = None,
    granularity: Granularity = "block",
    resume_from: str | Path | None = None,
) -> TrainerPruning:
    """Return a `TrainerCallback` that makes a network shallower while a `Trainer` trains it.

        callback = pruning_callback(model, example, budget="units=12")
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
        small = callback.finish()
        small.save_pretrained(folder)

    Each step of the optimiser is one of the pruner. Where gradients are accumulated, the gates are drawn once
    for every four batches of a step, and the last one tells what units are worth. How far it has come is in
    what is printed and in the trainer's `log_history` as `pruning/…`; trackers (`report_to`) are told before
    callbacks are.

    The trainer's own network, its checkpoints and what it saves at the end are without the weights of units
    that have left, but still say the old number of layers: what `finish` returns is the network to keep.

    Args:
        model: The very network that the trainer is given; its loss is seen where labels are among its
            arguments, or it is a language model.
        example: What its forward takes, for units and MACs.
        budget, price, loss, settings, granularity: As of `ConcurrentPruner`.
        resume_from: The checkpoint that the trainer will resume from, `train(resume_from_checkpoint=…)`; the
            callback has to be made before the trainer loads it, with a network of the full depth.

    Raises:
        ConfigError: If there is no pruning state in that checkpoint, or it is of another budget or other
            settings.
        BudgetError, UnitError: As `ConcurrentPruner`.
        MissingExtraError: If transformers is not installed.
    """
    try:
        base = import_module("transformers").TrainerCallback
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "transformers", extra="hf", purpose="for a callback of its Trainer"
        ) from error
    made = type("PruningCallback", (TrainerPruning, base), {})
    callback: TrainerPruning = made(
        model,
        example,
        budget=budget,
        price=price,
        loss=loss,
        settings=settings,
        granularity=granularity,
    )
    if resume_from is not None:
        callback.resume(model, _read(Path(resume_from)))
    return callback


class TrainerPruning(LoopPruning):
    """What a callback of `Trainer` does at its events; made by `pruning_callback`."""

    def __init__(self, model: nn.Module, example: Inputs, **choices: Any) -> None:
        super().__init__(example, **choices)
        self._model, self._given = model, example
        self._guard = model.register_load_state_dict_pre_hook(self._refuse_shallower)

    def resume(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Take up a state; the weights that are loaded next may be of the units that are left."""
        self._guard.remove()
        super().resume(model, state)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Optimizer, **others: Any
    ) -> None:
        """Gate the network.

        Raises:
            ConfigError: If the trainer has another network, or does what pruning does not go together with.
            BudgetError, UnitError: As `ConcurrentPruner`.
        """
        if model is not self._model:
            raise ConfigError(
                f"asked to prune in training: the trainer has another network ({type(model).__name__}) than "
                f"the callback ({type(self._model).__name__}). Give both the same one, and do not shard it."
            )
        self._guard.remove()
        faults = self.faults_of_slopes(accumulated=args.gradient_accumulation_steps, scaled=args.fp16)
        expected = args.gradient_checkpointing or any(
            getattr(module, "gradient_checkpointing", False) for module in model.modules()
        )
        unused = args.ddp_find_unused_parameters
        if args.world_size > 1 and (expected if unused is None else not unused):
            faults.append("gradients expected of all weights (ddp_find_unused_parameters=True goes with it)")
        _check(args, state, faults)
        known = self.pruner.done if self._resumed else 0
        if state.global_step != known:
            raise ConfigError(
                f"asked to train from step {state.global_step} on: the callback goes on from step {known}. "
                "Give the same checkpoint to train(resume_from_checkpoint=) and to the callback, as "
                "resume_from=, and make the network anew."
            )
        self.begin(model, state.max_steps, optimizer)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Learn what units are worth, and remove those that are not worth their price."""
        self.pruner.step()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any
    ) -> None:
        """Add how far pruning has come."""
        figures = self.figures()
        if logs is not None:
            logs.update(figures)
        if state.log_history:
            state.log_history[-1].update(figures)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write the pruner's state into the checkpoint."""
        if args.should_save:
            _write(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.pruner.state_dict())

    def _refuse_shallower(self, model: nn.Module, weights: Mapping[str, Any], *others: Any) -> None:
        """Say what works where weights without some units are loaded; a shard lacks others as well."""
        missing = {name for name, _ in model.named_parameters() if name not in weights}
        if not missing:
            return
        of = {unit.index: _names(model, unit) for unit in find_units(model, self._given)}
        gone = [index for index, names in of.items() if names and names <= missing]
        if gone and missing == set().union(*(of[index] for index in gone)):
            raise ConfigError(
                f"asked to load weights without units {gone}, of a checkpoint in which they had left. Make "
                "the callback with resume_from= that checkpoint, with a network of the full depth."
            )


def _names(model: nn.Module, unit: Unit) -> set[str]:
    """The parameters of a unit."""
    parts = tuple(f"{path}." for path in unit.modules)
    return {name for name, _ in model.named_parameters() if name.startswith(parts)}


def _check(args: Any, state: Any, faults: list[str]) -> None:
    """Refuse these faults, and whatever else would go wrong."""
    wrong = {
        "load_best_model_at_end": "earlier weights are of a deeper network",
        "torch_compile": "every draw of the gates would compile it anew",
        "deepspeed": "units leave the network while it is trained",
        "fsdp": "units leave the network while it is trained",
    }
    found = faults + [
        f"{name}={getattr(args, name)!r} ({why})" for name, why in wrong.items() if getattr(args, name, 0)
    ]
    if args.n_gpu > 1:
        found.append(f"{args.n_gpu} GPUs in one process (start one process a GPU)")
    if state.is_hyper_param_search:
        found.append("a search of hyper-parameters (every trial needs a network and a callback of its own)")
    if found:
        raise ConfigError(f"asked to prune in training with {', '.join(found)}: it works without.")


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    path = folder / STATE_NAME
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**state, "generator": state["generator"].tolist()}), encoding="utf-8")
    partial.replace(path)


def _read(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"asked to resume pruning from {folder}: {STATE_NAME} cannot be read there ({error}). A folder "
            "checkpoint-… that a trainer with this callback wrote works."
        ) from error
    return {**state, "generator": torch.tensor(state["generator"], dtype=torch.uint8)}
