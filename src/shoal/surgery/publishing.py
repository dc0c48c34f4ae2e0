"""Write a network as a folder that appears only when it has been read back and found right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from shoal.architectures.pretrained import is_stock
from shoal.calling import Inputs
from shoal.errors import VerificationError
from shoal.surgery.checkpoint import save
from shoal.surgery.folders import check_target, written_whole
from shoal.surgery.loading import Original
from shoal.surgery.originals import Format
from shoal.surgery.verification import Verification, record_verification, verify

__all__ = ["save_verified"]


def save_verified(
    model: nn.Module,
    folder: str | Path,
    *,
    example: Inputs,
    original: Original | None = None,
    overwrite: bool = False,
    format: Format = "auto",
    trust_remote_code: bool = False,
    **told: Any,
) -> Verification:
    """Write a network as a folder, prove it, and only then give it its name.

    Args:
        model: The network; stays as it is.
        folder: The folder to make.
        example: What the forward takes; outputs are compared on it.
        original: For networks that are not of transformers and that no `source` describes: the
            original, in which the folder's weights are tried.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.
        format: As for `save`.
        trust_remote_code: Whether code that comes with the model may run when it is read back.
        told: What `save` takes besides.

    Returns:
        What was checked.

    Raises:
        ConfigError: If the folder exists and may not be replaced, or as `save`.
        UnitError: If it is a model of transformers that a stock loader would not give back.
        SurgeryError, VerificationError: If it cannot be written, or does not reproduce the model;
            nothing is left behind, and an older folder of that name stays.
    """
    target = Path(folder)
    check_target(target, overwrite=overwrite)
    with written_whole(target, overwrite=overwrite) as partial:
        partial.rmdir()
        save(model, partial, example=example, format=format, **told)
        rebuilt = None if told.get("source") or is_stock(model) else original
        try:
            found = verify(partial, reference=model, model=rebuilt, trust_remote_code=trust_remote_code)
        except VerificationError as error:
            raise VerificationError(str(error).replace(str(partial), str(target))) from error
        record_verification(found)
    return Verification(folder=target, checks=found.checks)
