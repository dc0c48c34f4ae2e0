"""How weights are moved: the settings of a training run, its optimiser, its learning rates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from shoal.errors import ConfigError

__all__ = ["FitSettings", "learning_rate", "make_optimizer"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a network is trained.

    Attributes:
        epochs: How often the batches are gone through.
        max_steps: Steps after which to stop; None for whole epochs. Overrides `epochs`.
        optimizer: `adamw` or `sgd` (with Nesterov's momentum).
        lr: Highest learning rate; a cosine takes it to 0.
        momentum: Of `sgd`.
        weight_decay: Of weights; biases and norms, parameters of one axis, are not decayed.
        decay_all: Whether biases and norms are decayed, too.
        warmup: Share of the steps in which the learning rate rises to its highest.
        clip: Largest norm of the gradient; None leaves it as it is.
        mixed_precision: `no`, `bf16`, or `fp16` on a GPU.
        checkpoint_every: Steps between two checkpoints.
        seed: Seeds torch for the run; the state outside is restored after it.
        purpose: Whatever else a resumed run must agree on: JSON values by their names, or in words.
    """

    epochs: int = 3
    max_steps: int | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.01
    decay_all: bool = False
    warmup: float = 0.1
    clip: float | None = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = 200
    seed: int = 0
    purpose: str | Mapping[str, Any] = field(default="", hash=False)

    def __post_init__(self) -> None:
        faults = [
            (self.epochs < 0, f"epochs={self.epochs}: 0 or more works"),
            (
                self.max_steps is not None and self.max_steps < 0,
                f"max_steps={self.max_steps}: 0 or more works",
            ),
            (self.optimizer not in ("adamw", "sgd"), f"optimizer={self.optimizer!r}: adamw and sgd work"),
            (not self.lr > 0, f"lr={self.lr}: a number above 0 works"),
            (not 0 <= self.warmup <= 1, f"warmup={self.warmup}: a share from 0 to 1 works"),
            (
                self.clip is not None and not self.clip > 0,
                f"clip={self.clip}: None or a number above 0 works",
            ),
            (
                self.mixed_precision not in ("no", "bf16", "fp16"),
                f"mixed_precision={self.mixed_precision!r}: no, bf16 and fp16 work",
            ),
            (self.checkpoint_every < 1, f"checkpoint_every={self.checkpoint_every}: 1 or more works"),
        ]
        found = [fault for wrong, fault in faults if wrong] + self._faults_of_purpose()
        if found:
            raise ConfigError(f"asked to train with {'; '.join(found)}.")

    def _faults_of_purpose(self) -> list[str]:
        named = dict(self.purpose) if isinstance(self.purpose, Mapping) else {"purpose": self.purpose}
        found = []
        if own := {each.name for each in fields(self) if each.name != "purpose"} & {*named}:
            found.append(f"purpose naming {', '.join(sorted(own))}: names of no other setting work")
        try:
            json.dumps(named)
        except (TypeError, ValueError):
            found.append(f"purpose={self.purpose!r}: words, or JSON values by their names, work")
        return found

    def agreed(self) -> dict[str, Any]:
        """Return by name all that a resumed run must agree on.

        Example:
            >>> FitSettings(purpose={"data": "digits"}).agreed()["data"]
            'digits'
        """
        known = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "purpose"}
        named = self.purpose if isinstance(self.purpose, Mapping) else {"purpose": self.purpose}
        return {**named, **known}


def make_optimizer(model: nn.Module, settings: FitSettings) -> Optimizer:
    """Return the optimiser of the model's parameters that require gradients.

    Raises:
        ConfigError: If none does, or one is in float16.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(
            f"asked to train {type(model).__name__}: none of its parameters requires gradients. Call "
            "model.requires_grad_() on what is to be trained."
        )
    if any(parameter.dtype == torch.float16 for parameter in trained):
        raise ConfigError(
            f"asked to train {type(model).__name__} with weights in float16: steps and squared gradients "
            "are lost in it. Load it in float32 or bfloat16; mixed_precision='fp16' works on a GPU."
        )
    decayed = [p for p in trained if p.dim() > 1 or settings.decay_all]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1 and not settings.decay_all], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    return AdamW(groups, lr=settings.lr)


def learning_rate(step: int, total: int, settings: FitSettings) -> float:
    """Return the learning rate of a step: a linear rise, then half a cosine down to 0.

    Args:
        step: From 0.
        total: Steps of the whole run.
        settings: Highest learning rate and share of warm-up.

    Example:
        >>> [round(learning_rate(s, 4, FitSettings(lr=1.0, warmup=0.5)), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(settings.warmup * total)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / max(1, total - rising)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
