"""ONNX files: torch writes them, onnx says what is in them, onnxruntime computes with them on the CPU.

B = samples, T = tokens, D = width.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from shoal.calling import Inputs, evaluating, sample_count
from shoal.errors import MissingExtraError

__all__ = [
    "Described",
    "data_file",
    "describe",
    "failures",
    "needed",
    "run_file",
    "with_samples",
    "write_file",
]

# Protocol buffers end at 2 GiB, and the graph needs room too.
_LARGEST = 2**31 - 2**26


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a file says of itself.

    Attributes:
        opset: Version of ONNX's operators.
        inputs, outputs: Name → shape; an axis of any length has a name.
    """

    opset: int
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]

    def takes_any_number(self, example: Inputs) -> bool:
        """Return whether the number of samples is free in every input that has one."""
        count = sample_count(example)
        pairs = zip(_tensors(example), self.inputs.values(), strict=True)
        return all(isinstance(shape[0], str) for leaf, shape in pairs if _is_batched(leaf, count))


def needed(package: str) -> Any:
    """Return a package of the extra `onnx`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, extra="onnx", purpose="to export networks") from error


def failures() -> tuple[type[Exception], ...]:
    """Return what onnx and onnxruntime raise when they find a file at fault."""
    onnx, state = needed("onnx"), needed("onnxruntime.capi.onnxruntime_pybind11_state")
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    found = [getattr(state, name) for name in names]
    # ValueError: of inputs that are not those of the file.
    return (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, *found)


def data_file(path: Path) -> Path:
    """Return where the weights stand that are too large for the file itself."""
    return path.with_name(f"{path.name}.data")


def write_file(
    model: nn.Module, example: Inputs, file: Path, *, dynamic_batch: bool, opset: int | None = None
) -> None:
    """Write a network as it answers in evaluation mode.

    Args:
        model: The network; stays as it is.
        example: What the forward takes.
        file: The file.
        dynamic_batch: Whether the number of samples is to be free.
        opset: Version of ONNX's operators; torch's choice where it is None.

    Raises:
        torch.onnx.OnnxExporterError: If torch cannot.
    """
    count, batch = sample_count(example), torch.export.Dim("batch")
    # Of a single sample torch would take it that there never are more.
    args, kwargs = _arguments(with_samples(example, max(2, count)) if dynamic_batch else example)
    given = _arguments(example)
    free = tree_map(lambda leaf: {0: batch} if _is_batched(leaf, count) else None, given)
    with evaluating(model), torch.no_grad(), _quiet(), _OneHead():
        program: Any = torch.onnx.export(
            model,
            args,
            kwargs=kwargs,
            dynamo=True,
            dynamic_shapes=(free[1] or free[0]) if dynamic_batch else None,
            output_names=_output_names(model, args, kwargs),
            opset_version=opset,
            verbose=False,
        )
    weights = chain(model.parameters(), model.buffers())
    large = sum(weight.numel() * weight.element_size() for weight in weights) > _LARGEST
    program.save(file, external_data=large)


def _output_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str] | None:
    """What a network calls the tensors that it answers with in a mapping; None where they have no names."""
    found = model(*args, **kwargs)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        return None
    taken = inspect.signature(model.forward).parameters
    free = all(isinstance(name, str) and name and name not in taken for name in found)
    return list(found) if free else None


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


class _OneHead(TorchFunctionMode):
    """Attention `(B, T, D)` as attention of one head: torch writes `(B, heads, T, D)` alone as ONNX."""

    def __torch_function__(
        self, function: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is not F.scaled_dot_product_attention or not args or args[0].dim() != 3:
            return function(*args, **kwargs)
        one_head = [_with_head(each) for each in args]
        return function(*one_head, **{name: _with_head(each) for name, each in kwargs.items()}).squeeze(1)


def _with_head(value: Any) -> Any:
    return value.unsqueeze(1) if isinstance(value, Tensor) and value.dim() == 3 else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from users what torch says while it writes: the file is checked when it is there."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    # Operators of torchvision that are not there, constants that cannot be folded, outputs that are None.
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Of a structure that torch itself copies; of how it names the free axis of several inputs.
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            warnings.filterwarnings("ignore", "# ONNX model has different number of inputs", UserWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def describe(file: Path) -> Described:
    """Return what a file says of itself, checked by onnx.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: If it is at fault.
    """
    onnx = needed("onnx")
    onnx.checker.check_model(str(file), full_check=True)
    found = onnx.load(str(file), load_external_data=False)
    return Described(
        opset=next(each.version for each in found.opset_import if each.domain in ("", "ai.onnx")),
        inputs=_shapes(found.graph.input),
        outputs=_shapes(found.graph.output),
    )


def _shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in values
    }


def run_file(file: Path, examples: list[Inputs]) -> list[tuple[Tensor, ...]]:
    """Return what onnxruntime answers to each of several inputs: the floating-point tensors, in order."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    # Errors alone; it would also tell what of the graph it needs not compute.
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = []
    for example in examples:
        given = [leaf.detach().cpu().numpy() for leaf in _tensors(example)]
        outputs = map(torch.as_tensor, session.run(None, dict(zip(names, given, strict=True))))
        found.append(tuple(each for each in outputs if each.is_floating_point()))
    return found


def with_samples(example: Inputs, samples: int, *, vary: bool = False) -> Inputs:
    """Return the example with so many samples; they are taken again and again from the first on.

    Args:
        example: What the forward takes.
        samples: How many.
        vary: Whether maps and sequences of numbers, `(B, …, …)`, are shifted along their last axis, each
            sample by another step, and drawn at random where all are 0.

    Example:
        >>> with_samples((torch.tensor([1, 2]), "left"), 3)
        (tensor([1, 2, 1]), 'left')
    """
    count, draw = sample_count(example), torch.Generator().manual_seed(0)
    rows = torch.arange(samples) % count

    def chosen(leaf: Any) -> Any:
        if not _is_batched(leaf, count):
            return leaf
        taken = leaf[rows.to(leaf.device)]
        if not vary or leaf.dim() < 3 or not leaf.is_floating_point():
            return taken
        if not taken.any():
            return torch.randn(taken.shape, generator=draw).to(taken)
        return torch.stack([row.roll(1 + number, -1) for number, row in enumerate(taken)])

    return tree_map(chosen, dict(example) if isinstance(example, Mapping) else example)


def _tensors(example: Inputs) -> list[Tensor]:
    tree = dict(example) if isinstance(example, Mapping) else example
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_batched(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
