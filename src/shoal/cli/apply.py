"""`shoal apply`: a plan and a model in, a verified folder out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from shoal.cli.command import Flag, typed_name
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import read_plan
from shoal.cli.loading import open_example, open_model
from shoal.cli.options import ExampleOptions, FormatOptions, ModelOptions, SampleOptions
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
        resume: Go on where surgery on files was killed.
        verify: How much is checked of a folder whose files were cut: structure loads nothing, full loads
            the network, auto does so up to 2 GB.
        dry_run: Say what would remain, and write nothing.
    """

    plan: Annotated[Path, Flag(positional=True, metavar="PLAN.json")]
    output: Annotated[Path | None, Flag(short="-o", metavar="DIR")] = None
    overwrite: bool = False
    resume: bool = False
    verify: Literal["auto", "full", "structure"] = "auto"
    dry_run: bool = False


def run(options: Options) -> None:
    """Remove what a plan says, save the result as an ordinary model, and verify it.

    Whole layers leave a local Hugging Face folder file by file: the network is not loaded, however large
    it is. It is loaded for everything else, and where --data or --device ask for it to be run. MODEL may be
    the folder of a LoRA adapter of the network, whose layers follow those of the plan.
    The folder appears only when it has been checked; else the exit code is 1 and nothing is left.
    """
    if options.output is None and not options.dry_run:
        raise ConfigError("asked to apply a plan: say where to with --output, or only look with --dry-run.")
    from shoal.surgery import check_target

    if options.output is not None:
        check_target(options.output, overwrite=options.overwrite)
    if options.dry_run and (given := _asked_of_files(options)):
        raise ConfigError(
            f"asked for {' and '.join(given)} with --dry-run: that is for what is written, and nothing is."
        )
    plan, folder = read_plan(options.plan), Path(options.model).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").exists():
        _rekey_adapter(options, folder, plan)
        return
    why = _why_loaded(options, folder, plan)
    if not why:
        _cut_files(options, folder, plan)
        return
    if given := _asked_of_files(options):
        raise ConfigError(
            f"asked for {' and '.join(given)}: that is for surgery on the files of a local Hugging Face "
            f"folder, and this network is loaded: {why}."
        )
    _cut_network(options, plan)


def _why_loaded(options: Options, folder: Path, plan: Plan) -> str:
    """Why the network is loaded; empty where its files are cut."""
    from shoal.surgery import why_in_memory

    if asked := _asked_to_load(options):
        return f"{', '.join(asked)} asked for it"
    trusted = options.trust_remote_code
    return why_in_memory(folder, plan, dtype=options.dtype, trust_remote_code=trusted)


def _asked_to_load(options: Options) -> list[str]:
    """The options, as users type them, that only a loaded network can satisfy."""
    names = [each.name for each in fields(SampleOptions)] + ["data", "device", "original"]
    asked = [name for name in names if getattr(options, name) is not None]
    asked += ["example_batch"] if options.example_batch != 1 else []
    asked += ["format"] if options.format != "auto" else []
    return [typed_name(Options, name) for name in asked]


def _asked_of_files(options: Options) -> list[str]:
    """The options that only surgery on files takes."""
    return ["--resume"] * options.resume + ["--verify"] * (options.verify != "auto")


def _cut_files(options: Options, folder: Path, plan: Plan) -> None:
    from shoal.cli.cutting import cut_files, foresee

    if options.dry_run or options.output is None:
        foresee(folder, plan, as_json=options.json)
        return
    cut_files(
        folder,
        plan,
        options.output,
        overwrite=options.overwrite,
        resume=options.resume,
        depth=options.verify,
        as_json=options.json,
    )


def _rekey_adapter(options: Options, folder: Path, plan: Plan) -> None:
    from shoal.surgery.adapters import rekey_adapter

    given = [*_asked_to_load(options), *_asked_of_files(options), *["--dry-run"] * options.dry_run]
    if given or options.output is None:
        raise ConfigError(
            f"asked for {', '.join(given)} with the adapter {str(folder)!r}: its weights only get the "
            "numbers of the layers that stay. --output and --overwrite say where to."
        )
    found = rekey_adapter(folder, plan, options.output, overwrite=options.overwrite)
    if options.json:
        show_json(asdict(found))
        return
    for line in found.notes:
        note(line)
    note(f"{found.kept} weights of the adapter kept, {found.dropped} left out; written to {found.folder}")


def _cut_network(options: Options, plan: Plan) -> None:
    from shoal.measurement import measure_pair
    from shoal.reports import certificate_table, checks_table, comparison_table, plan_table
    from shoal.surgery import apply, certify, check_equal, check_format, save_verified

    writes = options.output is not None and not options.dry_run
    loaded = open_model(options)
    example = open_example(options, loaded)
    _check_fit(plan, loaded.model, example)
    if writes:
        check_format(loaded.model, options.format, plan.removals)
    small = apply(loaded.model, plan)
    check_equal(loaded.model, plan, small, example)
    certificate = certify(loaded.model, plan) if plan.merges else None
    before, after = measure_pair(loaded.model, small, example)
    document = {"plan": json.loads(plan.to_json()), "before": before.as_json(), "after": after.as_json()}
    if certificate is not None:
        document["certificate"] = certificate.as_json()
    if not options.json:
        show_table(plan_table(plan))
        show_table(comparison_table(before, after, samples=options.example_batch))
        if certificate is not None:
            show_table(certificate_table(certificate))
    if options.output is not None and writes:
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
            certificate=certificate,
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
    """Check that the plan was made for this network's units: blocks, sublayers or layers."""
    from shoal.architectures import find_units

    if plan.merges:
        plan.check(find_units(model, example, granularity="layer"))
        return
    blocks = find_units(model, example)
    try:
        plan.check(blocks)
    except PlanError:
        sublayers = find_units(model, example, granularity="sublayer")
        if plan.model.units != tuple(unit.name for unit in sublayers):
            raise
        plan.check(sublayers)
