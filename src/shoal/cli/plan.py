"""`shoal plan`: what to remove, chosen by a method under a budget or by hand, as a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from shoal.cli.choosing import MethodOptions, check_untrained, method_settings
from shoal.cli.command import Flag
from shoal.cli.console import note, show_table, show_text
from shoal.cli.files import check_file_target, read_json, write_text
from shoal.cli.loading import example_of, open_data, open_model, open_structure
from shoal.cli.options import DataOptions, ExampleOptions, ModelOptions, UnitOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from shoal.budget import Budget
    from shoal.calling import Batch, Inputs
    from shoal.plan import Plan
    from shoal.result import Evidence

__all__ = ["Options", "parse_units", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(MethodOptions, UnitOptions, ExampleOptions, DataOptions, ModelOptions):
    """What `shoal plan` takes.

    Attributes:
        data: Data that the network was not trained on, for a method to choose by; by hand only its
            first sample is used, and Hugging Face models need none. Methods that need --evidence alone
            need none either, and of a Hugging Face folder read the config alone.
        remove: Units to remove, chosen by hand: indices from 0, half-open ranges and names, such as
            3,7,20:22,layer3.4.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6, latency=12ms.
        evidence: What `shoal analyze` wrote for this model, to be used again.
        output: File for the plan.
        overwrite: Replace an existing file.
    """

    data: str | None = None  # type: ignore[assignment]
    remove: Annotated[str | None, Flag(metavar="UNITS")] = None
    budget: str | None = None
    evidence: Annotated[Path | None, Flag(metavar="EVIDENCE.json")] = None
    output: Annotated[Path | None, Flag(short="-o", metavar="PLAN.json")] = None
    overwrite: bool = False


def run(options: Options) -> None:
    """Choose what to remove: by a method under a budget, or by hand with --remove.

    The plan is data: `shoal apply` replays it on this model, on any machine.
    """
    _check(options)
    check_file_target(options.output, overwrite=options.overwrite)
    plan, evidence = _by_hand(options) if options.remove is not None else _by_method(options)
    from shoal.reports import plan_table

    if options.json:
        show_text(plan.to_json().rstrip("\n"))
    else:
        show_table(plan_table(plan, evidence))
    if options.output is not None:
        write_text(options.output, plan.to_json())
        note(f"plan written to {options.output}", quiet=options.json)


def parse_units(text: str) -> list[int | str]:
    """Return the indices and names of units that a user wrote.

    Raises:
        ConfigError: If a range is empty or nothing is named.

    Example:
        >>> parse_units("3,7,20:22,layer3.4,features.3:6")
        [3, 7, 20, 21, 'layer3.4', 'features.3:6']
    """
    units: list[int | str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        ends = re.fullmatch(r"(\d+):(\d+)", part)
        if ends is None:
            units.append(int(part) if part.isdecimal() else part)
            continue
        start, stop = map(int, ends.groups())
        if start >= stop:
            raise ConfigError(
                f"asked to remove {part!r}: ranges are half-open, so {start}:{stop} holds nothing. "
                f"{min(start, stop)}:{max(start, stop) + 1} holds both ends."
            )
        units += range(start, stop)
    if not units:
        raise ConfigError(f"asked to remove {text!r}: name units, such as 3,7,20:22.")
    return units


def _check(options: Options) -> None:
    by_method = {
        "--method": options.method != Options.method,
        "--budget": options.budget is not None,
        "--preset": options.preset is not None,
        "--set": bool(options.set),
        "--evidence": options.evidence is not None,
        "--num-samples": options.num_samples is not None,
        "--batch-size": options.batch_size is not None,
    }
    given = [name for name, found in by_method.items() if found]
    if options.remove is not None and given:
        raise ConfigError(
            f"asked for a plan by hand (--remove) together with {', '.join(given)}: a plan is made by hand "
            "or by a method. Leave out one of the two."
        )
    scored = options.data is not None or options.evidence is not None
    missing = ["--data"] * (not scored) + ["--budget"] * (options.budget is None)
    if options.remove is None and missing:
        raise ConfigError(
            f"asked for a plan without {' and '.join(missing)}: a method needs data to score on, or the "
            "--evidence of it, and a budget, such as --budget macs=0.6. Or choose by hand: "
            "--remove 3,7,20:22."
        )


def _by_hand(options: Options) -> tuple[Plan, None]:
    from shoal.architectures import find_units
    from shoal.plan import Plan
    from shoal.surgery import check_plan

    units = parse_units(options.remove or "")
    model, example = open_structure(options, options)
    plan = Plan.removing(find_units(model, example, granularity=options.granularity), units)
    check_plan(model, plan)
    return plan, None


def _check_evidence_suffices(options: Options, budget: Budget) -> None:
    from shoal.methods import get, names, settings_for

    if budget.quantity == "latency":
        raise ConfigError(
            f"asked for {budget} without --data: latency is measured, and that takes the network. Give "
            "--data, or a budget of units, params or macs."
        )
    if not get(options.method).by_evidence(method_settings(options, seed=options.seed)):
        able = [name for name in names() if get(name).by_evidence(settings_for(get(name), None, None))]
        raise ConfigError(
            f"asked for a plan by {options.method} with --evidence and without --data: so set, it runs the "
            f"network on data too. Give --data; or a method that needs evidence alone: {', '.join(able)}, or "
            "sglp --set importance=drop_estimate."
        )


def _opened(options: Options, budget: Budget) -> tuple[nn.Module, Inputs, Iterable[Batch]]:
    """The network, the example and the batches; with evidence alone, a network that need not be loaded."""
    if options.data is None:
        _check_evidence_suffices(options, budget)
        return *open_structure(options, options), ()
    loaded = open_model(options)
    data = open_data(options, loaded)
    example = example_of(data, loaded.model, options.example_batch, whole=options.seq_len is not None)
    return loaded.model, example, data.batches


def _by_method(options: Options) -> tuple[Plan, Evidence | None]:
    settings = method_settings(options, seed=options.seed)
    check_untrained(options, settings, asked="a plan")
    from shoal.architectures import find_units
    from shoal.budget import Budget
    from shoal.result import Evidence
    from shoal.stages import make_plan

    budget = Budget.parse(options.budget or "")
    fields = None if options.evidence is None else read_json(options.evidence, "evidence")
    model, example, batches = _opened(options, budget)
    evidence = None
    if fields is not None:
        evidence = Evidence.from_json(fields, find_units(model, example, granularity=options.granularity))
    plan = make_plan(
        model,
        batches,
        method=options.method,
        budget=budget,
        example=example,
        settings=settings,
        evidence=evidence,
        granularity=options.granularity,
    )
    return plan, evidence
