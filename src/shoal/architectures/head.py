"""Where the work of all units arrives: what the head of a network is given.

Shapes: B = batch, T = tokens, D = width, C H W = channels, height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from shoal.architectures.hidden import hidden_input, hidden_output
from shoal.calling import Inputs, call, device_of, evaluating, to_device
from shoal.errors import DataError
from shoal.units import Chain

__all__ = ["Head", "find_head"]

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the final representation is found while a network runs.

    Attributes:
        module: Dotted path of the layer that takes it; None where it is what the network returns.
        channels_first: Whether its features are on axis 1 and not on the last.
    """

    module: str | None
    channels_first: bool


def find_head(model: nn.Module, chain: Chain, example: Inputs, *, tokens: Sequence[int] = ()) -> Head:
    """Return where the final representation of a network is: what reaches its head from the last unit.

    Of the layers with a weight matrix that run after all units, the head is the first that takes one
    vector a sample, `(B, D)`, as behind a global pool; where there is none, simply the first. A last
    layer that is listed among the units, and stays, is the head too. The network is run once and left
    as it was found.

    Args:
        model: Any network.
        chain: Its units.
        example: What its forward takes.
        tokens: B and T of the example if it is text, in which every token is a sample: the head is then
            the first that takes `(B, T, D)`, or what the network returns if only that is so.

    Raises:
        DataError: If nothing floating-point arrives anywhere.

    Example:
        >>> from shoal.architectures import find_units
        >>> blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
        >>> net = nn.Sequential(*blocks, nn.ReLU(), nn.Linear(8, 2))
        >>> find_head(net, find_units(net, torch.zeros(1, 8)), torch.zeros(1, 8)).module
        '4'
    """
    order = _observe(model, chain, example)
    following = order.following(chain)
    places: list[tuple[str | None, Shape]] = [*following.items()]
    if order.returned:
        places.append((None, order.returned))
    if not places:
        raise DataError(
            f"asked for the final representation of {chain.model}: no layer runs after its units, and it "
            "returns no floating-point tensor."
        )
    text = [place for place in places if len(place[1]) == 3 and place[1][:2] == tuple(tokens)]
    vectors = [place for place in places if len(place[1]) == 2 and place[0] is not None]
    path, shape = [*text, *vectors, *places][0]
    layer = model.get_submodule(order.last_layer if path is None else path)
    spatial = len(shape) > 3 and (path is None or not isinstance(layer, nn.Linear))
    return Head(module=path, channels_first=spatial or isinstance(layer, _ConvNd))


@dataclass(kw_only=True)
class _Order:
    """In which order units were left and layers entered, each for the last time.

    Attributes:
        left: When each unit was left, by its index.
        entered: When each layer with a weight matrix was entered, and the shape of what it took.
        returned: Shape of what the network returned.
    """

    clock: int = 0
    left: dict[int, int] = field(default_factory=dict)
    entered: dict[str, tuple[int, Shape]] = field(default_factory=dict)
    returned: Shape = ()

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    @property
    def last_layer(self) -> str:
        return max(self.entered, key=lambda path: self.entered[path][0], default="")

    def following(self, chain: Chain) -> dict[str, Shape]:
        """Return the layers entered after all units were left, in their order."""
        rest = dict(self.left)
        while rest:
            last = max(rest, key=rest.__getitem__)
            found = sorted((when, path) for path, (when, _) in self.entered.items() if when > rest[last])
            # What can go is never the head; a block that must stay is none either.
            if found or chain[last].removable or len(self._layers(chain, last)) != 1:
                return {path: self.entered[path][1] for _, path in found}
            del rest[last]
        return {}

    def _layers(self, chain: Chain, index: int) -> list[str]:
        inside = tuple(f"{path}." for path in chain[index].modules)
        return [path for path in self.entered if f"{path}.".startswith(inside)]


def _observe(model: nn.Module, chain: Chain, example: Inputs) -> _Order:
    order = _Order()

    def leaving(index: int) -> Any:
        return lambda *_: order.left.__setitem__(index, order.tick())

    def entering(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = hidden_input(args, kwargs)
            if hidden is not None:
                order.entered[path] = order.tick(), tuple(hidden.shape)

        return hook

    with ExitStack() as stack:
        for unit in chain:
            last = model.get_submodule(unit.modules[-1])
            stack.callback(last.register_forward_hook(leaving(unit.index)).remove)
        for path, module in model.named_modules():
            if _mixes(module):
                hook = module.register_forward_pre_hook(entering(path), with_kwargs=True)
                stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        returned = hidden_output(call(model, to_device(example, device_of(model))))
    if returned is not None:
        order.returned = tuple(returned.shape)
    return order


def _mixes(module: nn.Module) -> bool:
    """Whether the module has a weight matrix of its own, not only inside of it."""
    own = any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
    return own or is_parametrized(module)
