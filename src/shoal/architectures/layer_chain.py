"""The convolutions of a network as a chain of units."""

from __future__ import annotations

from torch import nn

from shoal.architectures.convolutions import Convolutions, find_convolutions
from shoal.architectures.symbolic import shape_of
from shoal.calling import Inputs, describe_inputs
from shoal.layers import Layer
from shoal.measurement.counting import count_macs, count_params
from shoal.units import Chain, Segment, Unit

__all__ = ["chain_of_layers"]


def chain_of_layers(model: nn.Module, example: Inputs, found: Convolutions | None = None) -> Chain:
    """Return the convolutions of a network, each with its batch norm, as units in forward order.

    Those that the network runs without are removable: they keep channels and size. Projections on the
    shortcuts of residual blocks are no units; they go when their block is merged.

    Args:
        model: Any network.
        example: What its forward takes.
        found: Its convolutions, where they are known.

    Raises:
        DataError, UnknownArchitectureError: As `find_convolutions`.
    """
    found = found or find_convolutions(model, example)
    macs = count_macs(model, example)
    return Chain(
        units=tuple(_unit(model, found, layer, dict(macs.by_module)) for layer in found.layers),
        model=type(model).__name__,
        params=count_params(model),
        macs=macs.total,
        uncounted=macs.uncounted,
        left_out=dict(found.notes),
        inputs=describe_inputs(example),
    )


def _unit(model: nn.Module, found: Convolutions, layer: Layer, macs: dict[str, int]) -> Unit:
    place = found.places[layer.index]
    out_shape, why = shape_of(place.exit) or (), layer.fixed
    if not why and found.region(Segment(layer.index, layer.index + 1)) is None:
        why = "what goes into it is overwritten, or what is inside it is taken elsewhere"
    paths = (layer.name, *([layer.norm] if layer.norm else []))
    modules = [model.get_submodule(path) for path in paths]
    return Unit(
        name=layer.name,
        index=layer.index,
        modules=paths,
        container=layer.name.rpartition(".")[0],
        group=f"{'×'.join(map(str, out_shape[2:]))} px",
        kind="+".join(type(module).__name__ for module in modules),
        params=sum(count_params(module) for module in modules),
        macs=macs.get(layer.name, 0),
        removable=not why,
        why=why,
        removal="merge",
        in_shape=shape_of(place.entry) or (),
        out_shape=out_shape,
    )
