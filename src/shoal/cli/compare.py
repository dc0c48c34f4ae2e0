"""`shoal compare`: every method that fits a network, with its controls, under the same conditions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.choosing import trains
from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table, show_text
from shoal.cli.files import beside, check_file_target, kept, write_text
from shoal.cli.healing import HealOptions, check_healing, data_notes, heal_settings, open_further_data
from shoal.cli.loading import example_of, open_data, open_model
from shoal.cli.options import ModelOptions, UnitOptions
from shoal.cli.settings import changed, list_methods
from shoal.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from shoal.comparison import Comparison
    from shoal.data import Data

__all__ = ["Options", "by_label", "run"]

_FORM = "METHOD.KEY=VALUE"
_DATA, _PAGE = "comparison.json", "comparison.md"
# The picture of the loss, and those of what else may have been measured.
_FIGURES = {"loss": "pareto", "accuracy": "pareto-accuracy", "perplexity": "pareto-perplexity"}


@dataclass(frozen=True, kw_only=True)
class Options(UnitOptions, HealOptions, ModelOptions):
    """What `shoal compare` takes.

    Attributes:
        data: Data that the network was not trained on, for the methods to choose by: a .txt or .jsonl
            of text, a folder of images with a subfolder a class, an .npz, hf:NAME, digits, topics, or
            file.py:function that returns batches.
        budget: What may remain: units=20, params=0.7, macs=0.5, latency=0.6, latency=12ms; may be
            given again for others.
        eval_data: Data to judge by, apart from that to choose and to train on. It is required.
        methods: Which methods, such as best,sglp:paper,random; all with their defaults where it is
            not given.
        list_methods: Show the methods with their settings, and stop.
        set: A setting of one method, such as sglp.segments=3; may be given again for others.
        seeds: How many seeds, from --seed on: methods that draw are run once with each.
        heal_seeds: With how many of them the networks of the other methods are healed.
        latency: Measure latency; --no-latency does without it, and without figures.
        example_batch: Samples in the call whose MACs, latency and memory are measured.
        output: The folder to write into: comparison.json, comparison.md and the figures.
        overwrite: Replace these files where they exist.
        resume: Go on where an interrupted comparison stopped.
    """

    budget: Annotated[tuple[str, ...], Flag(metavar="BUDGET")]
    output: Annotated[Path, Flag(short="-o", metavar="DIR")]
    methods: Annotated[str | None, Flag(metavar="NAME[:PRESET],…")] = None
    list_methods: Annotated[bool, Flag(action=partial(list_methods, _FORM))] = False
    set: Annotated[tuple[str, ...], Flag(metavar=_FORM)] = ()
    seeds: int = 3
    heal_seeds: int = 1
    latency: bool = True
    example_batch: int = 1
    overwrite: bool = False
    resume: bool = False


def run(options: Options) -> None:
    """Compare methods on a network: the same units, data, budgets, seeds and healing for all of them.

    Prints a table for every budget and draws quality against measured latency. All that was done is
    kept beside the output until the comparison is complete, and --resume goes on with it.
    """
    labels, heal = _labels(options.methods), heal_settings(options)
    seeds = range(options.seed, options.seed + options.seeds)
    settings = _settings(options, labels, seeds)
    _check(options)
    from shoal.comparing import compare

    loaded = open_model(options)
    data = open_data(options, loaded)
    train, judged = open_further_data(options, loaded)
    _check_apart(options, data, train, judged)
    example = example_of(data, loaded.model, options.example_batch, whole=options.seq_len is not None)
    with kept(
        beside(options.output, "journal.jsonl"), resume=options.resume, overwrite=options.overwrite
    ) as journal:
        comparison = compare(
            loaded.model,
            data.batches,
            budgets=options.budget,
            evaluation=() if judged is None else judged.batches,
            methods=labels,
            settings=settings,
            example=example,
            heal=heal,
            heal_batches=None if train is None else train.batches,
            seeds=seeds,
            heal_seeds=options.heal_seeds,
            latency=options.latency,
            journal=journal,
            granularity=options.granularity,
        )
        comparison = replace(comparison, data=data_notes(data, train, judged))
        files = _write(comparison, options.output)
    _report(comparison, files, as_json=options.json)


def by_label(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings that a user wrote, each `KEY=VALUE`, by method.

    Raises:
        ConfigError: If one has another form.

    Example:
        >>> by_label(["random.protect_first=2", "cka:paper.heal.epochs=1", "cka:paper.floor=0"])
        {'random': ['protect_first=2'], 'cka:paper': ['heal.epochs=1', 'floor=0']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        label, _, path = key.strip().partition(".")
        if not (equals and label and path):
            raise ConfigError(f"asked for --set {text}: write {_FORM}, such as sglp.segments=3.")
        found.setdefault(label, []).append(f"{path}={value}")
    return found


def _labels(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _check(options: Options) -> None:
    if options.eval_data is None:
        raise ConfigError(
            "asked to compare without --eval-data: methods choose on DATA and would be judged by what they "
            "have seen. Give other data that the network was not trained on."
        )
    if options.output.is_file():
        raise ConfigError(f"asked to write into {str(options.output)!r}: it is a file. Name a folder.")
    for path in _targets(options.output):
        check_file_target(path, overwrite=options.overwrite)


def _settings(options: Options, labels: list[str] | None, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Check what was asked for before a network is loaded, and return the changed settings by method."""
    from shoal.budget import Budget
    from shoal.comparing import check_seeds, contenders

    for budget in options.budget:
        Budget.parse(budget)
    check_seeds(seeds, options.heal_seeds, healing=options.heal_epochs is not None)
    written = by_label(options.set)
    asked = partial(contenders, labels, seeds=seeds, heal_seeds=options.heal_seeds)
    base = {each.label: each.settings for each in asked({label: {} for label in written})}
    settings = {}
    for label, texts in written.items():
        found = changed(base[label], texts, of=f"the method {label}")
        names = {re.split(r"[.=]", text)[0].strip().replace("-", "_") for text in texts}
        settings[label] = {name: getattr(found, name) for name in names}
    check_healing(options, trains=any(trains(each.settings) for each in asked(settings)))
    return settings


def _check_apart(options: Options, data: Data, train: Data | None, judged: Data | None) -> None:
    seen = {"--data": data, "--heal-data": train}
    same = [name for name, each in seen.items() if each and judged and each.sha256 == judged.sha256]
    if same:
        raise ConfigError(
            f"asked to judge by --eval-data {options.eval_data}: these are the samples of "
            f"{' and '.join(same)}, too. By what was chosen or trained on, networks look "
            "better than they are. Give other data."
        )


def _targets(folder: Path) -> list[Path]:
    from shoal.reports.figures import figure_paths

    figures = [path for name in _FIGURES.values() for path in figure_paths(folder / name)]
    return [folder / _DATA, folder / _PAGE, *figures]


def _write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write what was found, and return the paths; what an older comparison left there goes."""
    from shoal.reports import comparison_page

    write_text(folder / _DATA, json.dumps(comparison.as_json()) + "\n")
    drawn = _draw(comparison, folder)
    shown = [path.name for path in drawn if path.suffix == ".svg"]
    write_text(folder / _PAGE, comparison_page(comparison, shown))
    written = [folder / _DATA, folder / _PAGE, *drawn]
    for path in _targets(folder):
        if path not in written:
            path.unlink(missing_ok=True)
    return written


def _draw(comparison: Comparison, folder: Path) -> list[Path]:
    from shoal.reports import drawn_qualities, save_figure, standings_figure
    from shoal.reports.figures import check_available

    try:
        check_available()
    except MissingExtraError as error:
        note(f"no figures: {error}")
        return []
    names = {quality: folder / _FIGURES[quality] for quality in drawn_qualities(comparison)}
    if not names:
        note("no figures: latency was not measured")
    return [
        path
        for quality, name in names.items()
        for path in save_figure(standings_figure(comparison, quality), name)
    ]


def _report(comparison: Comparison, files: Sequence[Path], *, as_json: bool) -> None:
    from shoal.reports import standings_tables

    if as_json:
        show_json({**comparison.as_json(), "files": list(map(str, files))})
        return
    for number, table in enumerate(standings_tables(comparison)):
        if number:
            show_text("")
        show_table(table)
    note(f"written: {', '.join(map(str, files))}")
