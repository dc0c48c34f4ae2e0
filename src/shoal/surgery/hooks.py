"""What Accelerate has hung on a model (`device_map`, offloading) that a copy does not carry by itself.

Copying a module copies its hooks and the forward that calls them. What is left to do here: weights that
are offloaded are not copied but shared, since hooks only read them; `hf_device_map` follows the new names;
methods that were replaced on the model, such as `to`, act on the copy and no longer on the original.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from itertools import chain
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from shoal.errors import ConfigError

__all__ = ["check_writable", "rehook_", "shared_by_hooks"]


def shared_by_hooks(model: nn.Module) -> list[object]:
    """Return what the hooks of a copy may share with those of the model: offloaded weights, which are
    only read, and hooks of other models that step back when this one runs.

    Args:
        model: The model, with Accelerate's hooks or without.
    """
    own = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
    shared: list[object] = []
    for _, hook in _hooks(model):
        store = _store(hook)
        entries = store if isinstance(store, dict) else getattr(store, "state_dict", {})
        shared += [each for each in entries.values() if isinstance(each, Tensor) and id(each) not in own]
        if (other := getattr(hook, "prev_module_hook", None)) is not None:
            shared.append(other)
    return shared


def rehook_(small: nn.Module, model: nn.Module, copies: Mapping[int, Any]) -> None:
    """Let what hangs on a copy know it, and not the original.

    Args:
        small: The copy, whose modules have their last names.
        model: The original.
        copies: The copy of each module of the original, by its id; something of another class where the
            module was not copied.
    """
    gone = [module for module in model.modules() if type(copies.get(id(module))) is not type(module)]
    _forget_(small, [hook for module in gone for hook in _hooks_of(module)])
    for module in model.modules():
        if "hf_device_map" in vars(module) and module not in gone:
            copied = copies[id(module)]
            copied.hf_device_map = _followed(module, copied, copies)
    seen: dict[int, Any] = {}
    for module in small.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType):
                vars(module)[name] = _rebound(value, copies, seen)


def check_writable(model: nn.Module, *, stock: bool) -> None:
    """Check that all weights of a model are within reach of what writes them.

    Args:
        model: The model.
        stock: Whether transformers writes it, which fetches what its own `device_map` has offloaded.

    Raises:
        ConfigError: If weights are offloaded in another way, or were never loaded.
    """
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    places = set(map(str, getattr(model, "hf_device_map", {}).values()))
    if not away or (stock and len(places) > 1 and places & {"cpu", "disk"}):
        return
    raise ConfigError(
        f"asked to save {type(model).__name__}: {len(away)} of its weights ({away[0]}, …) are not held in "
        "memory but offloaded, or were never loaded. Load it without offloading, or cut its folder: "
        "shoal apply FOLDER plan.json."
    )


def _hooks(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    return ((module, hook) for module in model.modules() for hook in _hooks_of(module))


def _hooks_of(module: nn.Module) -> tuple[Any, ...]:
    hook = vars(module).get("_hf_hook")
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))


def _store(hook: Any) -> Any:
    """Where a hook reads offloaded weights, by their names in the model that was offloaded."""
    store: Any = getattr(hook, "weights_map", None)
    while hasattr(store, "dataset"):
        store = store.dataset
    return store


def _forget_(small: nn.Module, gone: list[Any]) -> None:
    """Let go of the offloaded weights that only modules which are gone have read."""
    prefixes = tuple(
        filter(None, (getattr(getattr(hook, "weights_map", None), "prefix", "") for hook in gone))
    )
    for store in {
        id(store): store for _, hook in _hooks(small) if (store := _store(hook)) is not None
    }.values():
        for entries in (store, getattr(store, "state_dict", None), getattr(store, "index", None)):
            if isinstance(entries, dict):
                for key in [key for key in entries if key.startswith(prefixes)]:
                    del entries[key]
        if hasattr(store, "all_keys"):
            store.all_keys = [key for key in store.all_keys if not key.startswith(prefixes)]


def _followed(model: nn.Module, small: nn.Module, copies: Mapping[int, Any]) -> dict[str, Any]:
    """The model's device map with the names of the copy, without what is gone."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {id(module): name for name, module in small.named_modules()}
    found = {}
    for path, device in vars(model)["hf_device_map"].items():
        # Some entries name a parameter.
        owner, leaf = (path, "") if path in modules else path.rpartition(".")[::2]
        copied = copies.get(id(modules.get(owner)))
        if id(copied) in names and type(copied) is type(modules[owner]):
            found[".".join(filter(None, (names[id(copied)], leaf)))] = device
    return found


def _rebound(value: Any, copies: Mapping[int, Any], seen: dict[int, Any]) -> Any:
    """The function with the copies of the modules that it has closed over."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _rebound(value.__self__, copies, seen))
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    if id(value) not in seen:
        cells = tuple(CellType() for _ in value.__closure__)
        copied = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        seen[id(value)] = functools.update_wrapper(copied, value)
        copied.__kwdefaults__ = value.__kwdefaults__
        for new, old in zip(cells, value.__closure__, strict=True):
            new.cell_contents = _rebound(old.cell_contents, copies, seen)
        vars(copied).update({name: _rebound(each, copies, seen) for name, each in vars(value).items()})
    return seen[id(value)]
