"""Run the later part of a network again and again without its earlier part.

One forward call is recorded; in later calls the units before some point return what they returned
then, so that only what follows is computed. Whatever stands between the units is computed again, and
so is everything from the first unit on that was called more than once: its calls differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from shoal.architectures import forward_replaced, hidden_input, hidden_output, replace_hidden
from shoal.units import Chain

__all__ = ["recorded", "replayed"]

_REPEATED = object()


@contextmanager
def recorded(model: nn.Module, chain: Chain) -> Iterator[list[Any]]:
    """Yield a list that holds, after a forward call, what each unit returned."""
    returned: list[Any] = [None] * len(chain)

    def keeper(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            returned[index] = _fresh(output) if returned[index] is None else _REPEATED

        return hook

    with ExitStack() as stack:
        for unit in chain:
            handle = model.get_submodule(unit.modules[-1]).register_forward_hook(keeper(unit.index))
            stack.callback(handle.remove)
        yield returned


@contextmanager
def replayed(model: nn.Module, chain: Chain, returned: list[Any], stop: int) -> Iterator[None]:
    """Let units 0 … stop - 1 return what was recorded, inside the `with`."""
    replacements: list[tuple[nn.Module, Callable[..., Any]]] = []
    for unit in takewhile(lambda unit: returned[unit.index] is not _REPEATED, chain.units[:stop]):
        *earlier, last = unit.modules
        replacements += [(model.get_submodule(path), _hand_through) for path in earlier]
        replacements.append((model.get_submodule(last), _answer(returned[unit.index])))
    with forward_replaced(replacements):
        yield


def _fresh(output: Any) -> Any:
    """Copy the hidden state: the network may overwrite it in place."""
    hidden = hidden_output(output)
    return output if hidden is None else replace_hidden(output, hidden.clone())


def _answer(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _fresh(output)


def _hand_through(*args: Any, **kwargs: Any) -> Tensor | None:
    return hidden_input(args, kwargs)
