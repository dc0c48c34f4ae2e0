"""`shoal analyze`: one pass over the calibration data, and all that it says of the units."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import check_file_target, read_plan, write_text
from shoal.cli.loading import open_data, open_layers, open_model
from shoal.cli.options import DataOptions, ModelOptions, UnitOptions
from shoal.errors import ConfigError
from shoal.launchers import is_main

if TYPE_CHECKING:
    from shoal.importance import StreamSettings
    from shoal.plan import Plan
    from shoal.result import Evidence
    from shoal.units import Chain, Segment

__all__ = ["Options", "run"]

_FIGURES = ("similarity", "importance")


@dataclass(frozen=True, kw_only=True)
class Options(UnitOptions, DataOptions, ModelOptions):
    """What `shoal analyze` takes.

    Attributes:
        output: File for the evidence, which `shoal plan --evidence` uses again.
        figures: Folder for similarity and importance as figures, each a .png and an .svg.
        plan: A plan for this model, whose removed units and segments the figures show.
        segments: How many segments the figures show instead; without either, a number chosen from the
            curve of losses.
        stream: Read a local Hugging Face folder one layer at a time, for networks that are larger than
            memory: it holds embeddings and head, one layer with its gradients, and hidden states.
        offload_above: With --stream, gigabytes of hidden states that are held in memory; 2. The rest lie
            in a file.
        offload_dir: With --stream, folder for that file; the system's for temporary files.
        overwrite: Replace existing files.
    """

    output: Annotated[Path | None, Flag(short="-o", metavar="EVIDENCE.json")] = None
    figures: Annotated[Path | None, Flag(metavar="DIR")] = None
    plan: Annotated[Path | None, Flag(metavar="PLAN.json")] = None
    segments: Annotated[int | None, Flag(metavar="K")] = None
    stream: bool = False
    offload_above: Annotated[float | None, Flag(metavar="GB")] = None
    offload_dir: Annotated[Path | None, Flag(metavar="DIR")] = None
    overwrite: bool = False


def run(options: Options) -> None:
    """Score every unit in one pass: similarity, segments of like units, importances by all criteria.

    Give data that the network was not trained on: scores by loss say little on memorised data.
    `accelerate launch --multi_gpu --num_processes 2 -m shoal analyze …` and `torchrun -m` share the data
    among several processes, on GPUs or CPUs.
    """
    check_file_target(options.output, overwrite=options.overwrite)
    _check_figures(options)
    stream = _stream_settings(options)
    plan = None if options.plan is None else read_plan(options.plan)
    from dataclasses import replace

    from shoal.importance import stream_evidence
    from shoal.stages import analyze

    layers, loaded = (None, open_model(options)) if stream is None else open_layers(options)
    data = open_data(options, loaded)
    if plan is not None or options.segments is not None:
        from shoal.architectures import find_units

        chain = find_units(loaded.model, data.example, granularity=options.granularity)
        _check_fit(chain, plan, options.segments)
    how: dict[str, Any] = {"example": data.example, "granularity": options.granularity}
    if layers is None:
        evidence = analyze(loaded.model, data.batches, **how)
    else:
        evidence = stream_evidence(layers, data.batches, stream=stream, **how)
    evidence = replace(evidence, data={**evidence.data, "source": data.source, "sha256": data.sha256})
    if not is_main():
        return
    fields = evidence.as_json()
    if options.output is not None:
        write_text(options.output, json.dumps(fields) + "\n")
        note(f"evidence written to {options.output}", quiet=options.json)
    drawn = [] if options.figures is None else _draw(options.figures, evidence, options.segments, plan)
    if drawn:
        note(f"figures written to {options.figures}", quiet=options.json)
    if options.json:
        show_json(fields | ({"figures": drawn} if drawn else {}))
    else:
        _show(evidence)


def _stream_settings(options: Options) -> StreamSettings | None:
    """How a folder is read layer by layer; None where it is not."""
    wanted: dict[str, Any] = {"memory": options.offload_above, "folder": options.offload_dir}
    given = {name: value for name, value in wanted.items() if value is not None}
    if given and not options.stream:
        raise ConfigError(
            "asked for --offload-above or --offload-dir without --stream: they say where hidden states are "
            "kept while layers are read one at a time. Give --stream too."
        )
    from shoal.importance import StreamSettings

    return StreamSettings(**given) if options.stream else None


def _check_figures(options: Options) -> None:
    """Check, before long work is begun, that figures can be drawn and written, where they are wanted."""
    if options.figures is None:
        given = {"--segments": options.segments, "--plan": options.plan}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise ConfigError(
                f"asked for {' and '.join(idle)} without --figures: that is drawn in figures and changes "
                "nothing else. Give --figures DIR too."
            )
        return
    from shoal.reports.figures import check_available, figure_paths

    check_available()
    if options.figures.exists() and not options.figures.is_dir():
        raise ConfigError(
            f"asked to write figures into {str(options.figures)!r}: it is a file. Name a folder."
        )
    for name in _FIGURES:
        for path in figure_paths(options.figures / name):
            check_file_target(path, overwrite=options.overwrite)


def _check_fit(chain: Chain, plan: Plan | None, segments: int | None) -> None:
    if plan is not None:
        plan.check(chain)
    if segments is not None and not 1 <= segments <= len(chain):
        raise ConfigError(
            f"asked for --segments {segments}: {chain.model} has {len(chain)} units, so that 1 to "
            f"{len(chain)} work."
        )


def _draw(folder: Path, evidence: Evidence, segments: int | None, plan: Plan | None) -> list[str]:
    from shoal.reports.figures import importance_figure, save_figure, similarity_figure

    division = _division(evidence, segments, plan)
    removed = () if plan is None else plan.removed
    similarity = similarity_figure(evidence, segments=division, removed=removed)
    importance = importance_figure(evidence, removed=removed)
    figures = zip(_FIGURES, (similarity, importance), strict=True)
    return [str(path) for name, figure in figures for path in save_figure(figure, folder / name)]


def _division(evidence: Evidence, segments: int | None, plan: Plan | None) -> tuple[Segment, ...]:
    from shoal.segmentation import bic
    from shoal.units import Segment

    planned = () if plan is None else plan.predicted.get("segments", ())
    if segments is None and planned:
        return tuple(Segment(*ends) for ends in planned)
    return evidence.segments(segments or bic(evidence.segmentation))


def _show(evidence: Evidence) -> None:
    from shoal.reports import agreement_table, criteria_table, evidence_tables, segments_table

    for table in evidence_tables(evidence):
        show_table(table)
    for make in (criteria_table, agreement_table, segments_table):
        show_table(make(evidence))
