"""Layers and the shortcuts around them become plain layers again, after training has removed some.

A layer that is left takes up its shortcut: S x + f(x) is one convolution or linear layer, the batch norm
folded in. Of a layer that has gone, S is left: nothing where it is the identity, and otherwise a linear map
that becomes part of the layer behind or before it, where nothing bent stands between, no border differs and
no more is to be computed.

Linear layers are convolutions of one tap here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shoal.architectures.hidden import Bypass
from shoal.errors import SurgeryError, UnitError
from shoal.surgery.affine import Affine, convolution, exact_device, fold_norm, identity, to_convolution
from shoal.surgery.merge import add, compose
from shoal.training.shortcuts import (
    LAYERS,
    ZEROS,
    Projected,
    Shortcut,
    all_pads,
    is_row,
    refill_,
    why_unfoldable,
)

__all__ = ["fold_shortcuts"]

# What changes nothing in evaluation.
_CLEAR = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def fold_shortcuts(model: nn.Module) -> nn.Module:
    """Return a new, ordinary network in which every layer has taken up its shortcut.

    In evaluation it answers as `model` does, but for rounding. Weights are computed in float64 and put back
    into their dtype. Batch norms of layers with shortcuts are part of these afterwards. A dropout between
    two layers that become one goes. What layers it has follows from shapes alone: the same steps from fresh
    weights make a network that takes its state dict.

    What was gained is to be counted against the plain network, which had no shortcuts:
    `count_macs(folded, example).total / count_macs(plain, example).total`.

    Args:
        model: What `with_shortcuts` returned, trained, some of its units removed by `shoal.apply` or by a
            pruner that has finished; stays untouched.

    Raises:
        UnitError: If units have left that a pruner has not finished with.
        SurgeryError: If a shortcut stands elsewhere than in an `nn.Sequential`.

    Example:
        >>> from shoal.training.shortcuts import with_shortcuts
        >>> plain = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> fold_shortcuts(with_shortcuts(plain, torch.ones(1, 2)))
        Sequential(
          (0): Linear(in_features=2, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=4, bias=True)
          (3): ReLU()
          (4): Linear(in_features=4, out_features=1, bias=True)
        )
    """
    for name, module in model.named_modules():
        if isinstance(module, Shortcut) and "layer" not in module._modules:
            raise UnitError(
                f"asked to fold the shortcuts of {type(model).__name__}: the layer of {name!r} has left, but "
                "its place is still held for training. Fold what the pruner's finish() returns."
            )
    folded = copy.deepcopy(model)
    held = Counter(module for _, module in folded.named_modules(remove_duplicate=False))
    shared = {module for module, times in held.items() if times > 1}
    for row in _outermost(folded):
        entries = list(_entries(row, shared))
        _merge_left_(entries)
        _rebuild_(row, entries)
    left = [name for name, each in folded.named_modules() if isinstance(each, (Shortcut, Projected))]
    if left:
        raise SurgeryError(
            f"asked to fold the shortcuts of {type(model).__name__}: {', '.join(left)} is no entry of an "
            "nn.Sequential. Fold what with_shortcuts made."
        )
    return folded


@dataclass(frozen=True, kw_only=True, eq=False)
class _Map:
    """A linear layer or convolution as an affine map.

    Attributes:
        affine: The map, in float64.
        after: Zeros behind the input, a number an axis; negative numbers crop.
        linear: Whether it is a linear layer.
        biased: Whether it has a bias.
        like: A weight whose dtype and device the layer has.
    """

    affine: Affine
    after: tuple[int, ...]
    linear: bool
    biased: bool
    like: torch.Tensor

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after, a pair an axis."""
        return tuple((-before, after) for before, after in zip(self.affine.offset, self.after, strict=True))

    @property
    def weights(self) -> int:
        """How many numbers its weight has: what it costs at each place of its output."""
        return self.affine.weight.numel()


@dataclass(kw_only=True, eq=False)
class _Entry:
    """What stands in one place of a row.

    Attributes:
        row, key: The place.
        layer: The modules that `map` is of.
        behind: Other modules, behind the layer.
        map: What the layer computes; None where there is none.
        lone: Whether it is the shortcut of a layer that has gone.
    """

    row: nn.Sequential
    key: str
    layer: list[nn.Module]
    behind: list[nn.Module]
    map: _Map | None = None
    lone: bool = False


def _outermost(model: nn.Module) -> list[nn.Sequential]:
    """The rows that stand in no other, nor in a shortcut."""
    rows = [module for module in model.modules() if is_row(module)]
    inside = {entry for row in rows for entry in row}
    for module in model.modules():
        if isinstance(module, (Shortcut, Projected)):
            inside.update(module.children())
    return [row for row in rows if row not in inside]


def _entries(row: nn.Sequential, shared: Collection[nn.Module]) -> Iterator[_Entry]:
    """Yield what stands in a row and in the rows inside it, in the order in which it runs.

    What is shared is called elsewhere too, and stays as it is.
    """
    for key, module in row._modules.items():
        if module in shared and module is not None:
            yield _Entry(row=row, key=key, layer=[], behind=[module])
        elif module is not None and is_row(module):
            yield from _entries(module, shared)
        elif module is not None:
            yield _entry(row, key, module)


def _entry(row: nn.Sequential, key: str, module: nn.Module) -> _Entry:
    place: Any = {"row": row, "key": key}
    if isinstance(module, Shortcut):
        return _folded(place, module, None)
    if isinstance(module, Projected):
        around = _map_of(list(module.around))
        if isinstance(module.shortcut, Shortcut):
            return _folded(place, module.shortcut, around)
        return _Entry(**place, layer=list(module.around), behind=[], map=around, lone=True)
    if isinstance(module, Bypass):
        return _Entry(**place, layer=[], behind=[])
    if why_unfoldable(module):
        return _Entry(**place, layer=[], behind=[module])
    return _Entry(**place, layer=[module], behind=[], map=_map_of([module]))


def _folded(place: dict[str, Any], shortcut: Shortcut, around: _Map | None) -> _Entry:
    """One layer in the place of a layer and its shortcut, its activation behind it."""
    own = _map_of(list(shortcut.layer))
    weight = own.affine.weight
    same = identity(own.affine.in_channels, len(own.after), dtype=weight.dtype, device=weight.device)
    # The shortcut's tap is one of the layer's, so that no padding changes.
    both = replace(own, affine=add(own.affine, same if around is None else around.affine))
    bends = not isinstance(shortcut.activation, nn.Identity)
    return _Entry(
        **place,
        layer=_modules(both, training=shortcut.training),
        behind=[shortcut.activation] if bends else [],
        map=both,
    )


def _map_of(modules: Sequence[nn.Module]) -> _Map:
    """The map of a layer, of the zeros that stand before it, and of the batch norm behind it."""
    pads = [module.padding for module in modules if isinstance(module, ZEROS)]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    layer: Any = next(module for module in modules if isinstance(module, LAYERS))
    exact: Any = {"dtype": torch.float64, "device": exact_device(layer.weight.device)}
    linear = isinstance(layer, nn.Linear)
    affine = _of_linear(layer, **exact) if linear else convolution(layer, **exact)
    total = [0] if linear else all_pads(layer)
    after = tuple(both + before for both, before in zip(total, affine.offset, strict=True))
    for flat in pads:
        # The last axis comes first.
        before = tuple(reversed(flat[::2]))
        affine = replace(affine, offset=tuple(a - b for a, b in zip(affine.offset, before, strict=True)))
        after = tuple(a + b for a, b in zip(after, reversed(flat[1::2]), strict=True))
    for norm in norms:
        affine = fold_norm(affine, norm)
    biased = layer.bias is not None or bool(norms)
    return _Map(affine=affine, after=after, linear=linear, biased=biased, like=layer.weight)


def _of_linear(layer: nn.Linear, *, dtype: torch.dtype, device: torch.device) -> Affine:
    """A linear layer as a convolution of one tap."""
    weight = layer.weight.detach().to(device).to(dtype)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
    return Affine(weight=weight.unsqueeze(-1), bias=bias, stride=(1,), offset=(0,), dilation=(1,))


def _modules(map: _Map, *, training: bool) -> list[nn.Module]:
    """Ordinary modules that compute a map: a layer, behind padding where that differs before and after."""
    weight, bias = (
        each.to(map.like.dtype).to(map.like.device) for each in (map.affine.weight, map.affine.bias)
    )
    if map.linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        layer.weight, layer.bias = nn.Parameter(weight.squeeze(-1)), nn.Parameter(bias)
        row: list[nn.Module] = [layer]
    else:
        made = to_convolution(replace(map.affine, weight=weight, bias=bias), padding=map.pads)
        row = list(made) if isinstance(made, nn.Sequential) else [made]
    if not map.biased:
        row[-1].bias = None  # type: ignore[assignment]
    return [module.train(training).requires_grad_(map.like.requires_grad) for module in row]


def _merge_left_(entries: list[_Entry]) -> None:
    """Let shortcuts whose layers have gone become part of the layers next to them."""
    before: _Entry | None = None
    between: list[_Entry] = []
    for entry in entries:
        if entry.map is None:
            if all(isinstance(module, _CLEAR) for module in entry.behind):
                between.append(entry)
            else:
                before = None
            continue
        merged = None
        if before is not None and (before.lone or entry.lone):
            merged = _in_sequence(before.map, entry.map)  # type: ignore[arg-type]
        if before is not None and merged is not None:
            entry.map, entry.lone = merged, before.lone and entry.lone
            entry.layer = _modules(merged, training=entry.row.training)
            before.layer = []
            for each in between:
                each.behind = []
        before, between = (None if entry.behind else entry), []


def _in_sequence(first: _Map, second: _Map) -> _Map | None:
    """One map in place of two; None where they differ at the border, or two cost less than one."""
    if first.linear != second.linear or len(first.after) != len(second.after):
        return None
    # Zeros in front of the second map stand for what the first makes of zeros, if it crops and adds nothing.
    pointwise = set(first.affine.kernel) == {1} and not any(map(any, first.pads)) and not first.biased
    if not pointwise and any(zeros > 0 for pair in second.pads for zeros in pair):
        return None
    after = tuple(
        mine + step * theirs
        for mine, step, theirs in zip(first.after, first.affine.stride, second.after, strict=True)
    )
    affine = compose(first.affine, second.affine)
    merged = replace(second, affine=affine, after=after, biased=first.biased or second.biased)
    apart = first.weights * prod(second.affine.stride) + second.weights
    return merged if merged.weights <= apart else None


def _rebuild_(row: nn.Sequential, entries: Sequence[_Entry]) -> None:
    """Put the modules of the entries in their places, in a row and in those inside it."""
    mine = {entry.key: entry for entry in entries if entry.row is row}
    filled: dict[str, nn.Module] = {}
    for key, module in row._modules.items():
        if key in mine:
            for part in (*mine[key].layer, *mine[key].behind):
                name = key
                while name in filled or (name != key and name in row._modules):
                    name = f"{name}_{type(part).__name__.lower()}"
                filled[name] = part
        elif is_row(module):
            was_empty = not len(module)
            _rebuild_(module, entries)
            if len(module) or was_empty:
                filled[key] = module
    refill_(row, filled.items())
