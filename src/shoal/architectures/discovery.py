"""From a network to its units: run it, see what can be bypassed, say why the rest cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from shoal.architectures.bypassing import uncompiled
from shoal.architectures.cache import why_not_inside
from shoal.architectures.examples import example_for
from shoal.architectures.flow import record
from shoal.architectures.hidden import in_zeros
from shoal.architectures.huggingface import is_pretrained, owner_of
from shoal.architectures.layer_chain import chain_of_layers
from shoal.architectures.refitting import why_not
from shoal.architectures.selection import Candidate, select, weight
from shoal.architectures.sublayers import in_sublayers
from shoal.architectures.tracing import Call, matrices, trace
from shoal.architectures.trials import FAILURES, check_runs, mark_numbered_lists, mark_vital
from shoal.architectures.weightless import lent_weights
from shoal.calling import Inputs, device_of, to_device
from shoal.errors import ConfigError, DataError, UnknownArchitectureError
from shoal.measurement.counting import count_macs, count_params
from shoal.units import GRANULARITIES, Chain, Granularity, Unit

__all__ = ["find_units"]


def find_units(
    model: nn.Module, example: Inputs | None = None, *, granularity: Granularity = "block"
) -> Chain:
    """Return the units of any network: its smallest removable pieces in forward order.

    The network is run once to see which modules keep the shape, dtype and structure of their hidden
    state and can be bypassed, then again without them to see that it lives. It is left as it was
    found. Class names play no part.

    A network built on the meta device needs no memory for its weights here either: it has the same
    units as one with weights.

    Args:
        model: Any network.
        example: What its forward takes: a tensor, a tuple of arguments, or a dict of keywords. The
            MACs of the units are counted for it. May be left out for Hugging Face models.
        granularity: `block`, or `sublayer` for attention and MLP alone: the branches that a block adds
            to its hidden state one by one, each with the norm, scale and other modules that feed or
            follow nothing else. Blocks with a single branch (residual CNNs), and those whose branches
            are no modules of their own, stay units. `layer` for single convolutions, which methods that
            merge them work on.

    Returns:
        The chain. Units that cannot be removed are in it, with the reason in `why`.

    Raises:
        UnknownArchitectureError: If nothing was found that could be removed.
        DataError: If the network does not run on the example (the network's own error is its cause),
            or puts out numbers that are not finite.
        ConfigError: If there is no example, and the model does not say what it takes; or there is no
            such granularity.

    Example:
        >>> import torch
        >>> blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
        >>> net = nn.Sequential(nn.Linear(2, 8), *blocks)
        >>> [unit.name for unit in find_units(net, torch.zeros(1, 2)) if unit.removable]
        ['1', '2', '3']
    """
    if granularity not in GRANULARITIES:
        raise ConfigError(
            f"asked for units of the granularity {granularity!r}: {', '.join(GRANULARITIES)} work."
        )
    with uncompiled(model) as written:
        if granularity == "layer":
            return chain_of_layers(written, example_for(written) if example is None else example)
        with lent_weights(written):
            chain = _find(written, example, granularity)
        return _mark_inexpressible(written, chain, granularity)


def _find(model: nn.Module, example: Inputs | None, granularity: Granularity) -> Chain:
    example = to_device(example_for(model) if example is None else example, device_of(model))
    calls = _trace(model, example)
    _check_finite(model, calls)
    found = select(model, calls)
    _spare_extras(model, example, found, calls)
    if granularity == "sublayer":
        found = in_sublayers(model, example, found, calls)
    chain = _describe(model, example, found, calls)
    if not chain.removable:
        raise UnknownArchitectureError(_nothing_found(chain, calls))
    chain = mark_vital(model, example, chain)
    if not chain.removable:
        raise UnknownArchitectureError(_nothing_found(chain, calls))
    if not is_pretrained(model):
        chain = mark_numbered_lists(model, example, chain)
    return chain


def _trace(model: nn.Module, example: Inputs) -> dict[nn.Module, Call]:
    try:
        return trace(model, example)
    except FAILURES:
        # Says so in words if it is the network that fails on the example.
        check_runs(model, example)
        raise


def _check_finite(model: nn.Module, calls: dict[nn.Module, Call]) -> None:
    """NaN hides what is added to what, and so what the units are."""
    names = {module: name for name, module in model.named_modules()}
    bad = [names[module] for module, seen in calls.items() if not seen.finite and matrices(module)]
    if bad:
        raise DataError(
            f"asked for the units of {type(model).__name__}: on the example {bad[0]!r} returns numbers that "
            f"are not finite, the first of {len(bad)} that do. Look for NaN or infinity in the data and in "
            "the weights, and check the data's scale and the model's precision."
        )


def _spare_extras(
    model: nn.Module, example: Inputs, found: list[Candidate], calls: dict[nn.Module, Call]
) -> None:
    """Let None stand in for what only a unit can make where nothing uses it: attention weights, a state."""
    undescribed = [each.modules[-1] for each in found if calls[each.modules[-1]].outputs is None]
    if not undescribed:
        return
    flow = record(model, example)
    for module in undescribed:
        passage = flow.passages.get(module)
        if passage is not None and not any(flow.used(extra, beyond=module) for extra in passage.extras):
            calls[module].outputs = passage.outputs


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Dotted names of modules."""

    of: dict[nn.Module, str]

    def stage(self, candidate: Candidate, calls: dict[nn.Module, Call]) -> tuple[str, tuple[int, ...]]:
        """Where a unit, or its block, stands, and the shape that comes out of it."""
        block = candidate.block or candidate
        return self.of[block.container], calls[block.modules[-1]].out_shape

    def span(self, candidate: Candidate) -> tuple[str, tuple[str, ...], str]:
        names = tuple(self.of[module] for module in candidate.modules)
        container, first = self.of[candidate.container], names[0]
        if candidate.outputs is not None:
            return self.of[max(candidate.modules, key=weight)], names, container
        if len(names) > 1 and (last := names[-1].rpartition(".")[2]).isdigit():
            first = f"{first}:{int(last) + 1}"
        return first, names, container


def _describe(
    model: nn.Module, example: Inputs, found: list[Candidate], calls: dict[nn.Module, Call]
) -> Chain:
    macs = count_macs(model, example)
    names = _Names(of={module: name for name, module in model.named_modules()})
    owners, places = _owners(found), _places(model)
    head = max((seen.order for module, seen in calls.items() if matrices(module)), default=0)
    units: list[Unit] = []
    for index, candidate in enumerate(found):
        name, modules, container = names.span(candidate)
        first, last = calls[candidate.modules[0]], calls[candidate.modules[-1]]
        why = _why_not(candidate, calls, final=last.order >= head)
        why = why or _why_held(candidate, places, owners)
        units.append(
            Unit(
                name=name,
                index=index,
                modules=modules,
                container=container,
                group="",
                kind="+".join(type(module).__name__ for module in candidate.modules),
                params=count_params(nn.ModuleList(candidate.modules)),
                macs=sum(macs.by_module.get(path, 0) for path in modules),
                removable=not why,
                why=why,
                removal="delete"
                if isinstance(candidate.container, (nn.Sequential, nn.ModuleList))
                else "bypass",
                in_shape=first.in_shape,
                out_shape=last.out_shape,
                outputs=_outputs(candidate, last),
                after=candidate.after,
            )
        )
        if candidate.zeros:
            units[-1] = replace(units[-1], removal="bypass")
    return Chain(
        units=_grouped(units, [names.stage(candidate, calls) for candidate in found]),
        model=type(model).__name__,
        params=count_params(model),
        macs=macs.total,
        uncounted=macs.uncounted,
    )


def _outputs(candidate: Candidate, last: Call) -> Any:
    if candidate.outputs is not None:
        return candidate.outputs
    if candidate.zeros and last.added and last.keeps:
        return in_zeros(last.outputs)
    return last.outputs if len(candidate.modules) == 1 else "hidden"


def _owners(found: list[Candidate]) -> dict[int, int]:
    """How many candidates hold each parameter, by its id."""
    owners: dict[int, int] = {}
    for candidate in found:
        for key in {id(p) for module in candidate.modules for p in module.parameters()}:
            owners[key] = owners.get(key, 0) + 1
    return owners


def _places(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Under which names every module is held."""
    places: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    return places


def _why_held(candidate: Candidate, places: Mapping[nn.Module, list[str]], owners: Mapping[int, int]) -> str:
    for module in candidate.modules:
        if len(places[module]) > 1:
            return f"it is held under {len(places[module])} names ({', '.join(places[module])})"
    if any(owners[id(p)] > 1 for module in candidate.modules for p in module.parameters()):
        return "it shares weights with another unit"
    return ""


def _why_not(candidate: Candidate, calls: dict[nn.Module, Call], *, final: bool) -> str:
    first, last = calls[candidate.modules[0]], calls[candidate.modules[-1]]
    if first.times > 1:
        return f"it is used {first.times} times (shared weights)"
    if candidate.outputs is not None:
        return ""
    if not first.in_shape:
        return f"no floating-point hidden state goes in and comes out (it returns a {last.returned})"
    if first.in_shape != last.out_shape:
        return f"it changes the hidden state's shape from {first.in_shape} to {last.out_shape}"
    if not (first.keeps and last.keeps):
        return "it changes the hidden state's dtype"
    if last.outputs is None:
        return f"it returns values beside the hidden state that only it can make (a {last.returned})"
    if candidate.zeros and not first.added:
        return "its output is not added to the hidden state as that of its like is"
    plain = not (first.carries or candidate.zeros)
    if plain and final:
        return "it is the last layer of the network (the head)"
    return ""


def _grouped(units: list[Unit], stages: list[tuple[str, tuple[int, ...]]]) -> tuple[Unit, ...]:
    """Name the stages: neighbours in one container whose outputs have one shape."""
    grouped: list[Unit] = []
    numbers: dict[str, int] = {}
    for number, (unit, stage) in enumerate(zip(units, stages, strict=True)):
        label = stage[0] or "network"
        if number and stages[number - 1] == stage:
            grouped.append(replace(unit, group=grouped[-1].group))
            continue
        numbers[label] = numbers.get(label, 0) + 1
        grouped.append(replace(unit, group=label if numbers[label] == 1 else f"{label}#{numbers[label]}"))
    return tuple(grouped)


def _mark_inexpressible(model: nn.Module, chain: Chain, granularity: Granularity) -> Chain:
    """Mark units of transformers models that their config or cache cannot do without."""
    units = list(chain.units)
    # One answer for a whole list.
    why_not_in = cache(why_not)
    for unit in chain:
        owner = owner_of(model, unit.container) if unit.removable else None
        if owner is not None:
            prefix, module = owner
            container, *paths = (
                path.removeprefix(prefix).removeprefix(".") for path in (unit.container, *unit.modules)
            )
            if granularity == "sublayer" and unit.is_branch:
                why = why_not_inside(module, paths)
            else:
                why = why_not_in(module, container, removal=unit.removal)
            if why:
                units[unit.index] = replace(unit, removable=False, why=why)
    return replace(chain, units=tuple(units))


def _nothing_found(chain: Chain, calls: dict[nn.Module, Call]) -> str:
    reasons = "; ".join(f"{unit.name}: {unit.why}" for unit in chain) or (
        "no residual blocks, no branches that are added, no lists whose entries keep the shape"
    )
    return (
        f"asked for the removable units of {chain.model}: ran it, looked at {len(calls)} modules, and "
        f"found none ({reasons}). Units are entries of Sequential or ModuleList, and residual blocks "
        "held as attributes, that return what they take: same shape, dtype and structure. "
        "A network with such blocks works; so does its inner network, passed by itself."
    )
