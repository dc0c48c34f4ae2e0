"""Where a compressed network is written: looked at before work begins, filled at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from shoal.calling import Inputs
from shoal.result import CompressionResult
from shoal.surgery import check_target, save_verified

__all__ = ["Output"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where and how a compressed model is written.

    Attributes:
        folder: The folder to make.
        source: How the original is had again (`LoadedModel.source`), for models that are not of
            Hugging Face.
        original: Folder of the original, whose tokenizer and processor files are copied.
        overwrite: Whether an existing folder may be replaced.
        format: As for `shoal.save`.
        notes: Further entries of `shoal.json`, such as seeds and data.
    """

    folder: Path
    source: Mapping[str, Any] | None = None
    original: Path | None = None
    overwrite: bool = False
    format: Literal["auto", "torch"] = "auto"
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, place: Output | Path | str) -> Output:
        """Return where to write, which may be written to.

        Args:
            place: A folder, or more.

        Raises:
            ConfigError: If the folder exists and may not be replaced, or shoal did not write it.
        """
        output = place if isinstance(place, Output) else cls(folder=Path(place))
        check_target(output.folder, overwrite=output.overwrite)
        return output

    def write(self, result: CompressionResult, *, model: nn.Module, example: Inputs) -> None:
        """Write a compressed network, read it back and prove it.

        Args:
            result: The network, with what is told of it.
            model: The original.
            example: What the forward takes.

        Raises:
            ConfigError, SurgeryError, UnitError, VerificationError: As `save_verified`; nothing
                half-written is left behind.
        """
        save_verified(
            result.model,
            self.folder,
            example=example,
            original=model,
            overwrite=self.overwrite,
            format=self.format,
            plan=result.plan,
            source=self.source,
            evidence=result.evidence,
            before=result.before,
            after=result.after,
            tokenizer_from=self.original,
            certificate=result.certificate,
            extra=self.notes,
        )
