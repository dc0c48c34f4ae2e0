"""The state of a training run in one safetensors file: weights, optimiser, random state, progress.

Tensors are stored under `model.…`, `optimizer.…` and `random.…`; everything else is JSON in the
file's header. A file is written beside its name and renamed when it is complete; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from shoal.calling import random_state, restore_random_state
from shoal.errors import ConfigError

__all__ = [
    "EpochReport",
    "TrainingState",
    "load_state_",
    "save_state",
]

VERSION = "5"
_WORDS = {"total": "steps in all"}
_SIZES = "As many epochs have other steps with another batch size or number of samples. "


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """How one epoch went.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean loss over its steps.
        steps: Steps in it; fewer than there are batches where the run ended within it.
        seconds: Wall-clock seconds.
    """

    epoch: int
    loss: float
    steps: int
    seconds: float


@dataclass(kw_only=True)
class TrainingState:
    """How far a run has come.

    Attributes:
        step: Steps done.
        epoch: The epoch in progress, from 0.
        batch: Batches done of it.
        loss_sum: Sum of the losses of those.
        seconds: Seconds spent on those.
        history: The epochs that are complete.
        epoch_random: Random state at the start of the epoch, from which the order of its batches
            follows where a loader shuffles.
        scaler: State of the scaler of gradients in half precision.
        pruning: What a pruner has to remember, as JSON values and tensors.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[EpochReport] = field(default_factory=list)
    epoch_random: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] = field(default_factory=dict)


def save_state(
    path: Path, model: nn.Module, optimizer: Optimizer, state: TrainingState, settings: Mapping[str, Any]
) -> None:
    """Write all that a resumed run needs to go on as if it had never stopped.

    Args:
        path: The file; replaced as a whole.
        model: The network in training.
        optimizer: Its optimiser.
        state: How far the run has come.
        settings: JSON values that a resumed run must agree on.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _weights(model).items()}
    plain: dict[str, dict[str, Any]] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    device = next(iter(model.parameters())).device
    tensors |= {f"random.now.{name}": value for name, value in random_state(device).items()}
    tensors |= {f"random.epoch.{name}": value for name, value in state.epoch_random.items()}
    held = {name: value for name, value in state.pruning.items() if isinstance(value, Tensor)}
    tensors |= {f"pruning.{name}": value for name, value in held.items()}
    pruning = {name: value for name, value in state.pruning.items() if name not in held}
    fields = asdict(replace(state, epoch_random={}, pruning=pruning))
    header = {"version": VERSION, "state": json.dumps(fields), "optimizer": json.dumps(plain)}
    header["settings"] = json.dumps(dict(settings))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, partial, metadata=header)
    partial.replace(path)


def load_state_(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    settings: Mapping[str, Any],
    before: Callable[[TrainingState], None] | None = None,
) -> TrainingState:
    """Put model, optimiser and random generators into the saved state, and return how far the run was.

    Args:
        path: The file.
        model: The network that was in training, as it was at first.
        optimizer: Its optimiser.
        settings: What the run must agree on.
        before: Called with how far the run was before weights are loaded; may take units out of the network.

    Raises:
        ConfigError: If the file is damaged, or of another model or other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(
            f"asked to resume from {path}: the file is damaged or no checkpoint ({error}). Start again "
            "without resuming."
        ) from error
    _check_header(path, header, settings)
    fields = json.loads(header["state"])
    fields["history"] = [EpochReport(**epoch) for epoch in fields["history"]]
    fields["epoch_random"] = _part(tensors, "random.epoch.")
    fields["pruning"] |= _part(tensors, "pruning.")
    state = TrainingState(**fields)
    if before is not None:
        before(state)
    _load_weights_(path, model, _part(tensors, "model."))
    _load_optimizer_(optimizer, _part(tensors, "optimizer."), json.loads(header["optimizer"]))
    restore_random_state(_part(tensors, "random.now."), next(iter(model.parameters())).device)
    return state


def _check_header(path: Path, header: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    if header.get("version") != VERSION:
        raise ConfigError(
            f"asked to resume from {path}: it is no checkpoint of version {VERSION} (version "
            f"{header.get('version')}). Start again without resuming."
        )
    # Through JSON, so that tuples and lists compare equal.
    before, now = json.loads(header["settings"]), json.loads(json.dumps(dict(settings)))
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        told = ", ".join(
            f"{_WORDS.get(name, name)} {before.get(name)!r} -> {now.get(name)!r}" for name in changed
        )
        why = _SIZES if changed == ["total"] else ""
        raise ConfigError(
            f"asked to resume from {path} with other settings: {told}. {why}Resume with the settings of the "
            "checkpoint, or start again without resuming."
        )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, shared ones once; buffers that `state_dict` leaves out too."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _load_weights_(path: Path, model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    weights = _weights(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != found:
        name = next(name for name in [*shapes, *found] if shapes.get(name) != found.get(name))
        raise ConfigError(
            f"asked to resume from {path}: {name!r} is {found.get(name)} there and {shapes.get(name)} in "
            "the model. Resume with the model of the checkpoint, or start again without resuming."
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(saved[name])


def _load_optimizer_(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]]
) -> None:
    entries: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in plain.items()}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
