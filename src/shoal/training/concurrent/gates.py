"""A Bernoulli gate on every unit: each training step draws which units compute, the rest is skipped.

A gate is open with probability θ. One draw counts for a whole batch, and is the same in all processes. What
a closed gate leaves out costs nothing, forwards or backwards; no output is rescaled. In evaluation mode the
units with θ above ½ compute.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from shoal.activations import Replay
from shoal.architectures import bypassed
from shoal.architectures.hidden import stand_ins
from shoal.architectures.routing import unrouted, without_routing
from shoal.calling import device_of, random_state, restore_random_state
from shoal.errors import ConfigError, UnitError
from shoal.plan import Plan
from shoal.surgery import apply
from shoal.training.batchnorm import Buffers, holding, other_buffers, untouched_statistics
from shoal.training.concurrent.calls import check_gateable, check_uncompiled, inputs_of, met
from shoal.training.concurrent.draws import Draws
from shoal.training.concurrent.emptied import Emptied, forget_, only_in
from shoal.units import Chain

__all__ = ["Gates"]


class Gates:
    """The gates on a network's removable units; a network is gated until `close`.

    Args:
        model: The network; its calls draw gates from now on, and removed units leave it.
        chain: Its units.
        start: θ of every gate at first, from 0 to 1.
        seed: Of the draws.

    Attributes:
        theta: Unit → probability that its gate is open; removed units are no longer there.
        draws: Which of them are shut.
        removed: The units that have left, in the order in which they did.
        off: The units that the last call in training left out, removed ones included.
        outputs: What that call returned.
        calls: How many calls in training were gated.
        settled_for_good: Whether no gate moves any more, so that calls in training are left as they are.
        counting: Is told of every call in training which units it leaves out.
        watching: Is entered around every gated call in training, and around what its backward pass calls.

    Raises:
        UnitError: If no unit can be removed.
        ConfigError: If the network is compiled as a whole, or a part of it with units inside; is wrapped for
            several devices; or has gates already.
    """

    def __init__(self, model: nn.Module, chain: Chain, *, start: float = 0.9, seed: int = 0) -> None:
        if not chain.removable:
            raise UnitError(
                f"asked to put gates on {chain.model}: none of its {len(chain)} units can be removed. "
                "`shoal units` says why."
            )
        check_gateable(model, chain)
        self.model, self.chain = model, chain
        self.theta = dict.fromkeys(chain.removable, float(start))
        self.removed: list[int] = []
        self.off: frozenset[int] = frozenset()
        self.outputs: Any = None
        self.calls = 0
        self.settled_for_good = False
        self.counting: Callable[[Collection[int]], None] = lambda off: None
        self.watching: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.replay = Replay(model, chain, None)
        self.draws = Draws(len(chain), seed)
        self._emptied: dict[str, Emptied] = {}
        self._leaving: Callable[[], None] | None = None
        self._call, self._until_step = ExitStack(), ExitStack()
        self._asleep = False
        self._buffers: Buffers = []
        self._autocast: tuple[bool, torch.dtype] = False, torch.bfloat16
        self._handles = met(model, self)

    @property
    def closed(self) -> bool:
        """Whether the network is gated no more."""
        return not self._handles

    @property
    def inputs(self) -> dict[str, Any]:
        """What the last call in training was given, by name."""
        return inputs_of(self.model, *self.replay.arguments)

    def settled(self) -> frozenset[int]:
        """Return the units that calls in evaluation mode leave out."""
        return frozenset([*self.removed, *(index for index, theta in self.theta.items() if theta <= 0.5)])

    def replayed(self, off: Iterable[int]) -> Any:
        """Return what the last call in training would have returned without just these units.

        Same batch, same random numbers, no gradients; batch norms take the batch's statistics and keep their
        own. What comes before the first unit that differs is not computed again.

        Raises:
            ConfigError: If there was no such call.
        """
        self.check_called()
        with self.aside():
            return self.replay(off)

    def check_called(self) -> None:
        """Check that there is a call in training to speak of.

        Raises:
            ConfigError: If there was none since the last step.
        """
        if self.outputs is None:
            raise ConfigError(
                "asked what the last batch gives with other gates: the network was not called in training "
                "mode since the last step. Call step once after each model(inputs) and loss.backward()."
            )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the network or its parts run inside the `with` as in the last call in training, and leave no
        trace: not gated, in the same precision; random numbers and buffers come back as they were.
        """
        self._until_step.close()
        device = device_of(self.model)
        before, (enabled, dtype) = random_state(device), self._autocast
        autocast = torch.autocast(device.type, dtype, enabled=enabled)
        self._asleep = True
        try:
            with untouched_statistics(self.model), holding(self._buffers), unrouted(self.model), autocast:
                yield
        finally:
            self._asleep = False
            restore_random_state(before, device)

    def forget(self) -> None:
        """Let go of what the last call in training has left in memory; the next one draws anew."""
        self._until_step.close()
        self.draws.end_step()
        self.outputs, self._buffers = None, []
        self.replay = Replay(self.model, self.chain, None)

    def decay_shut_(self) -> None:
        """Give the weights of units that the last call left out gradients of zero, so that they decay as
        others do.
        """
        for unit in self.chain.select(self.off - set(self.removed)):
            for path in unit.modules:
                for weight in self.model.get_submodule(path).parameters():
                    if weight.requires_grad and weight.grad is None:
                        weight.grad = torch.zeros_like(weight)

    def remove_(self, index: int, optimizer: Optimizer | None = None) -> None:
        """Take a unit out of the network: its weights are freed, here and in the optimiser.

        What is left of its module is an empty shell that hands its input through, so that the network's own
        code still finds what it asks it for; `finished` leaves it out.

        Args:
            index: The unit.
            optimizer: Whose states and references go, too.

        Raises:
            UnitError: If the unit has no gate, or has left already.
        """
        if index not in self.theta:
            raise UnitError(
                f"asked to remove unit {index}: it has no gate. Units {sorted(self.theta)} have one."
            )
        # A call may have been interrupted.
        self._call.close()
        self._until_step.close()
        self._complete()
        unit = self.chain[index]
        modules = [self.model.get_submodule(path) for path in unit.modules]
        gone = only_in(modules, self.model)
        instead = stand_ins(unit.outputs, len(modules))
        emptied = [Emptied(*each, gone) for each in zip(modules, instead, strict=True)]

        def leave() -> None:
            self.theta.pop(index, None)
            if index not in self.removed:
                self.removed.append(index)
            self._emptied |= dict(zip(unit.modules, emptied, strict=True))
            if optimizer is not None:
                forget_(optimizer, gone)
            for each in emptied:
                each.empty()

        self._leaving = leave
        self._complete()

    def _complete(self) -> None:
        """Let the unit that is about to leave do so: its removal may have been interrupted."""
        if self._leaving is not None:
            self._leaving()
            self._leaving = None

    def finished(self, plan: Plan | None = None) -> nn.Module:
        """Return a new, ordinary network without the units that have left; see `shoal.apply`.

        Args:
            plan: Which removes them, with more facts; made anew where it is None.

        Raises:
            PlanError, SurgeryError, UnitError: As `shoal.apply`.
        """
        gated = bool(self._handles)
        self.close()
        self._complete()
        try:
            for emptied in self._emptied.values():
                emptied.fill()
            return apply(self.model, plan or Plan.removing(self.chain, self.removed, method="concurrent"))
        finally:
            for emptied in self._emptied.values():
                emptied.empty()
            if gated:
                self._handles = met(self.model, self)

    def close(self) -> None:
        """Gate no more calls; removed units stay away."""
        self._call.close()
        self._until_step.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def state(self) -> dict[str, Any]:
        """Return all that goes on from here, as JSON values and one tensor, `generator`."""
        theta = {str(index): theta for index, theta in self.theta.items()}
        return {
            "theta": theta,
            "removed": list(self.removed),
            "calls": self.calls,
            "autocast": [self._autocast[0], str(self._autocast[1]).removeprefix("torch.")],
            **self.draws.state(),
        }

    def restore_(self, state: Mapping[str, Any], optimizer: Optimizer | None = None) -> None:
        """Take up a state; units that had left then leave now."""
        for index in state["removed"]:
            if index in self.theta:
                self.remove_(index, optimizer)
        self.theta = {int(index): float(theta) for index, theta in state["theta"].items()}
        self.removed, self.calls = [int(index) for index in state["removed"]], int(state["calls"])
        enabled, dtype = state["autocast"]
        self._autocast = bool(enabled), getattr(torch, dtype)
        self.draws.restore_(state)

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Draw the gates of a call that begins with these arguments."""
        self._until_step.close()
        if self._asleep:
            return
        # The call before may have been interrupted, or a removal.
        self._call.close()
        self._complete()
        trained = self.model.training and torch.is_grad_enabled()
        if trained:
            kind = device_of(self.model).type
            self._autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        if self.settled_for_good:
            if trained:
                self.counting(self.removed)
            return
        if trained:
            check_uncompiled(self.model)
            self.off, self.outputs = self.draws.serving(self.theta).union(self.removed), None
            self.calls += 1
            self.counting(self.off)
            self._buffers = other_buffers(self.model)
            self._call.enter_context(self.replay.recording(self.off, *args, **without_routing(kwargs)))
            self._call.enter_context(self.watching())
        else:
            self._call.enter_context(bypassed(self.model, self.chain, self.settled()))

    def leave(self, output: Any) -> None:
        """Note what a call has returned."""
        if self.settled_for_good or self._asleep:
            return
        self._call.close()
        if self.model.training and torch.is_grad_enabled():
            self.outputs = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)
        if self.outputs is not None:
            # The backward pass may call units again.
            self._until_step.enter_context(bypassed(self.model, self.chain, self.off))
            self._until_step.enter_context(self.watching())
