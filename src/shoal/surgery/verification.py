"""Does a written folder reproduce the network? One check a promise; what cannot be checked is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.generation import cannot_generate, compare_generation
from shoal.architectures.pretrained import dtype_of
from shoal.calling import Inputs, device_of
from shoal.errors import ConfigError, VerificationError
from shoal.surgery.checks import Check, Depth, Verification
from shoal.surgery.loading import Original, is_pretrained_folder, read_folder
from shoal.surgery.probe import Probe, answers, difference, read_probe
from shoal.surgery.record import PROBE, RECORD, TOLERANCES, hashes, read_record, write_record
from shoal.surgery.structure import check_structure, not_loaded

__all__ = ["Check", "Verification", "fits_in_memory", "record_verification", "verify"]

# The cache changes the order of sums, and errors grow from token to token.
_GENERATION = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
# Another device computes float32 products with fewer bits.
_OTHER_DEVICE = 1e-3
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What the outputs are compared with."""

    example: Inputs
    answers: tuple[Tensor, ...]
    source: str
    device: str


def verify(
    folder: str | Path,
    *,
    reference: nn.Module | None = None,
    model: Original | None = None,
    example: Inputs | None = None,
    tolerance: float | None = None,
    depth: Depth = "auto",
    trust_remote_code: bool = False,
) -> Verification:
    """Reload a folder and check that it reproduces the network that was saved.

    Checked are: the hashes of the files; that it reloads (models of transformers with the stock
    loader) without missing, unexpected or misshapen weights; the number of parameters; that the
    outputs equal the saved probe's, or the reference's; and, for language models, that greedy
    generation gives the same with and without the cache.

    A Hugging Face folder whose weights need more than half of the memory that is free is not loaded: its
    headers are compared with what stock code builds of its config, and the rest is reported as not
    checked.

    Args:
        folder: A folder that `save` wrote, or a Hugging Face model folder.
        reference: The network that was saved, for comparing outputs on `example`.
        model: As for `load`.
        example: What the forward takes; the saved probe's example where there is one.
        tolerance: Largest difference of outputs, relative to the largest output; None for 1e-5 in
            float32, 1e-9 in float64, 1e-2 in bfloat16 and float16.
        depth: `full` loads the network whatever it needs, `structure` never does; for other folders
            than those of Hugging Face both mean `full`.
        trust_remote_code: As for `load`.

    Raises:
        ConfigError: If there is no such folder, the original cannot be built, or a reference comes
            without an example.
        VerificationError: If a check fails; all failures are named.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"asked to verify {str(folder)!r}: there is no such folder.")
    record = read_record(path) if (path / RECORD).is_file() or not is_pretrained_folder(path) else {}
    checks = [_check_hashes(path, record)]
    if _too_large(path, depth):
        why = "its weights need more than half of the free memory" if depth == "auto" else "not asked for"
        return _verified(path, [*checks, check_structure(path), *not_loaded(why)])
    try:
        found, faults = read_folder(path, model=model, trust_remote_code=trust_remote_code)
    except VerificationError as error:
        checks.append(Check(name="reload", passed=False, detail=str(error)))
        raise _failed(path, checks) from error
    probe = None if checks[0].passed is False else read_probe(path / PROBE)
    expected = _expected(path, probe, reference, example)
    checks += [
        _check_keys(path, faults),
        _check_params(found, record),
        _check_outputs(found, expected, tolerance),
        _check_generation(found, probe.example if example is None and probe else example),
    ]
    return _verified(path, checks)


def record_verification(verification: Verification) -> None:
    """Note in the folder's `shoal.json` what was verified."""
    fields = read_record(verification.folder)
    write_record(verification.folder, fields | {"verification": verification.as_json()})


def fits_in_memory(size: int) -> bool:
    """Return whether so many bytes take at most half of the memory that is free; true if that is unknown."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return free is None or 2 * size <= free


def _too_large(folder: Path, depth: Depth) -> bool:
    if not is_pretrained_folder(folder) or depth == "full":
        return False
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return bool(size) and (depth == "structure" or not fits_in_memory(size))


def _verified(folder: Path, checks: list[Check]) -> Verification:
    if not all(check.passed is not False for check in checks):
        raise _failed(folder, checks)
    return Verification(folder=folder, checks=tuple(checks))


def _failed(folder: Path, checks: list[Check]) -> VerificationError:
    failed = [str(check) for check in checks if check.passed is False]
    return VerificationError(
        f"asked to verify {str(folder)!r}: {len(failed)} of {len(checks)} checks failed: "
        f"{'; '.join(failed)}. Write the folder again from the model."
    )


def _check_hashes(folder: Path, record: Mapping[str, Any]) -> Check:
    name, noted = "file hashes", record.get("hash")
    if not noted:
        return Check(name=name, passed=None, detail=f"no hashes were saved (no {RECORD})")
    found = hashes(folder)
    wrong = [path for path in sorted(noted) if found.get(path) != noted[path]]
    wrong += [path for path in sorted(found) if path not in noted]
    if wrong:
        return Check(name=name, passed=False, detail=f"not as they were written: {', '.join(wrong)}")
    return Check(name=name, passed=True, detail=f"{len(noted)} files as they were written")


def _check_keys(folder: Path, faults: Mapping[str, list[str]]) -> Check:
    how = "the stock loader" if is_pretrained_folder(folder) else "a rebuilt network, strictly"
    bad = {kind: names for kind, names in faults.items() if names}
    if bad:
        told = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:4])}" for kind, names in bad.items())
        return Check(name="reload", passed=False, detail=told)
    return Check(name="reload", passed=True, detail=f"no missing, unexpected or misshapen weights ({how})")


def _check_params(model: nn.Module, record: Mapping[str, Any]) -> Check:
    found, noted = sum(p.numel() for p in model.parameters()), record.get("params")
    if noted is None:
        return Check(name="parameters", passed=None, detail=f"{found:,}; their number was not saved")
    detail = f"{found:,}" if found == noted else f"{found:,}, and {noted:,} were saved"
    return Check(name="parameters", passed=found == noted, detail=detail)


def _expected(
    folder: Path, probe: Probe | None, reference: nn.Module | None, example: Inputs | None
) -> _Expected | None:
    if reference is None:
        if probe is None:
            return None
        return _Expected(
            example=probe.example, answers=probe.answers, source="the saved probe", device=probe.device
        )
    if example is None and probe is None:
        raise ConfigError(
            f"asked to verify {str(folder)!r} against a reference: there is no saved probe. Pass example=, "
            "what the forward takes."
        )
    inputs = example if example is not None or probe is None else probe.example
    device = device_of(reference).type
    return _Expected(
        example=inputs, answers=answers(reference, inputs), source="the reference", device=device
    )


def _check_outputs(model: nn.Module, expected: _Expected | None, tolerance: float | None) -> Check:
    if expected is None:
        return Check(
            name="outputs", passed=None, detail="not compared: no probe was saved and no reference given"
        )
    if expected.device == "cuda" and torch.cuda.is_available():
        model = model.to("cuda")
    gap = difference(answers(model, expected.example), expected.answers)
    limit = TOLERANCES.get(dtype_of(model), 1e-2) if tolerance is None else tolerance
    if tolerance is None and device_of(model).type != expected.device:
        limit = max(limit, _OTHER_DEVICE)
    detail = f"differ from {expected.source} by {gap:.1e} of the largest, {limit:.0e} allowed"
    return Check(name="outputs", passed=gap <= limit, detail=detail)


def _check_generation(model: nn.Module, example: Inputs | None) -> Check:
    why = cannot_generate(model)
    if why:
        return Check(name="generation", passed=None, detail=f"does not apply: {why}")
    config: Any = model.config
    prompt = example.get("input_ids") if isinstance(example, Mapping) else example
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or prompt.is_floating_point():
        prompt = torch.arange(1, 5)[None] % int(config.vocab_size)
    room = getattr(config, "max_position_embeddings", None) or 64
    tokens = min(8, max(1, room // 2))
    prompt = prompt[:1, : max(1, min(8, room - tokens))].to(device_of(model))
    limit = _GENERATION.get(dtype_of(model), 5e-2)
    passed, detail = compare_generation(model, prompt, tokens=tokens, tolerance=limit)
    return Check(name="generation", passed=passed, detail=detail)
