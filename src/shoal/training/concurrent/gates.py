"""A Bernoulli gate on every unit: each training call draws which units compute, the rest is skipped.

A gate is open with probability θ. One draw counts for a whole batch, and is the same in all processes. What
a closed gate leaves out costs nothing, forwards or backwards; no output is rescaled. In evaluation mode the
units with θ above ½ compute.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from shoal.activations import Replay
from shoal.architectures import bypassed
from shoal.architectures.hidden import stand_ins
from shoal.calling import Inputs, device_of, random_state, restore_random_state
from shoal.errors import ConfigError, UnitError
from shoal.plan import Plan
from shoal.surgery import apply
from shoal.training.batchnorm import Buffers, holding, other_buffers, untouched_statistics
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
        removed: The units that have left, in the order in which they did.
        off: The units that the last call in training left out, removed ones included.
        outputs: What that call returned.
        calls: How many calls in training were gated.
        settled_for_good: Whether no gate moves any more, so that calls in training are left as they are.

    Raises:
        UnitError: If no unit can be removed.
        ConfigError: If the network is compiled as a whole.
    """

    def __init__(self, model: nn.Module, chain: Chain, *, start: float = 0.9, seed: int = 0) -> None:
        if not chain.removable:
            raise UnitError(
                f"asked to put gates on {chain.model}: none of its {len(chain)} units can be removed. "
                "`shoal units` says why."
            )
        if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
            raise ConfigError(
                "asked to put gates on a network that is compiled as a whole: every draw would compile it "
                "anew. Pass the network itself, and compile its blocks (block.compile())."
            )
        self.model, self.chain = model, chain
        self.theta = dict.fromkeys(chain.removable, float(start))
        self.removed: list[int] = []
        self.off: frozenset[int] = frozenset()
        self.outputs: Any = None
        self.calls = 0
        self.settled_for_good = False
        self.replay = Replay(model, chain, None)
        self._generator = torch.Generator().manual_seed(seed)
        self._emptied: dict[str, Emptied] = {}
        self._open: list[ExitStack] = []
        self._until_step = ExitStack()
        self._asleep = False
        self._buffers: Buffers = []
        self._autocast: tuple[bool, torch.dtype] = False, torch.bfloat16
        self._handles: list[RemovableHandle] = []
        self._attach()

    @property
    def closed(self) -> bool:
        """Whether the network is gated no more."""
        return not self._handles

    @property
    def inputs(self) -> Inputs:
        """What the last call in training was given."""
        return self.replay.inputs

    def draw(self) -> frozenset[int]:
        """Return the units to leave out of one call; every unit draws a number, so that the draws of some do
        not depend on what has become of others.
        """
        drawn = torch.rand(len(self.chain), generator=self._generator, dtype=torch.float64).tolist()
        closed = (index for index, theta in self.theta.items() if drawn[index] >= theta)
        return frozenset([*self.removed, *closed])

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
            with untouched_statistics(self.model), holding(self._buffers), autocast:
                yield
        finally:
            self._asleep = False
            restore_random_state(before, device)

    def forget(self) -> None:
        """Let go of what the last call in training has left in memory."""
        self._until_step.close()
        self.outputs, self._buffers = None, []
        self.replay = Replay(self.model, self.chain, None)

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
        unit = self.chain[index]
        self._until_step.close()
        modules = [self.model.get_submodule(path) for path in unit.modules]
        gone = only_in(modules, self.model)
        if optimizer is not None:
            forget_(optimizer, gone)
        instead = stand_ins(unit.outputs, len(modules))
        for path, module, stand_in in zip(unit.modules, modules, instead, strict=True):
            self._emptied[path] = Emptied(module, stand_in, gone)
        del self.theta[index]
        self.removed.append(index)

    def plan(self) -> Plan:
        """Return the plan that removes what has left."""
        return Plan.removing(self.chain, sorted(self.removed), method="concurrent")

    def finished(self, plan: Plan | None = None) -> nn.Module:
        """Return a new, ordinary network without the units that have left; see `shoal.apply`.

        Args:
            plan: What `plan` returned, with more facts; made anew where it is None.

        Raises:
            PlanError, SurgeryError, UnitError: As `shoal.apply`.
        """
        gated = bool(self._handles)
        self.close()
        for emptied in self._emptied.values():
            emptied.fill()
        try:
            return apply(self.model, plan or self.plan())
        finally:
            for emptied in self._emptied.values():
                emptied.empty()
            if gated:
                self._attach()

    def close(self) -> None:
        """Gate no more calls; removed units stay away."""
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
            "generator": self._generator.get_state(),
        }

    def restore_(self, state: Mapping[str, Any], optimizer: Optimizer | None = None) -> None:
        """Take up a state; units that had left then leave now."""
        for index in state["removed"]:
            if index in self.theta:
                self.remove_(index, optimizer)
        self.theta = {int(index): float(theta) for index, theta in state["theta"].items()}
        self.removed, self.calls = [int(index) for index in state["removed"]], int(state["calls"])
        self._generator.set_state(state["generator"].cpu())

    def _attach(self) -> None:
        hooks = _Hooks(self)
        self._handles = [
            self.model.register_forward_pre_hook(hooks.before, with_kwargs=True),
            self.model.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
        ]

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._until_step.close()
        while self._open and not self._asleep:
            # The call before was interrupted.
            self._open.pop().close()
        stack = ExitStack()
        if self.settled_for_good or self._asleep:
            pass
        elif self.model.training and torch.is_grad_enabled():
            self.off, self.outputs = self.draw(), None
            self.calls += 1
            self._buffers = other_buffers(self.model)
            kind = device_of(self.model).type
            self._autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
            stack.enter_context(self.replay.recording(self.off, _inputs(self.model, args, kwargs)))
        else:
            stack.enter_context(bypassed(self.model, self.chain, self.settled()))
        self._open.append(stack)

    def _leave(self, output: Any) -> None:
        if not self._open:
            return
        self._open.pop().close()
        if self.settled_for_good or self._asleep:
            return
        if self.model.training and torch.is_grad_enabled():
            self.outputs = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)
        if self.outputs is not None and self.replay.recomputed:
            # The backward pass will call units again.
            self._until_step.enter_context(bypassed(self.model, self.chain, self.off))


class _Hooks:
    """What a gated network calls before and after; a copy of the network is not gated."""

    def __init__(self, gates: Gates | None) -> None:
        self._gates = gates

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        return _Hooks(None)

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._gates is not None:
            self._gates._enter(args, kwargs)

    def after(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._gates is not None:
            self._gates._leave(output)


def _inputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """A call's arguments as inputs: all by name, or all by place."""
    known = inspect.signature(model.forward).parameters.values()
    names = [each.name for each in known if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) <= len(names):
        return dict(zip(names, args, strict=False)) | kwargs
    if kwargs:
        raise ConfigError(
            f"asked to call a gated {type(model).__name__} with {len(args)} arguments by place and "
            f"{', '.join(kwargs)} by name: its forward names {len(names)} of them. Arguments all by name, or "
            "all by place, work."
        )
    return args
