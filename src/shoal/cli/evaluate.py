"""`shoal evaluate`: how well a network does on data."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.cli.console import show_json, show_table
from shoal.cli.loading import open_data, open_model
from shoal.cli.options import DataOptions, ModelOptions

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions, ModelOptions):
    """What `shoal evaluate` takes."""


def run(options: Options) -> None:
    """Measure loss and accuracy, or perplexity for language models, on data."""
    from shoal.measurement import evaluate_quality
    from shoal.reports import quality_table

    loaded = open_model(options)
    data = open_data(options, loaded)
    quality = evaluate_quality(loaded.model, data.batches)
    if options.json:
        show_json({"model": options.model, "data": data.source, "sha256": data.sha256, "quality": quality})
    else:
        show_table(quality_table(quality, title=f"{options.model} on {data.description}"))
