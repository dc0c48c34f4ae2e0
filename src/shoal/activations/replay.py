"""Run one network on one input without this unit, without that, and compute what they share only once.

The first run may be someone else's own call, in training, with gradients (`recording`).

Every run keeps what its units returned. The next one lets the units before the first difference
return that again, so that only what follows is computed. Whatever stands between the units is
computed again, and so is everything from the first unit on that cannot be answered for: one that was
called more than once, as its calls differ, or that wrote into what it was given, which others may read.

Axes: L units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import chain as joined
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from shoal.architectures import bypassed, forward_replaced, hidden_output, replace_hidden
from shoal.architectures.bypassing import answer_of
from shoal.architectures.hidden import stand_ins
from shoal.calling import Inputs, device_of, random_state, restore_random_state
from shoal.units import Chain, Unit

__all__ = ["Replay", "sharing_order"]

Forward = Callable[..., Any]
Versions = list[tuple[Tensor, int]]


class Replay:
    """One network on one input; call it with the units to leave out.

    The network should be in evaluation mode. It runs without gradients, and on copies of the inputs:
    what it writes into them is lost.

    Args:
        model: The network.
        chain: Its units.
        inputs: What its forward takes.

    Example:
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> x = torch.ones(1, 4)
        >>> replay = Replay(net, find_units(net, x), x)
        >>> torch.equal(replay([2]), net[1](net[0](x))), torch.equal(replay([1]), net[2](net[0](x)))
        (True, True)
    """

    def __init__(self, model: nn.Module, chain: Chain, inputs: Inputs) -> None:
        self.model, self.chain = model, chain
        self.arguments = _arguments(inputs)
        """What the network is called with, by place and by name."""
        self.computed = 0
        """Units computed so far, in all runs."""
        self._kept: list[_Kept | None] = [None] * len(chain)
        self._given: dict[int, Versions] = {}
        self._called: set[int] = set()
        self._overwritten: set[int] = set()
        self._removed: frozenset[int] | None = None
        self._random: dict[tuple[int, str, int], dict[str, Tensor]] = {}
        self._moments: Counter[tuple[int, str]] = Counter()
        self._recording = False
        self._device = device_of(model)

    def __call__(self, removed: Iterable[int] = ()) -> Any:
        """Return what the network returns without these units; without any, what it returns itself."""
        wanted = frozenset(removed)
        shared = self._shared(wanted)
        # Nothing is shared with a run that failed.
        self._removed = None
        # Inference tensors do not tell whether they were written into.
        with torch.inference_mode(False), torch.no_grad():
            outputs = self._run(wanted, shared)
            if any(kept.handed_on and kept.overwritten for kept in self._kept[:shared] if kept):
                # The write missed what stood in this unit's place in the run before.
                outputs = self._run(wanted, 0)
        self._removed = wanted
        return outputs

    @contextmanager
    def recording(self, removed: Iterable[int], /, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Let the network run without these units inside the `with`, and keep what the others return.

        The network is called there by whoever trains it, once, with gradients. Later calls of this object
        share with that call, and begin on what its inputs were. They draw the random numbers that it drew
        there: at the beginning, in every unit, and after every unit, which may have been left out there.

        Args:
            removed: The units to leave out.
            args, kwargs: What the network will be called with.
        """
        with torch.no_grad():
            # The network may write into them.
            self.arguments = tree_map(_cloned, (args, kwargs))
        self._removed, self._random = None, {}
        wanted = frozenset(removed)
        self._recording = True
        try:
            with self._standing_in(wanted, 0):
                self._draw_alike(0, "first")
                yield
        finally:
            self._recording = False
        self._removed = wanted

    def _shared(self, removed: frozenset[int]) -> int:
        """How many units from the first on the run before has computed for this one, too."""
        if self._removed is None:
            return 0
        self._overwritten |= {index for index, kept in enumerate(self._kept) if kept and kept.overwritten}
        differ = min(removed ^ self._removed, default=len(self.chain))
        return sum(1 for _ in takewhile(self._lasts, range(differ)))

    def _lasts(self, index: int) -> bool:
        kept = self._kept[index]
        return index in (self._removed or ()) or (kept is not None and not kept.overwritten)

    def _run(self, removed: frozenset[int], shared: int) -> Any:
        with self._standing_in(removed, shared):
            self._draw_alike(0, "first")
            args, kwargs = tree_map(_cloned, self.arguments)
            return self.model(*args, **kwargs)

    @contextmanager
    def _standing_in(self, removed: frozenset[int], shared: int) -> Iterator[None]:
        """Let the first units answer with what they returned before, and note what the others return."""
        present = [unit for unit in self.chain if unit.index not in removed]
        computed = [unit for unit in present if unit.index >= shared]
        answers = [self._answer(unit) for unit in present if unit.index < shared]
        self._device = device_of(self.model)
        self._kept[shared:] = [None] * (len(self.chain) - shared)
        self._called.clear()
        self._given.clear()
        self._moments.clear()
        with ExitStack() as stack:
            # Bypassing is free, and hands on the very tensors of this run.
            stack.enter_context(bypassed(self.model, self.chain, removed))
            for unit in self.chain.select(removed):
                module = self.model.get_submodule(unit.modules[-1])
                aligned = self._aligned(unit.index, answer_of(module))
                stack.enter_context(forward_replaced([(module, aligned)]))
            stack.enter_context(forward_replaced(joined.from_iterable(answers)))
            for unit in computed:
                for path, watch in ((unit.modules[0], self._noting), (unit.modules[-1], self._keeping)):
                    module = self.model.get_submodule(path)
                    watched = watch(unit.index, answer_of(module))
                    stack.enter_context(forward_replaced([(module, watched)]))
            yield
        self.computed += len(computed)

    def _answer(self, unit: Unit) -> list[tuple[nn.Module, Forward]]:
        kept, copied = self._kept[unit.index], unit.index in self._overwritten
        output = None if kept is None else kept.output
        *earlier, _ = stand_ins(unit.outputs, len(unit.modules))

        def answer(*args: Any, **kwargs: Any) -> Any:
            self._draw_alike(unit.index, "after")
            return _fresh(output) if copied else output

        instead = [*(module.forward for module in earlier), answer]
        return list(zip(map(self.model.get_submodule, unit.modules), instead, strict=True))

    def _aligned(self, index: int, forward: Forward) -> Forward:
        def aligned(*args: Any, **kwargs: Any) -> Any:
            self._draw_alike(index, "after")
            return forward(*args, **kwargs)

        return aligned

    def _noting(self, index: int, forward: Forward) -> Forward:
        def noting(*args: Any, **kwargs: Any) -> Any:
            self._given[index] = _versions((args, kwargs))
            self._draw_alike(index, "before")
            return forward(*args, **kwargs)

        return noting

    def _keeping(self, index: int, forward: Forward) -> Forward:
        """Keep what `forward` returns; hooks that change it are called in every run."""

        def keeping(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self._draw_alike(index, "after")
            given, copied = self._given.pop(index, []), index in self._overwritten
            kept = _Kept(
                _fresh(output) if copied else _detached(output), handed_on=_share_memory(given, output)
            )
            again = index in self._called
            self._called.add(index)
            lasts = not (again or _moved(given) or (copied and kept.handed_on))
            self._kept[index] = kept if lasts else None
            return output

        return keeping

    def _draw_alike(self, index: int, moment: str) -> None:
        """Note the random state at a moment of a recorded call; take it up again in the calls after it."""
        if not (self._recording or self._random):
            return
        key = index, moment, self._moments[index, moment]
        self._moments[index, moment] += 1
        if self._recording:
            self._random[key] = random_state(self._device)
        elif key in self._random:
            restore_random_state(self._random[key], self._device)


class _Kept:
    """What a unit returned, and whether some of it is what it was given."""

    def __init__(self, output: Any, *, handed_on: bool) -> None:
        self.output, self.handed_on = output, handed_on
        self._versions = _versions(output)

    @property
    def overwritten(self) -> bool:
        return _moved(self._versions)


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


def _versions(tree: Any) -> Versions:
    """All tensors of a structure, and how often each was written into; inference tensors are not."""
    found = (leaf if isinstance(leaf, Tensor) else hidden_output(leaf) for leaf in tree_leaves(tree))
    return [(leaf, leaf._version) for leaf in found if leaf is not None and not leaf.is_inference()]


def _moved(versions: Versions) -> bool:
    return any(tensor._version != version for tensor, version in versions)


def _share_memory(versions: Versions, tree: Any) -> bool:
    return not _storages(versions).isdisjoint(_storages(_versions(tree)))


def _storages(versions: Versions) -> set[int]:
    dense = (tensor for tensor, _ in versions if tensor.layout is torch.strided)
    return {tensor.untyped_storage().data_ptr() for tensor in dense}


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """By place and by name, as `shoal.calling.call` gives them."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _fresh(tree: Any) -> Any:
    """Copy all tensors of a structure; those that share memory share it still."""
    memo: dict[int, Any] = {}
    return _mapped(tree, lambda tensor: deepcopy(tensor.detach(), memo))


def _detached(tree: Any) -> Any:
    """The same tensors without their history; a structure without any is handed on as it is."""
    return _mapped(tree, lambda tensor: tensor.detach() if tensor.requires_grad else tensor)


def _mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    def each(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        hidden = hidden_output(leaf)
        return leaf if hidden is None else replace_hidden(leaf, function(hidden))

    return tree_map(each, tree)
