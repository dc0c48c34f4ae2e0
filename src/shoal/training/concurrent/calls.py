"""How calls of a network in training are met: before and after each, and with what inputs."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from shoal.architectures.bypassing import is_compiled
from shoal.calling import Inputs
from shoal.errors import ConfigError
from shoal.units import Chain

__all__ = ["Meets", "check_compiled", "inputs_of", "met"]


class Meets(Protocol):
    """What is told of calls."""

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call begins, with these arguments."""

    def leave(self, output: Any) -> None:
        """It has returned this, or None where it failed."""


def met(model: nn.Module, by: Meets) -> list[RemovableHandle]:
    """Return the handles of hooks that tell of all calls of a network; a copy of it has lost them."""
    hooks = _Hooks(by)
    return [
        model.register_forward_pre_hook(hooks.before, with_kwargs=True),
        model.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
    ]


class _Hooks:
    def __init__(self, told: Meets | None) -> None:
        self._told = told

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        return _Hooks(None)

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._told is not None:
            self._told.enter(args, kwargs)

    def after(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._told is not None:
            self._told.leave(output)


def check_compiled(model: nn.Module, chain: Chain) -> None:
    """Check that no two units share what torch.compile has made: it would be made anew for every draw.

    Raises:
        ConfigError: If the network is compiled as a whole, or a part of it with units inside.
    """
    units = {model.get_submodule(path) for unit in chain for path in unit.modules}
    for name, module in model.named_modules():
        if is_compiled(module) and not units.isdisjoint(set(module.modules()) - {module}):
            what = f"units of {name!r}, which is" if name else "a network that is"
            raise ConfigError(
                f"asked to put gates on {what} compiled as a whole: every draw would compile it anew. Pass "
                "it as it was, and compile its units, each by itself (block.compile())."
            )


def inputs_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Return a call's arguments as inputs: all by name, or all by place.

    Raises:
        ConfigError: If some come by place and others by name, and the forward does not name the first.
    """
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
