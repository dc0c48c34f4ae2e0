"""What verbs that train have in common: how they are judged, written, and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.console import note, show_json, show_table
from shoal.cli.files import beside
from shoal.cli.loading import open_more_data
from shoal.cli.options import DataOptions, ModelOptions
from shoal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

    from shoal.architectures.references import LoadedModel
    from shoal.calling import Inputs
    from shoal.data import Data
    from shoal.result import Measurement
    from shoal.surgery import Verification

__all__ = [
    "Outcome",
    "TrainingOptions",
    "check_checkpoint",
    "checkpoint_of",
    "judged_by",
    "measured",
    "written",
]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DataOptions, ModelOptions):
    """Judging and writing.

    Attributes:
        eval_data: Data to measure the quality on, before and after.
        output: The folder to write; it appears when it is complete and verified.
        overwrite: Replace a folder of that name that shoal wrote.
        resume: Go on from the last checkpoint of an interrupted run.
    """

    eval_data: Annotated[str | None, Flag(metavar="DATA")] = None
    output: Annotated[Path, Flag(short="-o", metavar="DIR")]
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trained network beside the one that it was made of.

    Attributes:
        before: What that one costs and how well it does.
        after: The same of the trained network.
        verification: What was checked of its folder.
    """

    before: Measurement
    after: Measurement
    verification: Verification

    def show_json(self, **more: Any) -> None:
        """Show it, and more, as one JSON document."""
        show_json(
            {
                "output": str(self.verification.folder),
                **more,
                "before": self.before.as_json(),
                "after": self.after.as_json(),
                "verification": self.verification.as_json(),
            }
        )

    def show(self, *notes: str) -> None:
        """Show it as tables, and say where it was written to."""
        from shoal.reports import checks_table, comparison_table

        show_table(comparison_table(self.before, self.after))
        show_table(checks_table(self.verification))
        for each in (*notes, f"written to {self.verification.folder}"):
            note(each)


def checkpoint_of(options: TrainingOptions, name: str) -> Path:
    """Return the file beside the output from which training goes on, and say so where there is none to.

    Raises:
        ConfigError: As `check_checkpoint`.
    """
    path = check_checkpoint(options, name)
    if options.resume and not path.exists():
        note(f"there is no checkpoint {path} to resume from: training begins anew")
    return path


def check_checkpoint(options: TrainingOptions, name: str) -> Path:
    """Return the file beside the output from which training goes on, after a look at what is there.

    Raises:
        ConfigError: If an interrupted run left it, and it may neither be gone on with nor thrown away; or a
            folder has its name.
    """
    path = beside(options.output, f"{name}.safetensors")
    if path.is_dir():
        raise ConfigError(
            f"asked to keep a checkpoint in {str(path)!r}: it is a folder. Choose another output."
        )
    if path.exists() and not (options.resume or options.overwrite):
        raise ConfigError(
            f"asked to begin anew, and {path} is where an interrupted run stands: --resume goes on from it, "
            "--overwrite throws it away."
        )
    return path


def judged_by(options: TrainingOptions, loaded: LoadedModel) -> Data | None:
    """Return the data of `--eval-data`, its first batch tried; None where it is not given.

    Raises:
        ConfigError, DataError: If it cannot be opened, or the network cannot be judged by it.
    """
    if options.eval_data is None:
        return None
    from shoal.calling import check_batches
    from shoal.measurement import evaluate_quality

    data = open_more_data(options.eval_data, options, loaded)
    asked = f"asked to judge {options.model} by --eval-data {options.eval_data}"
    try:
        evaluate_quality(loaded.model, [next(iter(check_batches(data.batches)))])
    except DataError as error:
        raise DataError(f"{asked}, and its first batch does not work: {error}") from error
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{asked}: the network fails on its first batch ({str(error).strip()}). Samples of the shape and "
            "kind that it is trained on, with their labels, work."
        ) from error
    return data


def measured(
    before: nn.Module, after: nn.Module, example: Inputs, judged: Data | None
) -> tuple[Measurement, Measurement]:
    """Return what two networks cost, measured side by side, and how well they do on the data."""
    from shoal.measurement import evaluate_quality, measure_pair

    costs = measure_pair(before, after, example)
    if judged is None:
        return costs
    first, second = (
        replace(cost, quality=evaluate_quality(each, judged.batches))
        for cost, each in zip(costs, (before, after), strict=True)
    )
    return first, second


def written(
    options: TrainingOptions, loaded: LoadedModel, model: nn.Module, *, checkpoint: Path, **told: Any
) -> Verification:
    """Write a trained network to the folder of `--output`, prove it, and do without its checkpoint.

    Args:
        options: The verb's options.
        loaded: What the network was made of; its tokenizer comes along.
        model: The trained network.
        checkpoint: The file from which training could have gone on.
        told: What `save_verified` takes besides.
    """
    from shoal.surgery import save_verified

    verification = save_verified(
        model,
        options.output,
        overwrite=options.overwrite,
        trust_remote_code=options.trust_remote_code,
        tokenizer_from=loaded.folder or loaded.load_tokenizer(),
        **told,
    )
    checkpoint.unlink(missing_ok=True)
    return verification
