"""The hidden states that go into and come out of every unit during one forward call.

Shapes: B = batch; what follows is the network's own (`B T D`, `B C H W`, …). L = units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from shoal.architectures import hidden_input, hidden_output, replace_hidden
from shoal.errors import DataError
from shoal.units import Chain, Unit

__all__ = ["Boundaries", "watching"]


class Boundaries:
    """What went into and came out of the units in the last forward call; only references are held.

    Attributes:
        inputs: Hidden state that went into each unit, length L.
        outputs: Hidden state that came out of each unit, length L.
        copies: Whether copies are handed on instead, because the network overwrites its hidden
            states in place.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.copies = False
        self.clear()

    def clear(self) -> None:
        """Forget the last forward call."""
        self.inputs: list[Tensor | None] = [None] * len(self.chain)
        self.outputs: list[Tensor | None] = [None] * len(self.chain)
        self._sums: dict[int, Tensor] = {}
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._handed_on: dict[int, tuple[Tensor, int, Tensor]] = {}

    def overwritten(self) -> bool:
        """Return whether a hidden state was overwritten after it was noted."""
        return any(tensor._version != version for tensor, version in self._versions.values())

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the hidden state before and after every unit; after a branch, with its output added.

        Raises:
            DataError: If a unit was not called; names it.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for unit, before, after in zip(self.chain, self.inputs, self.outputs, strict=True):
            if before is None or after is None:
                raise DataError(
                    f"asked to watch {len(self.chain)} units: {unit.name} was not called on this batch. "
                    "Find the units with an example that takes the same way through the network."
                )
            found.append((before, self._state_after(unit, before, after)))
        return found

    def _state_after(self, unit: Unit, before: Tensor, after: Tensor) -> Tensor:
        if not unit.is_branch:
            return after
        met = self.inputs[unit.index + 1] if unit.after == "next" else self._sums.get(unit.index)
        # Where the sum is met nowhere, a scale between branch and sum is not known.
        return before.detach() + after.detach() if met is None else met

    def points(self) -> tuple[list[Tensor], list[int], list[int]]:
        """Return the distinct hidden states, and which of them each unit takes and returns.

        In an unbroken chain there are L + 1: what goes into unit l is what unit l - 1 put out.

        Raises:
            DataError: If a unit was not called; names it.
        """
        tensors: list[Tensor] = []
        number: dict[int, int] = {}
        places: list[list[int]] = [[], []]
        for pair in self.pairs():
            for side, tensor in enumerate(pair):
                if id(tensor) not in number:
                    number[id(tensor)] = len(tensors)
                    tensors.append(tensor)
                places[side].append(number[id(tensor)])
        return tensors, places[0], places[1]

    def _note(self, tensor: Tensor) -> Tensor:
        self._versions[id(tensor)] = (tensor, tensor._version)
        return tensor

    def _entering(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = hidden_input(args, kwargs)
            if hidden is None:
                return
            copied, version, noted = self._handed_on.get(id(hidden), (hidden, -1, hidden))
            # A copy that was overwritten on the way is another state.
            if copied._version == version:
                hidden = noted
            previous = self.outputs[index - 1] if index else None
            if hidden is previous:
                self.inputs[index] = previous
            else:
                self.inputs[index] = self._note(hidden.clone() if self.copies else hidden)

        return hook

    def _leaving(self, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            hidden = hidden_output(output)
            if hidden is None:
                return None
            self.outputs[index] = self._note(hidden)
            if not self.copies:
                return None
            # The network goes on with a copy, so that the state noted stays as it is.
            handed_on = hidden.clone()
            self._handed_on[id(handed_on)] = (handed_on, handed_on._version, hidden)
            return replace_hidden(output, handed_on)

        return hook

    def _closing(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = hidden_output(output)
            if hidden is not None:
                self._sums[index] = self._note(hidden.clone() if self.copies else hidden)

        return hook


@contextmanager
def watching(model: nn.Module, chain: Chain) -> Iterator[Boundaries]:
    """Note the hidden states of every forward call inside the `with`."""
    boundaries = Boundaries(chain)
    with ExitStack() as stack:
        for unit in chain:
            first = model.get_submodule(unit.modules[0])
            last = model.get_submodule(unit.modules[-1])
            before = first.register_forward_pre_hook(boundaries._entering(unit.index), with_kwargs=True)
            after = last.register_forward_hook(boundaries._leaving(unit.index), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
            if unit.after == "container":
                container = model.get_submodule(unit.container)
                stack.callback(container.register_forward_hook(boundaries._closing(unit.index)).remove)
        yield boundaries
