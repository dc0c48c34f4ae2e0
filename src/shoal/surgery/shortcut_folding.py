"""Layers and the shortcuts around them become plain layers again, after training has removed some.

A layer that is left takes up its shortcut: S x + f(x) is one convolution or linear layer, the batch norm
folded in. Of a layer that has gone, S is left: nothing where it is the identity, and otherwise a linear map
that becomes part of the layer behind or before it, where nothing bent stands between, no border differs and
no more is to be computed.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shoal.architectures.hidden import Bypass
from shoal.architectures.pretrained import dtype_of
from shoal.calling import inputs_like
from shoal.errors import ShoalWarning, SurgeryError, UnitError
from shoal.plan import Plan
from shoal.surgery import apply
from shoal.surgery.shortcut_layers import Projected, Shortcut
from shoal.surgery.shortcut_maps import LinearMap
from shoal.surgery.shortcuts import is_row, refill_, why_unfoldable, with_shortcuts

__all__ = ["fold_shortcuts", "folded_anew"]

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
        >>> import torch
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


def folded_anew(plain: nn.Module, plan: Plan) -> nn.Module:
    """Return the network of the layers that a training with shortcuts left: one that takes the state of the
    folded network which came of it. Its weights are of no matter.

    Args:
        plain: The plain network; stays untouched.
        plan: Which layers left. Its settings say under `shortcuts` what the network takes, as
            `describe_inputs` writes it.

    Raises:
        DataError: If the network does not run on that.
        PlanError: If the plan is of another network.
        UnitError: If no layer can have a shortcut.
    """
    dtype = dtype_of(plain)

    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    example = tree_map(cast, inputs_like(plan.settings["shortcuts"]))
    with warnings.catch_warnings():
        # What can have none was said when it was trained.
        warnings.simplefilter("ignore", ShoalWarning)
        added = with_shortcuts(plain, example)
    return fold_shortcuts(apply(added, plan))


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
    map: LinearMap | None = None
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
        around = LinearMap.of(list(module.around))
        if isinstance(module.shortcut, Shortcut):
            return _folded(place, module.shortcut, around)
        return _Entry(**place, layer=list(module.around), behind=[], map=around, lone=True)
    if isinstance(module, Bypass):
        return _Entry(**place, layer=[], behind=[])
    if why_unfoldable(module):
        return _Entry(**place, layer=[], behind=[module])
    return _Entry(**place, layer=[module], behind=[], map=LinearMap.of([module]))


def _folded(place: dict[str, Any], shortcut: Shortcut, around: LinearMap | None) -> _Entry:
    """One layer in the place of a layer and its shortcut, its activation behind it."""
    both = LinearMap.of(list(shortcut.layer)).beside(around)
    bends = not isinstance(shortcut.activation, nn.Identity)
    return _Entry(
        **place,
        layer=both.modules(training=shortcut.training),
        behind=[shortcut.activation] if bends else [],
        map=both,
    )


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
            merged = before.map.then(entry.map)  # type: ignore[union-attr]
        if before is not None and merged is not None:
            entry.map, entry.lone = merged, before.lone and entry.lone
            entry.layer = merged.modules(training=entry.row.training)
            before.layer = []
            for each in between:
                each.behind = []
        before, between = (None if entry.behind else entry), []


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
