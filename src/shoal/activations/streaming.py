"""Push many batches through a network one unit at a time: forward, and backward in reverse.

Only one unit needs its weights at a time, and all batches are through it before the next one's turn. What
units return is kept.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from shoal.activations.partway import PartialCall, Returned, tensors_of
from shoal.activations.store import ActivationStore
from shoal.calling import Inputs, device_of, to_device
from shoal.errors import ConfigError
from shoal.progress import task
from shoal.units import Chain, Unit

__all__ = ["StreamedBatch", "UnitStream"]

Weights = Callable[[Unit], AbstractContextManager[None]]
Seen = Callable[[Unit, Tensor, Tensor, Tensor], None]


@dataclass(eq=False)
class StreamedBatch:
    """What is kept of one batch.

    Attributes:
        inputs: What the network's forward takes.
        entered: Hidden state that went into each unit, the very tensor that an earlier unit put out
            where it is handed on as it is.
        left: Hidden state that came out of each unit.
        returned: All that each unit returned.
        gradients: Gradient of the loss at tensors that units returned, by their id.
    """

    inputs: Inputs
    entered: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor went into one of the units, or was returned by one."""
        held = (*self.entered, *(part for each in self.returned for part in tensors_of(each)))
        return any(tensor is other for other in held)

    def points(self) -> tuple[list[Tensor], list[int], list[int]]:
        """Return the distinct hidden states, and which of them each unit takes and puts out."""
        pairs = list(zip(self.entered, self.left, strict=True))
        distinct = {id(tensor): tensor for pair in pairs for tensor in pair}
        number = {key: place for place, key in enumerate(distinct)}
        starts, stops = ([number[id(pair[side])] for pair in pairs] for side in (0, 1))
        return list(distinct.values()), starts, stops


class UnitStream:
    """A network through which batches go one unit at a time.

    Args:
        model: The network, in evaluation mode; what is in no unit has its weights.
        chain: Its units.
        store: Where activations are kept.
        device: Where the network computes; that of its first parameter where it is None.

    Raises:
        ConfigError: If a unit is no single module, or only a branch that is added elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        chain: Chain,
        store: ActivationStore,
        device: torch.device | None = None,
    ) -> None:
        part = next((unit for unit in chain if len(unit.modules) > 1 or unit.is_branch), None)
        if part is not None:
            raise ConfigError(
                f"asked to go through {chain.model} one unit at a time: {part.name} is not one whole module. "
                "Units that are work, as those of the granularity 'block' mostly are."
            )
        self.model, self.chain, self.store = model, chain, store
        self.device = device_of(model) if device is None else device

    def forward(
        self, inputs: Iterable[Inputs], weights: Weights, done: Callable[[Unit], None]
    ) -> list[StreamedBatch]:
        """Return what batches are at every unit.

        Args:
            inputs: What the network's forward takes, a batch each.
            weights: Context in which a unit has its weights.
            done: Called with each unit while it has its weights.

        Raises:
            ConfigError: As `PartialCall`.
        """
        batches = [StreamedBatch(each) for each in inputs]
        with task("all data through one layer after the other", len(batches) * len(self.chain)) as advance:
            for unit in self.chain:
                with weights(unit), torch.no_grad():
                    written = self._written()
                    for batch in batches:
                        self._enter(batch)
                        advance(1)
                    self._check_written(unit, written)
                    done(unit)
        return batches

    def finish(self, batch: StreamedBatch, loss: Callable[[Any], Tensor | None]) -> Tensor | None:
        """Return what `loss` makes of the network's outputs; the batch has the gradients of its sum.

        Args:
            batch: One that has gone through all units.
            loss: From outputs to losses, None where there are none.
        """
        with torch.enable_grad():
            run = self._call(batch)
            losses = loss(run.outputs)
            if losses is None:
                return None
            losses.sum().backward()
        self._collect(batch, run, [])
        return losses.detach()

    def backward(
        self, batches: list[StreamedBatch], weights: Weights, seen: Seen, done: Callable[[Unit], None]
    ) -> None:
        """Go back through all units; what was kept of the batches is used up.

        Args:
            batches: Those that `finish` has left gradients with.
            weights: Context in which a unit has its weights, and may collect gradients.
            seen: Called for each unit and batch with the unit, the hidden states before and after it,
                and the gradient at the latter.
            done: Called with each unit while its parameters have the gradients of all batches.
        """
        with task("back through one layer after the other", len(batches) * len(self.chain)) as advance:
            for unit in reversed(self.chain.units):
                with weights(unit):
                    for batch in batches:
                        self._leave(unit, batch, seen)
                        advance(1)
                    done(unit)

    def _call(self, batch: StreamedBatch) -> PartialCall:
        inputs = to_device(batch.inputs, self.device)
        return PartialCall(self.model, self.chain, inputs, batch.returned, self.device)

    def _written(self) -> list[int]:
        """How often each weight was written into."""
        return [parameter._version for parameter in self.model.parameters()]

    def _check_written(self, unit: Unit, before: list[int]) -> None:
        if self._written() != before:
            raise ConfigError(
                f"asked to go through {self.chain.model} one unit at a time: it writes into its weights while"
                f" it runs, at {unit.name} or elsewhere. Load the whole model instead."
            )

    def _enter(self, batch: StreamedBatch) -> None:
        run = self._call(batch)
        earlier = (*batch.entered, *(tensor for each in batch.returned for tensor in tensors_of(each)))
        known = {id(run.lend(tensor)): tensor for tensor in earlier}
        entered = known.get(id(run.hidden))
        kept = {id(tensor): self.store.keep(tensor) for tensor in tensors_of(run.returned)}
        batch.entered.append(self.store.keep(run.hidden) if entered is None else entered)
        batch.left.append(kept[id(run.left)])
        batch.returned.append(run.returned.map(lambda leaf: kept.get(id(leaf), leaf)))

    def _leave(self, unit: Unit, batch: StreamedBatch, seen: Seen) -> None:
        before, after, returned = batch.entered.pop(), batch.left.pop(), tensors_of(batch.returned.pop())
        gradients = [batch.gradients.pop(id(tensor), None) for tensor in returned]
        arrived = [gradient for gradient in gradients if gradient is not None]
        # Their memory is that of the gradients that follow.
        spent = [*returned, *arrived, *(tensor for tensor in [before] if not batch.holds(tensor))]
        if arrived:
            with torch.enable_grad():
                run = self._call(batch)
            pairs = [
                (tensor, gradient.to(tensor.device))
                for tensor, gradient in zip(tensors_of(run.returned), gradients, strict=True)
                if gradient is not None and tensor.requires_grad
            ]
            for tensor, gradient in pairs:
                if tensor is run.left:
                    seen(unit, before.to(gradient.device), after.to(gradient.device), gradient)
            if pairs:
                made, given = map(list, zip(*pairs, strict=True))
                torch.autograd.backward(made, given)
            self._collect(batch, run, spent)
        for tensor in spent:
            self.store.drop(tensor)

    def _collect(self, batch: StreamedBatch, run: PartialCall, spent: list[Tensor]) -> None:
        for tensor, gradient in run.gradients():
            before = batch.gradients.pop(id(tensor), None)
            if before is not None:
                gradient = gradient + before.to(gradient.device)
                spent.append(before)
            batch.gradients[id(tensor)] = (
                self.store.replace(spent.pop(0), gradient) if spent else self.store.keep(gradient)
            )
