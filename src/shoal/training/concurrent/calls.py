"""How calls of a network in training are met: before and after each, and with what inputs."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from shoal.architectures.bypassing import is_compiled
from shoal.errors import ConfigError
from shoal.units import Chain

__all__ = ["Meets", "check_gateable", "check_uncompiled", "inputs_of", "met"]


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
        # Those that are there already change what is called when the call is replayed, too.
        model.register_forward_pre_hook(hooks.before, with_kwargs=True, prepend=True),
        model.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
    ]


class _Hooks:
    def __init__(self, told: Meets | None) -> None:
        self.told = told

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        return _Hooks(None)

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.told is not None:
            self.told.enter(args, kwargs)

    def after(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.told is not None:
            self.told.leave(output)


def check_gateable(model: nn.Module, chain: Chain) -> None:
    """Check that gates can be put on a network.

    Raises:
        ConfigError: If it is compiled as a whole, or a part of it with units inside; if it is wrapped for
            several devices; if it has gates already.
    """
    kind = type(model).__name__
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ConfigError(f"asked to put gates on a {kind}: give the network inside, `.module`.")
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    if any(isinstance(owner, _Hooks) and owner.told is not None for owner in owners):
        raise ConfigError(
            f"asked to put gates on a {kind} that has gates already. finish() or close() the pruner that it "
            "has first; if units have left it, make the network anew."
        )
    _check_compiled(model, chain)


def check_uncompiled(model: nn.Module) -> None:
    """Check that a gated network was not compiled since.

    Raises:
        ConfigError: If it was.
    """
    if model._compiled_call_impl is not None:
        raise ConfigError(f"asked to call a gated {type(model).__name__} that is {_AS_A_WHOLE}")


# It would be made anew for every draw.
_AS_A_WHOLE = (
    "compiled as a whole: every draw would compile it anew. Pass it as it was, and compile its units, each "
    "by itself (block.compile())."
)


def _check_compiled(model: nn.Module, chain: Chain) -> None:
    units = {model.get_submodule(path) for unit in chain for path in unit.modules}
    for name, module in model.named_modules():
        if is_compiled(module) and not units.isdisjoint(set(module.modules()) - {module}):
            what = f"units of {name!r}, which is" if name else "a network that is"
            raise ConfigError(f"asked to put gates on {what} {_AS_A_WHOLE}")


def inputs_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name, those by place first; by number where the forward has no name."""
    known = inspect.signature(model.forward).parameters.values()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [each.name for each in known if each.kind in by_place]
    names += map(str, range(len(names), len(args)))
    return dict(zip(names, args, strict=False)) | kwargs
