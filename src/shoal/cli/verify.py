"""`shoal verify`: does a written folder still reproduce the network?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shoal.cli.command import Flag
from shoal.cli.console import show_json, show_table
from shoal.cli.options import RunOptions

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """What `shoal verify` takes.

    Attributes:
        folder: A folder that shoal wrote, or a Hugging Face model folder.
        trust_remote_code: Run code that comes with the model, or that the folder names.
    """

    folder: Annotated[Path, Flag(positional=True, metavar="DIR")]
    trust_remote_code: bool = False


def run(options: Options) -> None:
    """Read a folder back with the stock loader and check hashes, weights, outputs and generation."""
    from shoal.reports import checks_table
    from shoal.surgery import verify

    verification = verify(options.folder, trust_remote_code=options.trust_remote_code)
    if options.json:
        show_json({"folder": str(options.folder), **verification.as_json()})
    else:
        show_table(checks_table(verification))
