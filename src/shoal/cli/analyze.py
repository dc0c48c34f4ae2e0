"""`shoal analyze`: one pass over the calibration data, and all that it says of the units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import check_file_target, write_text
from shoal.cli.loading import open_data, open_model
from shoal.cli.options import DataOptions, ModelOptions

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions, ModelOptions):
    """What `shoal analyze` takes.

    Attributes:
        output: File for the evidence, which `shoal plan --evidence` uses again.
        overwrite: Replace an existing file.
    """

    output: Annotated[Path | None, Flag(short="-o", metavar="EVIDENCE.json")] = None
    overwrite: bool = False


def run(options: Options) -> None:
    """Score every unit in one pass: similarity, segments of like units, importances.

    Give data that the network was not trained on: scores by loss say little on memorised data.
    """
    check_file_target(options.output, overwrite=options.overwrite)
    from dataclasses import replace

    from shoal.pipeline import analyze
    from shoal.reports import evidence_table, segments_table

    loaded = open_model(options)
    data = open_data(options, loaded)
    evidence = analyze(loaded.model, data.batches, example=data.example)
    evidence = replace(evidence, data={**evidence.data, "source": data.source, "sha256": data.sha256})
    fields = evidence.as_json()
    if options.json:
        show_json(fields)
    else:
        show_table(evidence_table(evidence))
        show_table(segments_table(evidence))
    if options.output is not None:
        write_text(options.output, json.dumps(fields) + "\n")
        note(f"evidence written to {options.output}", quiet=options.json)
