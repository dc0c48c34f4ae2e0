"""`shoal verify`: does a written folder still reproduce the network?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shoal.cli.command import Flag
from shoal.cli.console import show_json, show_table
from shoal.cli.options import RunOptions
from shoal.errors import ConfigError

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """What `shoal verify` takes.

    Attributes:
        folder: A folder that shoal wrote, or a Hugging Face model folder.
        trust_remote_code: Run code that comes with the model, or that the folder names.
        original: What the network was made of, such as net.py:make, where the folder does not say it or
            it has moved.
    """

    folder: Annotated[Path, Flag(positional=True, metavar="DIR")]
    trust_remote_code: bool = False
    original: Annotated[str | None, Flag(metavar="MODEL")] = None


def run(options: Options) -> None:
    """Read a folder back with the stock loader and check hashes, weights, outputs and generation."""
    from shoal.reports import checks_table
    from shoal.surgery import verify

    model, trusted = None, options.trust_remote_code
    if options.original is not None:
        from shoal.architectures.references import load_model
        from shoal.surgery.loading import is_pretrained_folder

        if is_pretrained_folder(options.folder):
            raise ConfigError(
                f"asked to verify {str(options.folder)!r}, made of {options.original!r}: a Hugging Face "
                "folder says itself what it is made of. Leave --original out."
            )
        model = load_model(options.original, trust_remote_code=trusted).model
    verification = verify(options.folder, model=model, trust_remote_code=trusted)
    if options.json:
        show_json({"folder": str(options.folder), **verification.as_json()})
    else:
        show_table(checks_table(verification))
