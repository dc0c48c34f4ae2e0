"""`shoal units`: what can be removed from a network, and why the rest cannot."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from shoal.cli.console import show_json, show_table
from shoal.cli.loading import open_structure
from shoal.cli.options import ExampleOptions, ModelOptions, UnitOptions

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(UnitOptions, ExampleOptions, ModelOptions):
    """What `shoal units` takes."""


def run(options: Options) -> None:
    """List the units of a network: their names, sizes, and whether they can be removed.

    With --granularity layer they are the convolutions that may be merged, and what keeps others out is said.
    """
    from shoal.architectures import find_units
    from shoal.reports import units_table

    model, example = open_structure(options, options)
    chain = find_units(model, example, granularity=options.granularity)
    if not options.json:
        show_table(units_table(chain))
        return
    show_json(
        {
            "model": chain.model,
            "params": chain.params,
            "macs": chain.macs,
            "uncounted": chain.uncounted,
            "left_out": chain.left_out,
            "units": [asdict(unit) for unit in chain],
        }
    )
