"""Folders to networks: what stock loaders read they read; the rest is built again, cut, and filled."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from shoal.architectures.bypassing import uncompiled
from shoal.architectures.functions import HOW_TO_BUILD
from shoal.architectures.pretrained import read_pretrained
from shoal.architectures.references import rebuild
from shoal.errors import ConfigError, VerificationError
from shoal.plan import Plan
from shoal.surgery.applying import apply
from shoal.surgery.originals import rebuild_original
from shoal.surgery.record import RECORD, WEIGHTS, read_record
from shoal.surgery.shortcut_folding import folded_anew

__all__ = ["Original", "is_pretrained_folder", "load", "read_folder"]

Original = nn.Module | Callable[[], nn.Module]


def load(folder: str | Path, *, model: Original | None = None, trust_remote_code: bool = False) -> nn.Module:
    """Return the network that a folder holds, on the CPU, in evaluation mode.

    Args:
        folder: A folder that `save` wrote, or any Hugging Face model folder.
        model: For networks that are not of transformers: the original network, or a function that
            builds it. Needed where the folder does not say how to build it.
        trust_remote_code: Whether code that comes with the folder, or that it names, may run.

    Raises:
        ConfigError: If there is no such folder, or the original cannot be built.
        VerificationError: If a file is missing or damaged, or the weights do not fit.
        PlanError: If `model` is not the network that the plan was made for.
    """
    found, faults = read_folder(Path(folder), model=model, trust_remote_code=trust_remote_code)
    random = [*faults.get("missing_keys", []), *faults.get("mismatched_keys", [])]
    if random:
        raise VerificationError(
            f"asked to load {str(folder)!r}: {len(random)} weights are missing or have another shape: "
            f"{', '.join(random[:4])}."
        )
    return found


def read_folder(
    folder: Path, *, model: Original | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, Mapping[str, list[str]]]:
    """Return the network that a folder holds, and the names of weights that do not fit, by kind.

    Raises:
        ConfigError, VerificationError, PlanError: As `load`.
    """
    if not folder.is_dir():
        raise ConfigError(f"asked to load {str(folder)!r}: there is no such folder.")
    stock = is_pretrained_folder(folder)
    record = {} if stock and not (folder / RECORD).exists() else read_record(folder)
    if record.get("format") == "adapter":
        raise ConfigError(
            f"asked to load {str(folder)!r}: it is a LoRA adapter, and no network. Load it with peft onto "
            "the cut of its base."
        )
    _check_files(folder)
    if stock:
        return _read_stock(folder, trust_remote_code=trust_remote_code)
    shallow = _rebuilt(folder, record, model, trust_remote_code=trust_remote_code)
    _fill_(shallow, folder / WEIGHTS)
    return shallow.eval(), {}


def is_pretrained_folder(folder: Path) -> bool:
    """Return whether a folder holds a model of transformers."""
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and "model_type" in fields


def _check_files(folder: Path) -> None:
    index = folder / f"{WEIGHTS}.index.json"
    names = {WEIGHTS}
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise VerificationError(
                f"asked to load {str(folder)!r}: {index} is damaged ({error})."
            ) from error
    for name in sorted(names):
        path = folder / name
        try:
            with safe_open(path, framework="pt"):
                pass
        except FileNotFoundError as error:
            raise VerificationError(f"asked to load {str(folder)!r}: there is no {name} in it.") from error
        except (SafetensorError, OSError) as error:
            raise VerificationError(
                f"asked to load {str(folder)!r}: {path} is truncated or damaged ({error})."
            ) from error


def _read_stock(folder: Path, *, trust_remote_code: bool) -> tuple[nn.Module, Mapping[str, list[str]]]:
    try:
        found = read_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise VerificationError(
            f"asked to load {str(folder)!r}: the stock loader of transformers fails ({reason})."
        ) from error
    return found.model, found.faults


def _rebuilt(
    folder: Path, record: Mapping[str, Any], model: Original | None, *, trust_remote_code: bool
) -> nn.Module:
    if model is None:
        replayed = rebuild_original(folder, record, trust_remote_code=trust_remote_code)
        if replayed is not None:
            return replayed
        if not record.get("source"):
            raise ConfigError(
                f"asked to load {str(folder)!r}: it does not say how its {record.get('class', 'network')} is "
                f"built. {HOW_TO_BUILD}"
            )
        model = rebuild(record["source"], folder=folder, trust_remote_code=trust_remote_code)
    original = model if isinstance(model, nn.Module) else model()
    if not record.get("plan"):
        with uncompiled(original) as written:
            return copy.deepcopy(written)
    plan = Plan.from_json(json.dumps(record["plan"]))
    if "shortcuts" in plan.settings:
        return folded_anew(original, plan)
    return apply(original, plan)


def _fill_(model: nn.Module, path: Path) -> None:
    """Put the weights of a file into the network; they keep the dtype in which they were saved."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    for name, saved in load_file(path).items():
        mine = tensors.get(name)
        if mine is not None and mine.dtype != saved.dtype:
            mine.data = mine.data.to(saved.dtype)
    try:
        load_model(model, path, strict=True)
    except RuntimeError as error:
        raise VerificationError(
            f"asked to load {path}: the weights do not fit the {type(model).__name__} that was built "
            f"({' '.join(str(error).split())})."
        ) from error
