"""A probe: one example with the network's answers, saved beside the weights.

With it a folder can be verified a year later, on another machine, without the original.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from shoal.calling import Inputs, call, device_of, evaluating, to_device
from shoal.errors import DataError

__all__ = ["Probe", "answers", "difference", "read_probe", "write_probe"]

_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An example and what the network answered.

    Attributes:
        example: What the forward takes, on the CPU.
        answers: The floating-point tensors that came out, in order, on the CPU.
        device: Type of the device that computed them.
    """

    example: Inputs
    answers: tuple[Tensor, ...]
    device: str


def answers(model: nn.Module, example: Inputs) -> tuple[Tensor, ...]:
    """Return the floating-point tensors that the model answers with, in order, on the CPU.

    Raises:
        DataError: If there are none.
    """
    with evaluating(model), torch.no_grad():
        output = call(model, to_device(example, device_of(model)))
    found = tuple(leaf.detach().cpu() for leaf in _leaves(output) if leaf.is_floating_point())
    if not found:
        raise DataError(
            f"asked for the answers of {type(model).__name__} to an example: it returned a "
            f"{type(output).__name__} without floating-point tensors."
        )
    return found


def _leaves(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    elif not isinstance(output, (list, tuple)):
        output = list(getattr(output, "__dict__", {}).values())
    return [leaf for part in output for leaf in _leaves(part)]


def difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Return the largest difference between answers, relative to the largest expected value.

    Returns:
        A number ≥ 0; infinite where number, shapes or finiteness differ.
    """
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.numel() == 0 or torch.equal(ours, theirs):
            continue
        gap = (ours.double() - theirs.double()).abs().max().item()
        scale = theirs.double().abs().max().item()
        worst = max(worst, gap / scale) if isfinite(gap) and scale > 0 else float("inf")
    return worst


def write_probe(model: nn.Module, example: Inputs, path: Path) -> None:
    """Save an example with the model's answers.

    Raises:
        DataError: If the example holds what cannot be saved, or the answers are not finite.
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(example, "input", tensors)
    found = answers(model, example)
    if not all(torch.isfinite(answer).all() for answer in found):
        raise DataError(f"asked to save {type(model).__name__}: its answers to the example are not finite.")
    tensors |= {f"output.{number:03d}": answer.contiguous().clone() for number, answer in enumerate(found)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"inputs": json.dumps(structure), "device": device_of(model).type})


def read_probe(path: Path) -> Probe | None:
    """Return the probe of this file; None where there is no such file."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    outputs = sorted(key for key in tensors if key.startswith("output."))
    return Probe(
        example=_unpack(json.loads(metadata["inputs"]), tensors),
        answers=tuple(tensors[key] for key in outputs),
        device=metadata["device"],
    )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, _CONSTANTS):
        return {"value": value}
    if isinstance(value, Mapping):
        return {"dict": {key: _pack(part, f"{name}.{key}", tensors) for key, part in value.items()}}
    if isinstance(value, (tuple, list)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(part, f"{name}.{number}", tensors) for number, part in enumerate(value)]}
    raise DataError(
        f"asked to save an example that holds a {type(value).__name__} ({name}): examples are tensors, "
        "numbers, text, and tuples, lists and dicts of them."
    )


def _unpack(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((form, content),) = structure.items()
    if form == "tensor":
        return tensors[content]
    if form == "value":
        return content
    if form == "dict":
        return {key: _unpack(part, tensors) for key, part in content.items()}
    parts = [_unpack(part, tensors) for part in content]
    return parts if form == "list" else tuple(parts)
