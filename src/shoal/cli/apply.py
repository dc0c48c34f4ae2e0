"""`shoal apply`: a plan and a model in, a verified folder out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import read_plan
from shoal.cli.loading import open_example, open_model
from shoal.cli.options import ExampleOptions, FormatOptions, ModelOptions
from shoal.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from torch import nn

    from shoal.calling import Inputs
    from shoal.plan import Plan

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(FormatOptions, ExampleOptions, ModelOptions):
    """What `shoal apply` takes.

    Attributes:
        plan: The file that `shoal plan` wrote.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        dry_run: Say what would remain, and write nothing.
    """

    plan: Annotated[Path, Flag(positional=True, metavar="PLAN.json")]
    output: Annotated[Path | None, Flag(short="-o", metavar="DIR")] = None
    overwrite: bool = False
    dry_run: bool = False


def run(options: Options) -> None:
    """Remove what a plan says, save the result as an ordinary model, and verify it.

    The folder appears only when reading it back gives the same outputs; else the exit code is 1 and
    nothing is left.
    """
    if options.output is None and not options.dry_run:
        raise ConfigError("asked to apply a plan: say where to with --output, or only look with --dry-run.")
    from shoal.surgery import apply, check_format, check_target, save_verified

    if options.output is not None and not options.dry_run:
        check_target(options.output, overwrite=options.overwrite)
    plan = read_plan(options.plan)
    from shoal.measurement import measure_pair
    from shoal.reports import checks_table, comparison_table, plan_table

    loaded = open_model(options)
    example = open_example(options, loaded)
    _check_fit(plan, loaded.model, example)
    if options.output is not None and not options.dry_run:
        check_format(loaded.model, options.format, plan.steps)
    small = apply(loaded.model, plan)
    before, after = measure_pair(loaded.model, small, example)
    document = {"plan": json.loads(plan.to_json()), "before": before.as_json(), "after": after.as_json()}
    if not options.json:
        show_table(plan_table(plan))
        show_table(comparison_table(before, after, samples=options.example_batch))
    if options.output is not None and not options.dry_run:
        verification = save_verified(
            small,
            options.output,
            example=example,
            overwrite=options.overwrite,
            format=options.format,
            trust_remote_code=options.trust_remote_code,
            plan=plan,
            source=loaded.source,
            before=before,
            after=after,
            tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        )
        document |= {"output": str(options.output), "verification": verification.as_json()}
        if not options.json:
            show_table(checks_table(verification))
            note(f"written to {options.output}")
    elif not options.json:
        note("nothing was written (--dry-run)")
    if options.json:
        show_json(document)


def _check_fit(plan: Plan, model: nn.Module, example: Inputs) -> None:
    """Check that the plan was made for this network's units: its blocks, or its sublayers."""
    from shoal.architectures import find_units

    blocks = find_units(model, example)
    try:
        plan.check(blocks)
    except PlanError:
        sublayers = find_units(model, example, granularity="sublayer")
        if plan.model.units != tuple(unit.name for unit in sublayers):
            raise
        plan.check(sublayers)
