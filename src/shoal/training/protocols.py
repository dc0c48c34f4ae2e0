"""What the training loop is given by its callers: something to make small, and something that prunes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from shoal.calling import Batch, Inputs

__all__ = ["Objective", "Pruner"]


class Objective(Protocol):
    """What training makes small."""

    def __call__(self, model: nn.Module, inputs: Inputs, labels: Any) -> Tensor:
        """Return the loss of one batch, a scalar; `labels` is None where there are none."""
        ...


class Pruner(Protocol):
    """What may take units out of a network while it is trained."""

    def attach(self, optimizer: Optimizer) -> None:
        """Take weights out of this optimiser from now on."""
        ...

    def step(self, batch: Batch) -> object:
        """Learn from the batch that the network was just trained on, gradients computed."""
        ...

    def status(self) -> str:
        """Return how far it has come, for the person who waits."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take that up, before weights are loaded."""
        ...
