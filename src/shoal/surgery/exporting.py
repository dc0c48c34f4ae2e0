"""Networks to ONNX files; a file takes its name once onnxruntime answers with it as torch does.

All shapes are those of the example; the number of samples, the first axis, may be free.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.pretrained import dtype_of
from shoal.architectures.trials import check_runs
from shoal.calling import Inputs, device_of, sample_count, to_device
from shoal.errors import ConfigError, ShoalWarning, SurgeryError, VerificationError
from shoal.surgery.onnx_files import data_file, describe, failures, needed, run_file, with_samples, write_file
from shoal.surgery.probe import answers, difference
from shoal.surgery.record import TOLERANCES

__all__ = ["ExportCheck", "check_export", "export_onnx"]

# Below it torch has no translations of its own.
_OLDEST_OPSET = 18
# onnxruntime sums in another order than torch.
_TOLERANCES = TOLERANCES | {torch.float32: 1e-4}
# onnxruntime is run on the CPU; another device computes float32 products with fewer bits.
_OTHER_DEVICE = 1e-3
_ADVICE: dict[type[Exception], str] = {
    SurgeryError: "Code that does not decide by numbers in tensors works, with operators that ONNX has.",
    VerificationError: "Another opset may work, or another dtype: onnxruntime knows float32 best.",
}


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """An ONNX file, and how far what onnxruntime answers with it is from what torch answers.

    Attributes:
        path: The file.
        opset: Version of ONNX's operators.
        inputs, outputs: Name → shape; an axis of any length has a name.
        why_fixed: Why the number of samples is that of the example; empty where it is free.
        differences: Number of samples → the largest difference, relative to the largest output.
        tolerance: The largest difference that was allowed.
        size: Bytes, with those of weights in a file beside it.
    """

    path: Path
    opset: int
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    why_fixed: str
    differences: Mapping[int, float]
    tolerance: float
    size: int

    @property
    def dynamic_batch(self) -> bool:
        """Whether the file takes any number of samples."""
        return not self.why_fixed

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return asdict(self) | {"path": str(self.path), "dynamic_batch": self.dynamic_batch}


def export_onnx(
    model: nn.Module,
    example: Inputs,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> ExportCheck:
    """Write a network as an ONNX file, whole or not at all, and return what was checked of it.

    The file is checked by onnx, and run by onnxruntime on the CPU: on the example, and on samples made of
    the example's, one more where their number is free. Where torch cannot free it, a warning says so, and
    the file takes as many samples as the example has. Weights above 2 GB stand in a second file,
    `….data`, which has to stay beside the first.

    Args:
        model: The network; stays as it is. What is written is how it answers in evaluation mode.
        example: What the forward takes. Axes other than the first stay as long as they are here.
        path: The file to write.
        dynamic_batch: Whether the number of samples is to be free.
        opset: Version of ONNX's operators; torch's choice where it is None.
        tolerance: Largest difference of outputs, relative to the largest output; None for 1e-4 in
            float32, 1e-9 in float64, 1e-2 in float16.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        ConfigError: If the file may not be written, a number is of no use, or the weights are bfloat16.
        MissingExtraError: If a package of the extra `onnx` is not installed.
        DataError: If the network does not run on the example, or answers without floating-point numbers.
        SurgeryError: If torch cannot write the network as ONNX.
        VerificationError: If onnx or onnxruntime refuses the file, or the answers differ.
    """
    target = Path(path)
    check_export(target, opset=opset, tolerance=tolerance, overwrite=overwrite)
    work = _prepared(model, example, opset, tolerance)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".partial") as folder:
        found = work.write(Path(folder) / target.name, dynamic=dynamic_batch)
        _check_target(target, overwrite=overwrite)
        _take_name(found.path, target)
    if dynamic_batch and found.why_fixed:
        warnings.warn(
            f"{target} takes {sample_count(example)} samples at a time, no more and no less: "
            f"{found.why_fixed}.",
            ShoalWarning,
            stacklevel=2,
        )
    return replace(found, path=target)


def check_export(path: Path, *, opset: int | None, tolerance: float | None, overwrite: bool) -> None:
    """Check, best before long work is begun, that a network can be exported to a file.

    Args:
        path, opset, tolerance, overwrite: As for `export_onnx`.

    Raises:
        ConfigError: If the file may not be written, or a number is of no use.
        MissingExtraError: If a package of the extra `onnx` is not installed.
    """
    _check_target(path, overwrite=overwrite)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ConfigError(
            f"asked for the tolerance {tolerance}: it is the largest difference of outputs, relative to the "
            "largest output, and lies between 0 and 1, such as 1e-4."
        )
    onnx, *_ = (needed(package) for package in ("onnx", "onnxruntime", "onnxscript"))
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise ConfigError(
            f"asked for opset {opset}: torch writes {_OLDEST_OPSET} and newer, and the onnx that is "
            f"installed knows {newest} and older."
        )


def _check_target(target: Path, *, overwrite: bool) -> None:
    for path in (target, data_file(target)):
        if path.is_dir() or (path.exists() and not overwrite):
            what = "is a folder" if path.is_dir() else "exists"
            allow = ", or replace a file with overwrite=True (on the command line --overwrite)"
            hint = "" if path.is_dir() else allow
            raise ConfigError(
                f"asked to export to {str(target)!r}: {path.name} {what}. Choose another name{hint}."
            )


def _take_name(file: Path, target: Path) -> None:
    """Give a file its name, and the weights beside it theirs; no file ever stands beside another's."""
    if data_file(file).exists() or data_file(target).exists():
        target.unlink(missing_ok=True)
        data_file(target).unlink(missing_ok=True)
    if data_file(file).exists():
        data_file(file).replace(data_file(target))
    file.replace(target)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A network on its way into a file."""

    model: nn.Module
    example: Inputs
    opset: int | None
    limit: float

    @property
    def asked(self) -> str:
        """How messages begin."""
        return f"asked to export {type(self.model).__name__} as ONNX: "

    def write(self, file: Path, *, dynamic: bool) -> ExportCheck:
        """Write the network and check the file, with the number of samples fixed where it has to be."""
        if not dynamic:
            return self._written(file, why_fixed="not asked for")
        try:
            return self._written(file, why_fixed="")
        except (SurgeryError, VerificationError) as error:
            return self._written(file, why_fixed=str(error).removeprefix(self.asked).rstrip("."))

    def _written(self, file: Path, *, why_fixed: str) -> ExportCheck:
        dynamic, count = not why_fixed, sample_count(self.example)
        with self._failing_as(SurgeryError, "torch cannot write it", torch.onnx.OnnxExporterError):
            write_file(self.model, self.example, file, dynamic_batch=dynamic, opset=self.opset)
        with self._failing_as(VerificationError, "the file is at fault", *failures()):
            described = describe(file)
            if dynamic and not described.takes_any_number(self.example):
                raise SurgeryError(f"{self.asked}its code works with one number of samples only.")
            # Nor with the number that it was traced with.
            others = with_samples(self.example, max(2, count) + 1 if dynamic else count, vary=True)
            outputs = run_file(file, [self.example, others])
        return ExportCheck(
            path=file,
            opset=described.opset,
            inputs=described.inputs,
            outputs=described.outputs,
            why_fixed=why_fixed,
            differences=self._compared(outputs, [self.example, others]),
            tolerance=self.limit,
            size=sum(path.stat().st_size for path in (file, data_file(file)) if path.exists()),
        )

    def _compared(self, outputs: list[tuple[Tensor, ...]], examples: list[Inputs]) -> dict[int, float]:
        worst: dict[int, float] = {}
        for found, example in zip(outputs, examples, strict=True):
            gap, samples = difference(found, answers(self.model, example)), sample_count(example)
            worst[samples] = max(gap, worst.get(samples, 0.0))
            if not gap <= self.limit:
                raise VerificationError(
                    f"{self.asked}onnxruntime answers otherwise than torch to {samples} samples, by "
                    f"{gap:.1e} of the largest number ({self.limit:.0e} allowed). Another opset may be "
                    "exact enough, or allow more (tolerance)."
                )
        return worst

    @contextmanager
    def _failing_as(self, kind: type[Exception], what: str, *failures: type[Exception]) -> Iterator[None]:
        """Turn failures of the libraries into an error that says what they found first."""
        try:
            yield
        except failures as error:
            first: BaseException = error
            while first.__cause__ is not None:
                first = first.__cause__
            reason = str(first).strip().partition("\n")[0][:300].rstrip(".") or type(first).__name__
            raise kind(f"{self.asked}{what} ({reason}). {_ADVICE[kind]}") from error


def _prepared(model: nn.Module, example: Inputs, opset: int | None, tolerance: float | None) -> _Work:
    dtype, device = dtype_of(model), device_of(model)
    if dtype == torch.bfloat16:
        raise ConfigError(
            f"asked to export {type(model).__name__} in bfloat16: onnxruntime does not compute with it on "
            "the CPU, so nothing could be compared. float32 and float16 work."
        )
    example = to_device(example, device)
    check_runs(model, example)
    limit = _TOLERANCES.get(dtype, 1e-2) if tolerance is None else tolerance
    if tolerance is None and device.type != "cpu":
        limit = max(limit, _OTHER_DEVICE)
    return _Work(model=model, example=example, opset=opset, limit=limit)
