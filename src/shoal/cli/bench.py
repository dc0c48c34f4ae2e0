"""`shoal bench`: what networks cost, measured side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from shoal.cli.command import Flag
from shoal.cli.console import show_json, show_table
from shoal.cli.loading import open_example, open_model
from shoal.cli.options import ExampleOptions, ModelOptions
from shoal.errors import ConfigError

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(ExampleOptions, ModelOptions):
    """What `shoal bench` takes.

    Attributes:
        others: More models, which take turns with the first.
    """

    others: Annotated[tuple[str, ...], Flag(positional=True, metavar="[MODEL2 …]")] = ()


def run(options: Options) -> None:
    """Measure parameters, MACs, latency and memory; several models take turns, so that ratios are fair."""
    from shoal.measurement import measure, measure_latency
    from shoal.reports import measurements_table

    names = (options.model, *options.others)
    if len(set(names)) < len(names):
        raise ConfigError(f"asked to compare {', '.join(names)}: name each model once.")
    loaded = {name: open_model(options, name) for name in names}
    example = open_example(options, loaded[options.model])
    models = {name: each.model for name, each in loaded.items()}
    timings = measure_latency(models, example)
    costs = {name: measure(model, example, latency=False) for name, model in models.items()}
    measured = {
        name: replace(cost, latency=timings[name].median, latency_spread=timings[name].spread)
        for name, cost in costs.items()
    }
    if options.json:
        show_json({"samples": options.example_batch, "models": {n: m.as_json() for n, m in measured.items()}})
    else:
        show_table(measurements_table(measured, samples=options.example_batch))
