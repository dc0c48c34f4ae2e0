"""How what a class builds of a config differs from what it builds of the config without some layers.

Module by module: a layer that would not be what it was at its new place is found here, before anything
is cut: another kind of attention, another window, another scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from shoal.architectures.fields import LAYER_AXES, NUMBERS, REFERENCES
from shoal.architectures.rules import Inexpressible
from shoal.architectures.skeletons import is_config, listed

__all__ = ["Differences", "SlicedWeight", "differences", "original_name", "slice_layers"]

Kept = Mapping[str, Sequence[int]]
Told = Mapping[str, tuple[Any, Any]]

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
# Kept by torch and by those who hook into modules; or of matter in training alone.
_IGNORED = frozenset(
    {*vars(nn.Module()), "drop_prob", "drop_path_rate", "layerdrop", "gradient_checkpointing"}
)


@dataclass(frozen=True, kw_only=True)
class SlicedWeight:
    """A weight outside of the layers that holds a part for each of them.

    Attributes:
        name: Its dotted name.
        axis: Along which axis the parts lie.
        length: How many there were.
        kept: Numbers of those that stay.
    """

    name: str
    axis: int
    length: int
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What changes in a model when layers go.

    Attributes:
        values: New values of attributes, by the dotted name that their module has after.
        sliced: Weights that lose parts.
    """

    values: Mapping[str, Mapping[str, Any]]
    sliced: tuple[SlicedWeight, ...]


def slice_layers(whole: Tensor, weight: SlicedWeight) -> Tensor:
    """Return a weight without the parts of the layers that go."""
    parts = whole.unflatten(weight.axis, (weight.length, -1))
    kept = torch.tensor(weight.kept, device=whole.device)
    return parts.index_select(weight.axis, kept).flatten(weight.axis, weight.axis + 1)


def original_name(name: str, kept: Kept) -> str:
    """Return the name that a module had before the lists lost layers.

    Example:
        >>> original_name("model.layers.1.mlp", {"model.layers": (0, 3)})
        'model.layers.3.mlp'
    """
    for container, numbers in kept.items():
        number, rest = _entry(name, container)
        if number is not None and number < len(numbers):
            return ".".join(filter(None, (container, str(numbers[number]), rest)))
    return name


def _entry(name: str, container: str) -> tuple[int | None, str]:
    """The number of the entry of a list in which a module stands, and its name inside; None if in none."""
    prefix = f"{container}." if container else ""
    number, _, rest = name.removeprefix(prefix).partition(".")
    return (int(number), rest) if name.startswith(prefix) and number.isdecimal() else (None, "")


def differences(
    before: nn.Module, after: nn.Module, kept: Kept, told: Told = MappingProxyType({})
) -> Differences:
    """Return what changes, if every layer that stays is what it was, at its new place.

    Args:
        before: What the class builds of the config before.
        after: What it builds of the config after.
        kept: Numbers of the layers that stay, ascending, by the dotted path of their list.
        told: Values before and after of the config's lists that describe layers: a layer may hold a
            copy of the whole list.

    Raises:
        Inexpressible: If another network would be built; says in what.
    """
    old = dict(before.named_modules(remove_duplicate=False))
    new = dict(after.named_modules(remove_duplicate=False))
    origins = {name: original_name(name, kept) for name in new}
    _check_names(old, origins, kept)
    values: dict[str, dict[str, Any]] = {}
    sliced: list[SlicedWeight] = []
    for name, module in new.items():
        was = old[origins[name]]
        if _kind(was) is not _kind(module):
            kinds = type(was).__name__, type(module).__name__
            raise Inexpressible(f"in place of {origins[name]} (a {kinds[0]}) there would be a {kinds[1]}")
        inside = _is_inside(name, kept)
        pair = _Pair(was=was, now=module, origin=origins[name], kept=kept, told=told, inside=inside)
        if changed := pair.changed():
            values[name] = changed
        lengths = {container: len(list(before.get_submodule(container).children())) for container in kept}
        sliced += pair.resized(name, lengths)
    return Differences(values=values, sliced=tuple(sliced))


def _kind(module: nn.Module) -> type[nn.Module]:
    """The module's class; what drops whole paths in training hands them through otherwise."""
    if type(module).__name__.endswith("DropPath"):
        return nn.Identity
    # Each parametrised module has a class of its own, made of the one that it had.
    return type(module).__mro__[1] if is_parametrized(module) else type(module)


def _check_names(old: Mapping[str, nn.Module], origins: Mapping[str, str], kept: Kept) -> None:
    strange = [name for name, origin in origins.items() if origin not in old]
    left = sorted({name for name in old if _stays(name, kept)} - set(origins.values()))
    if strange or left:
        raise Inexpressible(f"another network would be built, with or without {listed(strange or left)}")


def _stays(name: str, kept: Kept) -> bool:
    entries = ((_entry(name, container)[0], numbers) for container, numbers in kept.items())
    return all(number is None or number in numbers for number, numbers in entries)


def _is_inside(name: str, kept: Kept) -> bool:
    return any(_entry(name, container)[0] is not None for container in kept)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A module before and after; `inside` a layer nothing but numbers may change."""

    was: nn.Module
    now: nn.Module
    origin: str
    kept: Kept
    told: Told
    inside: bool

    def changed(self) -> dict[str, Any]:
        """New values of attributes."""
        before, after = _attributes(self.was), _attributes(self.now)
        return {
            name: vars(self.now)[name]
            for name in {**before, **after}
            if self._changes(name, before.get(name), after.get(name))
        }

    def _changes(self, name: str, old: Any, new: Any) -> bool:
        if type(old) is type(new) and (old == new or _close(old, new)):
            return False
        number = name in NUMBERS and type(old) is type(new) is int
        if number or (name in REFERENCES and any(_moved(old, kept) == new for kept in self.kept.values())):
            return True
        if name in self.told and _same(self.told[name], (old, new)):
            return True
        if self.inside or isinstance(new, float):
            raise Inexpressible(f"{name} of {self.origin or 'the model'} would be {new!r} and was {old!r}")
        return name in vars(self.now)

    def resized(self, name: str, lengths: Mapping[str, int]) -> list[SlicedWeight]:
        """Weights that lose parts; `name` is the module's after."""
        before, after = _weights(self.was), _weights(self.now)
        names = [own for own in before.keys() | after.keys() if not _equal(before.get(own), after.get(own))]
        return [part for own in sorted(names) for part in self._resized(name, own, lengths)]

    def _resized(self, name: str, own: str, lengths: Mapping[str, int]) -> list[SlicedWeight]:
        old, new = (_weights(module).get(own) for module in (self.was, self.now))
        if not self.inside and new is None and own in self.was._non_persistent_buffers_set:
            # What only the removed layers needed.
            return []
        full = f"{name}.{own}".lstrip(".")
        axis = LAYER_AXES.get(".".join(full.rsplit(".", 2)[-2:]))
        if not (isinstance(old, tuple) and isinstance(new, tuple)):
            raise Inexpressible(f"{f'{self.origin}.{own}'.lstrip('.')} would be another one")
        if self.inside or axis is None:
            sizes = f"of the size {new} and not {old}"
            raise Inexpressible(f"{f'{self.origin}.{own}'.lstrip('.')} would be another one, {sizes}")
        for container, numbers in self.kept.items():
            if old[axis] * len(numbers) == new[axis] * lengths[container]:
                return [SlicedWeight(name=full, axis=axis, length=lengths[container], kept=tuple(numbers))]
        raise Inexpressible(f"{full} would be of the size {new} and not {old}")


def _same(told: tuple[Any, Any], held: tuple[Any, Any]) -> bool:
    lists = (*told, *held)
    return all(isinstance(each, (list, tuple)) for each in lists) and [*map(list, told)] == [*map(list, held)]


def _moved(number: Any, kept: Sequence[int]) -> int | None:
    """The new number of a layer."""
    return kept.index(number) if type(number) is int and number in kept else None


def _close(old: Any, new: Any) -> bool:
    """Whether two numbers are the same but for their last bits."""
    return isinstance(old, float) and math.isclose(old, new, rel_tol=1e-15)


def _equal(old: Any, new: Any) -> bool:
    return type(old) is type(new) and bool(old == new)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside parameters, buffers, modules and configs.

    What is no plain value is named by its type, so that another kind of object is seen.
    """
    own = module._parameters.keys() | module._buffers.keys() | module._modules.keys()
    return {
        name: _plain(value)
        for name, value in vars(module).items()
        if not (name in own or name in _IGNORED or is_config(value))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        parts = [_plain(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_plain, value))
    if isinstance(value, Tensor):
        return _Values(value)
    return f"<{getattr(value, '__qualname__', None) or type(value).__qualname__}>"


class _Values:
    """A tensor that equals another if shape and values do; on the meta device shapes alone are known."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Values) or self.tensor.shape != other.tensor.shape:
            return False
        if self.tensor.is_meta or other.tensor.is_meta:
            return True
        return self.tensor.dtype == other.tensor.dtype and torch.equal(self.tensor, other.tensor)

    __hash__ = None  # type: ignore[assignment]


def _weights(module: nn.Module) -> dict[str, Any]:
    """Shapes of a module's own parameters and saved buffers, and the values of other buffers."""
    tensors = {**module._parameters, **module._buffers}
    derived = module._non_persistent_buffers_set
    return {
        name: None if tensor is None else _Values(tensor) if name in derived else tuple(tensor.shape)
        for name, tensor in tensors.items()
    }
