"""`shoal train --sweep`: one training for each of several budgets or prices, and the front that they make."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shoal.cli.console import note, show_json, show_table
from shoal.cli.exits import FAILED
from shoal.cli.files import check_file_target, write_text
from shoal.cli.outcome import check_checkpoint
from shoal.cli.training import Training, check_figures
from shoal.errors import ConfigError, MissingExtraError, ShoalError, ShoalWarning
from shoal.launchers import is_main, started

if TYPE_CHECKING:
    from shoal.cli.train import Options
    from shoal.reports.front import FrontRun

__all__ = ["Sweep", "sweep"]

_FRONT, _FIGURE, _RECORD = "front.json", "front", "shoal.json"
_FORMS = "macs=0.3,0.5,0.7, units=4,6,8 and price=0.03,0.1,0.3 work"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Budgets or prices that are asked for one after the other.

    Attributes:
        quantity: `price`, or that of the budgets.
        values: As they were written.

    Example:
        >>> Sweep.parse("macs=0.3, 0.5")
        Sweep(quantity='macs', values=('0.3', '0.5'))
    """

    quantity: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Return what a user wrote.

        Raises:
            ConfigError: If it has another form, or names a value twice.
            BudgetError: If a budget is none.
        """
        from shoal.budget import Budget

        quantity, equals, written = text.partition("=")
        name, values = quantity.strip().lower(), tuple(part.strip() for part in written.split(","))
        if not (equals and name and all(values)) or "=" in written:
            raise ConfigError(f"asked for --sweep {text}: {_FORMS}.")
        if len(set(values)) < len(values):
            raise ConfigError(f"asked for --sweep {text}, which names a value twice: {_FORMS}.")
        for value in values if name != "price" else ():
            Budget.parse(f"{name}={value}")
        return cls(quantity=name, values=values)

    def runs(self, options: Options) -> dict[str, Options]:
        """Return the options of each training, by what it is asked for, such as `macs=0.5`."""
        found = {}
        for value in self.values:
            asked = f"{self.quantity}={value}"
            goal = {"price": value} if self.quantity == "price" else {"budget": asked}
            name = f"{self.quantity}-{value}"
            figures = None if options.figures is None else options.figures / name
            chosen: dict[str, Any] = {"sweep": None, "output": options.output / name, "figures": figures}
            found[asked] = replace(options, **chosen, **goal)  # type: ignore[arg-type]
        return found


def sweep(options: Options, text: str) -> None:
    """Train once for each budget or price, and show the front that the networks make.

    What cannot be met is said before anything is trained. Where a training fails all the same, the others
    go on, and the command fails at the end.

    Args:
        options: The verb's options; their output will hold a folder for each network.
        text: The budgets or prices, as a user writes them.

    Raises:
        ConfigError: If the options do not go together, or folders are in the way.
        BudgetError: If a budget cannot be met.
    """
    asked = Sweep.parse(text)
    runs = asked.runs(options)
    _check(options, runs)
    training = Training.of(options)
    left = {name: each for name, each in runs.items() if not _is_complete(each, training)}
    _check_goals(training, left)
    failures = _train_all(training, left)
    if is_main():
        _finish(options, asked, {name: each for name, each in runs.items() if name not in failures}, failures)


def _check(options: Options, runs: Mapping[str, Options]) -> None:
    given = {"--budget": options.budget, "--price": options.price}
    if twice := [name for name, value in given.items() if value is not None]:
        raise ConfigError(
            f"asked for --sweep with {' and '.join(twice)}: a sweep says itself what is asked for. Leave one "
            "out."
        )
    if options.output.is_file() or (options.output / _RECORD).exists():
        what = "a file" if options.output.is_file() else "the folder of a network"
        raise ConfigError(f"asked to write into {str(options.output)!r}: it is {what}. Name another folder.")
    from shoal.surgery import check_target

    for each in runs.values():
        check_target(each.output, overwrite=options.overwrite or options.resume)
        check_checkpoint(each, "train")
        check_figures(each)
    for path in _files(options.output):
        check_file_target(path, overwrite=options.overwrite or options.resume)


def _is_complete(options: Options, training: Training) -> bool:
    """Whether an interrupted sweep has written this folder; all processes answer alike."""
    from shoal.processes import together

    with together() as processes:
        mine = options.resume and not processes.number and _is_of(options, training)
        return processes.exchange(mine)[0]


def _is_of(options: Options, training: Training) -> bool:
    """Whether there is a folder of these options."""
    from shoal.surgery import read_record

    if not options.output.exists():
        return False
    theirs = (read_record(options.output).get("training") or {}).get("asked") or {}
    other = list(dict.fromkeys(_differences(theirs, training.asked(options))))
    if other and not options.overwrite:
        raise ConfigError(
            f"asked to go on with {options.output.parent}, and {options.output.name} in it was trained "
            f"otherwise: {', '.join(other)}. Ask for the same, or replace it with --overwrite."
        )
    return not other


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was asked for and is not any more, such as `epochs 5 -> 6`."""
    for name, value in now.items():
        earlier = before.get(name)
        if isinstance(value, dict) and isinstance(earlier, dict):
            yield from _differences(earlier, value)
        elif earlier != value:
            yield f"{name} {earlier!r} -> {value!r}"


def _check_goals(training: Training, runs: Mapping[str, Options]) -> None:
    """Check that all that is asked for can be met, before any of it is trained."""
    from shoal.training.runs import check_budget

    with warnings.catch_warnings():
        # Each training warns.
        warnings.simplefilter("ignore", ShoalWarning)
        for each in runs.values():
            check_budget(
                training.loaded.model,
                example=training.example,
                method=each.method,
                budget=each.budget,
                price=each.price,
                shortcuts=each.shortcuts,
                granularity=each.granularity,
            )


def _train_all(training: Training, runs: Mapping[str, Options]) -> dict[str, str]:
    """Train them one after the other; return why some failed."""
    failures = {}
    for number, (name, each) in enumerate(runs.items(), start=1):
        note(f"{name}: training {number} of {len(runs)}")
        try:
            training.once(each)
        except ShoalError as error:
            # Of several processes the others would wait for this one.
            if started() > 1:
                raise
            failures[name] = str(error)
            note(f"{name}: {error}")
    return failures


def _finish(options: Options, asked: Sweep, runs: Mapping[str, Options], failures: Mapping[str, str]) -> None:
    """Write and show the front; fail where a training did."""
    from shoal.reports.front import FrontRun, front_table
    from shoal.surgery import read_record
    from shoal.surgery.record import plain

    points = [FrontRun.of(name, read_record(each.output)) for name, each in runs.items()]
    front = {
        "quantity": asked.quantity,
        "runs": [
            {"output": str(each.output), **point.as_json()}
            for each, point in zip(runs.values(), points, strict=True)
        ],
        "failures": dict(failures),
    }
    write_text(options.output / _FRONT, json.dumps(plain(front), indent=2) + "\n")
    files = [options.output / _FRONT, *_drawn(options.output / _FIGURE, points, asked.quantity)]
    for path in _files(options.output):
        if path not in files:
            path.unlink(missing_ok=True)
    if options.json:
        show_json({**front, "files": list(map(str, files))})
    else:
        show_table(front_table(points, failures))
    note(f"written: {', '.join(map(str, files))}")
    if failures:
        raise typer.Exit(FAILED)


def _drawn(path: Path, points: Sequence[FrontRun], quantity: str) -> Sequence[Path]:
    from shoal.reports.figures import check_available, save_figure
    from shoal.reports.front import front_figure

    try:
        check_available()
    except MissingExtraError as error:
        note(f"no picture of the front: {error}")
        return ()
    if not points or any(point.quality is None for point in points):
        note("no picture of the front: no quality was measured of all; --eval-data says on which data")
        return ()
    return save_figure(front_figure(points, across="macs" if quantity == "price" else quantity), path)


def _files(folder: Path) -> list[Path]:
    from shoal.reports.figures import figure_paths

    return [folder / _FRONT, *figure_paths(folder / _FIGURE)]
