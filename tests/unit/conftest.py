"""Chains made by hand, for the tests of what knows no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pytest

from shoal.units import Chain, Unit

MakeChain = Callable[..., Chain]


@pytest.fixture
def make_chain() -> MakeChain:
    """Return a function that makes a chain `layers.0 …` of these sizes, MACs ten times the parameters."""

    def make(
        params: Sequence[int] = (10, 20, 30, 40),
        *,
        fixed: Collection[int] = (),
        rest: int = 100,
        groups: Sequence[str] = (),
    ) -> Chain:
        units = tuple(
            Unit(
                name=f"layers.{index}",
                index=index,
                modules=(f"layers.{index}",),
                container="layers",
                group=groups[index] if groups else "layers",
                kind="Block",
                params=size,
                macs=10 * size,
                removable=index not in fixed,
                why="it changes the shape" if index in fixed else "",
            )
            for index, size in enumerate(params)
        )
        whole = sum(params) + rest
        return Chain(units=units, model="Net", params=whole, macs=10 * whole)

    return make
