"""Run one network on one input without this unit, without that, and compute what they share only once.

Every run keeps what its units returned. The next one lets the units before the first difference
return that again, so that only what follows is computed. Whatever stands between the units is
computed again, and so is everything from the first unit on that was called more than once: its calls
differ.

Axes: L units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from shoal.architectures import bypassed, forward_replaced, hidden_output, replace_hidden
from shoal.architectures.hidden import stand_ins
from shoal.calling import Inputs, call
from shoal.units import Chain

__all__ = ["Replay", "sharing_order"]

_REPEATED = object()


class Replay:
    """One network on one input; call it with the units to leave out.

    The network should be in evaluation mode and gradients off: outputs are kept and given out again.

    Args:
        model: The network.
        chain: Its units.
        inputs: What its forward takes.

    Example:
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> x = torch.ones(1, 4)
        >>> replay = Replay(net, find_units(net, x), x)
        >>> torch.equal(replay([2]), net[1](net[0](x))), torch.equal(replay([1]), net[2](net[0](x)))
        (True, True)
    """

    def __init__(self, model: nn.Module, chain: Chain, inputs: Inputs) -> None:
        self.model, self.chain, self.inputs = model, chain, inputs
        self.computed = 0
        """Units computed so far, in all runs."""
        self._returned: list[Any] = [None] * len(chain)
        self._versions: list[tuple[Tensor, int]] = []
        self._removed: frozenset[int] | None = None
        self._copies = False

    def __call__(self, removed: Iterable[int] = ()) -> Any:
        """Return what the network returns without these units; without any, what it returns itself."""
        wanted = frozenset(removed)
        outputs = self._run(wanted, self._shared(wanted))
        if not self._copies and any(tensor._version != version for tensor, version in self._versions):
            # The network overwrites its hidden states in place: from now on it gets copies.
            self._copies = True
            outputs = self._run(wanted, 0)
        self._removed = wanted
        return outputs

    def _shared(self, removed: frozenset[int]) -> int:
        """How many units from the first on the run before has computed for this one, too."""
        if self._removed is None:
            return 0
        differ = min(removed ^ self._removed, default=len(self.chain))
        return sum(1 for _ in takewhile(lambda value: value is not _REPEATED, self._returned[:differ]))

    def _run(self, removed: frozenset[int], shared: int) -> Any:
        before, self._returned = self._returned, [None] * len(self.chain)
        self._versions = []
        with ExitStack() as stack:
            stack.enter_context(forward_replaced(self._answers(before, shared)))
            rest = [index for index in removed if index >= shared]
            stack.enter_context(bypassed(self.model, self.chain, rest))
            for unit in self.chain:
                last = self.model.get_submodule(unit.modules[-1])
                stack.callback(last.register_forward_hook(self._keeper(unit.index)).remove)
            outputs = call(self.model, self.inputs)
        self.computed += len(self.chain) - shared - len(rest)
        return outputs

    def _answers(self, returned: list[Any], shared: int) -> list[tuple[nn.Module, Callable[..., Any]]]:
        answers: list[tuple[nn.Module, Callable[..., Any]]] = []
        for unit in self.chain.units[:shared]:
            *earlier, last = unit.modules
            instead = stand_ins(unit.outputs, len(unit.modules))
            answers += [
                (self.model.get_submodule(path), module.forward)
                for path, module in zip(earlier, instead, strict=False)
            ]
            answers.append((self.model.get_submodule(last), self._answer(returned[unit.index])))
        return answers

    def _answer(self, output: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: _fresh(output) if self._copies else output

    def _keeper(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._returned[index] is not None:
                self._returned[index] = _REPEATED
                return
            kept = _fresh(output) if self._copies else output
            self._returned[index] = kept
            hidden = hidden_output(kept)
            if hidden is not None and not self._copies:
                self._versions.append((hidden, hidden._version))

        return hook


def sharing_order(sets: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """Return distinct sets of units in the order in which each shares most with the one before it.

    Run in this order by a `Replay`, no two runs compute the same units on the same states.

    Example:
        >>> sharing_order([(), (0,), (2,), (0, 2), (1,)])
        [(0, 2), (0,), (1,), (2,), ()]
    """
    distinct = {tuple(sorted(set(units))) for units in sets}
    # Lexicographic by "unit 0 gone?, unit 1 gone?, …": an end stands for a unit beyond all others.
    return sorted(distinct, key=lambda units: (*units, float("inf")))


def _fresh(output: Any) -> Any:
    """Copy the hidden state: the network may overwrite it in place."""
    hidden = hidden_output(output)
    return output if hidden is None else replace_hidden(output, hidden.clone())
