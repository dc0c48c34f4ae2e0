"""`shoal demo`: the whole story on a network that is trained on the spot, or on a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shoal.cli.command import Flag
from shoal.cli.options import RunOptions

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """What `shoal demo` takes.

    Attributes:
        language: Compress SmolLM2-135M, a language model, in place of the digits network.
        output: The folder to write; shoal-demo where it is not given.
        overwrite: Replace a folder of that name that shoal wrote.
        seed: Of training, choice and healing.
    """

    language: bool = False
    output: Annotated[Path, Flag(short="-o", metavar="DIR")] = Path("shoal-demo")
    overwrite: bool = False
    seed: int = 0


def run(options: Options) -> None:
    """Compress a network end to end, with data that is installed already.

    Trains a residual CNN on scikit-learn's digits, lets SGLP choose what to remove until 0.6 of the
    measured latency remains, heals, verifies, and leaves the folder. With --language: 6 of the 30
    layers of SmolLM2-135M go.
    """
    from shoal.surgery import check_target

    check_target(options.output, overwrite=options.overwrite)
    if options.language:
        from shoal.cli.demo_language import run_language_demo

        run_language_demo(
            options.output, overwrite=options.overwrite, seed=options.seed, as_json=options.json
        )
    else:
        from shoal.cli.demo_digits import run_digits_demo

        run_digits_demo(options.output, overwrite=options.overwrite, seed=options.seed, as_json=options.json)
