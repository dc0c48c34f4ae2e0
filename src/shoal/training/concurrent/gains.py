"""What one batch says of a gated unit's gain: the loss without the unit, less the loss with it.

`flip_gains` measures it: the same batch runs once more from the unit on, its gate the other way. It has no
bias. `SlopeGains` takes the slope of the loss at the gate as it was drawn (straight-through). It is nearly
free and biased, since losses saturate: it leaves gates undecided. It is there to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shoal.architectures.bypassing import answer_of, forward_replaced
from shoal.architectures.hidden import hidden_input, hidden_output, replace_hidden, stand_ins
from shoal.calling import device_of
from shoal.training.concurrent.gates import Gates
from shoal.units import Unit

__all__ = ["Estimator", "SlopeGains", "flip_gains"]

LossOf = Callable[[Any], float]


class Estimator(Protocol):
    """How gains are estimated from the last call in training."""

    def __call__(self, gates: Gates, units: Iterable[int], loss_of: LossOf) -> dict[int, float]:
        """Return each unit's gain.

        Args:
            gates: The gates, after a call in training and its backward pass.
            units: The gated units that are asked about.
            loss_of: Mean loss of what the network returns for that batch.
        """
        ...


def flip_gains(gates: Gates, units: Iterable[int], loss_of: LossOf) -> dict[int, float]:
    """Return each unit's gain by turning its gate, the other gates as they were drawn."""
    gates.check_called()
    base = loss_of(gates.outputs)
    gains = {}
    # The last first: each shares what comes before it with the call in training.
    for index in sorted(units, reverse=True):
        turned = loss_of(gates.replayed(gates.off ^ {index}))
        gains[index] = base - turned if index in gates.off else turned - base
    return gains


@dataclass
class _Seen:
    """One unit in one call: the arguments of its modules, what it put out, and the gradient that came back
    there.
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    output: Tensor | None = None
    gradient: Tensor | None = None
    version: int = 0
    autocast: tuple[bool, torch.dtype] = False, torch.bfloat16

    @property
    def overwritten(self) -> bool:
        """Whether the network has written into what the unit put out."""
        return self.output is not None and self.output._version != self.version


class SlopeGains:
    """Gains by the slope of the loss at the gate as it was drawn; watches units until `close`.

    Args:
        gates: The gates.
    """

    def __init__(self, gates: Gates) -> None:
        self._gates, self._call = gates, 0
        self._seen: dict[int, _Seen] = {}
        gates.watching = self._watching

    def __call__(self, gates: Gates, units: Iterable[int], loss_of: LossOf) -> dict[int, float]:
        """Return each unit's gain; `loss_of` is not asked. Units whose output the network has written into
        are left out.
        """
        gates.check_called()
        gains = {}
        with gates.aside(), torch.no_grad():
            for index in units:
                seen = self._seen.get(index)
                if seen is not None and seen.gradient is not None and not seen.overwritten:
                    gains[index] = -_slope(gates, gates.chain[index], seen)
        self._seen.clear()
        return gains

    def close(self) -> None:
        """Watch no longer."""
        self._gates.watching = nullcontext
        self._seen.clear()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Note inside the `with` what gated units are called with, what they put out, and its gradients."""
        if self._call != self._gates.calls:
            self._call = self._gates.calls
            self._seen.clear()
        with forward_replaced(self._watched()):
            yield

    def _watched(self) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        for index in self._gates.theta:
            *earlier, last = _modules(self._gates, self._gates.chain[index])
            for module in earlier:
                yield module, self._noting(index, answer_of(module))
            yield last, self._keeping(index, self._noting(index, answer_of(last)))

    def _noting(self, index: int, answer: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            seen = self._seen.setdefault(index, _Seen([]))
            # Without gradients, the backward pass will call it again; after that, has called it again.
            if torch.is_grad_enabled() and seen.output is None:
                kind = device_of(self._gates.model).type
                seen.autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
                seen.calls.append(tree_map(_detached, (args, kwargs)))
            return answer(*args, **kwargs)

        return noting

    def _keeping(self, index: int, answer: Callable[..., Any]) -> Callable[..., Any]:
        def keeping(*args: Any, **kwargs: Any) -> Any:
            output = answer(*args, **kwargs)
            hidden, seen = hidden_output(output), self._seen[index]
            if hidden is None or seen.output is not None or not torch.is_grad_enabled():
                return output
            if not hidden.requires_grad:
                # Zeros in a branch's place, or what no weight has touched: it has a gradient from here on.
                hidden = hidden.detach().requires_grad_() + 0
                output = replace_hidden(output, hidden)
            seen.output, seen.version = hidden.detach(), hidden._version

            def note(gradient: Tensor) -> None:
                seen.gradient = gradient

            hidden.register_hook(note)
            return output

        return keeping


def _slope(gates: Gates, unit: Unit, seen: _Seen) -> float:
    """The gradient at the unit's output, times what the unit adds."""
    enabled, dtype = seen.autocast
    with torch.autocast(device_of(gates.model).type, dtype, enabled=enabled):
        return _difference(gates, unit, seen)


def _difference(gates: Gates, unit: Unit, seen: _Seen) -> float:
    closed = _through(stand_ins(unit.outputs, len(unit.modules)), seen)
    opened = seen.output if unit.index not in gates.off else _through(_modules(gates, unit), seen)
    if closed is None or opened is None or seen.gradient is None:
        return math.nan
    return float((seen.gradient.double() * (opened.double() - closed.double())).sum())


def _through(modules: list[nn.Module], seen: _Seen) -> Tensor | None:
    """What comes out of modules, each given what came out of the one before, and the rest as it was seen."""
    hidden: Tensor | None = None
    for module, (args, kwargs) in zip(modules, seen.calls, strict=True):
        if hidden is not None:
            given = hidden_input(args, kwargs)
            args = tuple(hidden if value is given else value for value in args)
            kwargs = {name: hidden if value is given else value for name, value in kwargs.items()}
        hidden = hidden_output(module(*args, **kwargs))
    return hidden


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _modules(gates: Gates, unit: Unit) -> list[nn.Module]:
    return [gates.model.get_submodule(path) for path in unit.modules]
