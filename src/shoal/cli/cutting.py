"""How `shoal apply` cuts the files of a local Hugging Face folder, and says what a cut would take."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli.console import note, show_json, show_table

if TYPE_CHECKING:
    from torch import nn

    from shoal.measurement.footprint import Footprint
    from shoal.plan import Plan
    from shoal.reports import Table
    from shoal.surgery import Depth

__all__ = ["cut_files", "foresee"]


def cut_files(
    folder: Path, plan: Plan, output: Path, *, overwrite: bool, resume: bool, depth: Depth, as_json: bool
) -> None:
    """Write the cut of a folder and show what was done and checked.

    Args:
        folder: A Hugging Face folder.
        plan: What to remove.
        output: The folder to write.
        overwrite, resume, depth: As for `shoal.surgery.cut_folder`.
        as_json: Whether to print one JSON document instead of tables.
    """
    from shoal.reports import checks_table, plan_table
    from shoal.surgery import cut_folder, read_checkpoint, read_record
    from shoal.surgery.folders import left_beside

    try:
        verification = cut_folder(folder, plan, output, overwrite=overwrite, resume=resume, depth=depth)
    except KeyboardInterrupt:
        for left in left_beside(output):
            note(
                f"what was written is kept in {left}; --resume goes on with it, a run without throws it away"
            )
        raise
    record = read_record(output)
    before, after = (
        {**(record[side] or {}), "weights": read_checkpoint(place).size}
        for side, place in (("before", folder), ("after", output))
    )
    if as_json:
        document = {"plan": json.loads(plan.to_json()), "before": before, "after": after}
        show_json(document | {"output": str(output), "verification": verification.as_json()})
        return
    show_table(plan_table(plan))
    show_table(_sizes_table(before, after))
    show_table(checks_table(verification))
    note(f"written to {output}")


def foresee(folder: Path, plan: Plan, *, as_json: bool) -> None:
    """Show what the cut of a folder would take, from its config and the headers of its files alone.

    Args:
        folder: A Hugging Face folder.
        plan: What to remove.
        as_json: Whether to print one JSON document instead of tables.
    """
    from shoal.reports import footprint_table, plan_table
    from shoal.surgery import draw_blueprint, read_checkpoint

    blueprint = draw_blueprint(read_checkpoint(folder), plan)
    # Of the files the very size is known.
    before = replace(_footprint(blueprint.before, blueprint.dtype), weights=blueprint.checkpoint.size)
    after = replace(_footprint(blueprint.after, blueprint.dtype), weights=blueprint.size)
    if as_json:
        document = {"plan": json.loads(plan.to_json()), "before": before.as_json(), "after": after.as_json()}
        show_json(document)
        return
    show_table(plan_table(plan))
    show_table(footprint_table(before, after))
    note("nothing was written (--dry-run)")


def _footprint(model: nn.Module, dtype: str) -> Footprint:
    """What a network without weights would take in this dtype."""
    import torch

    from shoal.architectures import example_for
    from shoal.architectures.weightless import lent_weights
    from shoal.measurement.footprint import footprint

    typed = copy.deepcopy(model).to(getattr(torch, dtype, torch.float32))
    with lent_weights(typed) as lent:
        return footprint(lent, example_for(lent))


def _sizes_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    from shoal.reports import Table
    from shoal.reports.numbers import bytes_text, count_text, ratio_text

    rows = [
        ("parameters", [side.get("params") for side in (before, after)], count_text),
        ("weights", [side["weights"] for side in (before, after)], bytes_text),
        ("MACs", [side.get("macs") for side in (before, after)], count_text),
    ]
    return Table(
        title="Sizes",
        columns=(("", False), ("before", True), ("after", True), ("ratio", True)),
        rows=tuple(
            (name, *("-" if value is None else text(value) for value in values), ratio_text(*values))
            for name, values, text in rows
            if any(values)
        ),
        notes=("by config and headers; MACs as the plan was made with; nothing was run on weights",),
    )
