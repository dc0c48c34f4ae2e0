"""What a training run begins with, what it is to come to, and whether that goes together."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from shoal.budget import Budget
from shoal.calling import Inputs
from shoal.errors import ConfigError
from shoal.measurement import Loss
from shoal.training.concurrent import ConcurrentSettings
from shoal.training.concurrent.price import Price
from shoal.units import Granularity

__all__ = ["METHODS", "Goal", "Start"]

METHODS = {
    "concurrent": "a gate on every unit, which ends open or takes its unit out while the network is trained",
    "dense": "control: the whole network, trained in the same way",
}
"""How networks may be trained, with a line of help each."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What training begins with; the attributes are arguments of `shoal.train`."""

    model: nn.Module
    example: Inputs
    fresh: bool = False
    shortcuts: bool = False


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What training is to come to; the attributes are arguments of `shoal.train`."""

    method: str
    budget: Budget | str | None
    price: Price | float | str | None
    granularity: Granularity = "block"
    settings: ConcurrentSettings | None = None
    loss: Loss | None = None

    def check(self, start: Start, precision: str) -> None:
        """Check that it goes together.

        Raises:
            ConfigError: If not.
        """
        if self.method not in METHODS:
            near = get_close_matches(self.method, METHODS, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"asked to train by the method {self.method!r}: {', '.join(METHODS)} work; the nearest is "
                f"{near!r}."
            )
        if self.settings is not None and self.settings.estimator == "slope" and precision == "fp16":
            raise ConfigError(
                "asked to read gains off gradients (estimator=slope) in fp16, where losses are scaled: flip "
                "works, and mixed_precision bf16 or no."
            )
        self._check_units(start)
        given = {"budget": self.budget, "price": self.price, "settings of gates": self.settings}
        given["granularity"] = None if self.granularity == "block" else self.granularity
        if self.method == "dense" and (idle := [name for name, value in given.items() if value is not None]):
            raise ConfigError(f"asked for {', '.join(idle)} with the method dense, which removes nothing.")

    def _check_units(self, start: Start) -> None:
        if self.granularity == "layer":
            raise ConfigError(
                "asked to train with units of the granularity layer: those merge and do not leave. block and "
                "sublayer work; for plain networks shortcuts."
            )
        if start.shortcuts and self.granularity != "block":
            raise ConfigError(
                f"asked for shortcuts with the granularity {self.granularity}: layers with shortcuts are "
                "blocks. Leave one out."
            )

    def agreed(self, start: Start) -> dict[str, Any]:
        """Return by name what a resumed run must have in common with the one before, as JSON values."""
        return {
            "method": self.method,
            "budget": None if self.budget is None else str(Budget.parse(self.budget)),
            "price": None if self.price is None else str(Price.parse(self.price)),
            "granularity": self.granularity,
            "fresh": start.fresh,
            "shortcuts": start.shortcuts,
        }
