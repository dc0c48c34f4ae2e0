"""How a network is called, whatever its forward takes, without leaving a trace on it.

Inputs are what the model's forward takes: a tensor, a tuple of positional arguments, or a dict of
keyword arguments. A batch is inputs, or `(inputs, labels)`, or a dict with a `labels` entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from shoal.errors import DataError

__all__ = [
    "Batch",
    "Inputs",
    "call",
    "check_batches",
    "describe_inputs",
    "device_of",
    "evaluating",
    "first_sample",
    "inputs_like",
    "join_batch",
    "random_state",
    "restore_random_state",
    "sample_count",
    "split_batch",
    "to_device",
]

Inputs = Any
Batch = Any


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Return `model` of the inputs: a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def split_batch(batch: Batch) -> tuple[Inputs, Any]:
    """Return a batch's inputs and its labels, None where it has none.

    Example:
        >>> split_batch({"input_ids": 1, "labels": 2})
        ({'input_ids': 1}, 2)
    """
    if isinstance(batch, Mapping):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return inputs, batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def join_batch(inputs: Inputs, labels: Any) -> Batch:
    """Return the batch that `split_batch` takes apart again."""
    if labels is None:
        return inputs
    return {**inputs, "labels": labels} if isinstance(inputs, Mapping) else (inputs, labels)


def to_device(tree: Any, device: torch.device) -> Any:
    """Return the structure with every tensor on `device`; mappings become dicts."""
    if isinstance(tree, Mapping):
        tree = dict(tree)
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


def sample_count(inputs: Inputs) -> int:
    """Return the number of samples: the first axis of the first tensor.

    Raises:
        DataError: If there is no tensor with an axis.
    """
    for leaf in tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            return len(leaf)
    raise DataError(
        "asked to use a batch without a tensor: inputs are a tensor, a tuple or a dict of tensors."
    )


def first_sample(inputs: Inputs) -> Inputs:
    """Return the inputs' first sample, as a batch of one.

    Example:
        >>> first_sample((torch.zeros(8, 3), torch.ones(8, 1)))[0].shape
        torch.Size([1, 3])
    """
    count = sample_count(inputs)
    tree = dict(inputs) if isinstance(inputs, Mapping) else inputs
    batched = lambda leaf: isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count  # noqa: E731
    return tree_map(lambda leaf: leaf[:1] if batched(leaf) else leaf, tree)


def describe_inputs(inputs: Inputs) -> Any:
    """Return the shapes and dtypes of inputs, with all that is no tensor as it is, as JSON values.

    Raises:
        DataError: If there is something in them that JSON does not say.

    Example:
        >>> describe_inputs((torch.zeros(1, 3), None))
        {'tuple': [{'shape': [1, 3], 'dtype': 'float32'}, None]}
    """
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Mapping):
        return {"mapping": {str(key): describe_inputs(value) for key, value in inputs.items()}}
    if isinstance(inputs, (tuple, list)):
        return {"tuple": [describe_inputs(value) for value in inputs]}
    if inputs is None or isinstance(inputs, (bool, int, float, str)):
        return inputs
    raise DataError(
        f"asked to note what a network takes: an input is a {type(inputs).__name__}. Tensors, numbers, texts "
        "and None, and tuples and dicts of them, work."
    )


def inputs_like(described: Any, device: torch.device | str = "cpu") -> Inputs:
    """Return inputs of the shapes and dtypes that `describe_inputs` wrote: random numbers, and zeros where
    they are integers; the same every time.
    """
    if not isinstance(described, Mapping):
        return described
    if "mapping" in described:
        return {key: inputs_like(value, device) for key, value in described["mapping"].items()}
    if "tuple" in described:
        return tuple(inputs_like(value, device) for value in described["tuple"])
    dtype = getattr(torch, described["dtype"])
    if not dtype.is_floating_point:
        return torch.zeros(described["shape"], dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(described["shape"], generator=generator).to(device=device, dtype=dtype)


def device_of(model: nn.Module) -> torch.device:
    """Return the device on which the model takes its inputs: that of its first parameter or buffer, or
    where its weights are brought from elsewhere, that of the hooks which bring them; the CPU where it
    has none.
    """
    first = next(chain(model.parameters(), model.buffers()), None)
    if first is None:
        return torch.device("cpu")
    hooks = (vars(module).get("_hf_hook") for module in model.modules()) if first.is_meta else ()
    found = (getattr(hook, "execution_device", None) for hook in hooks)
    return next((torch.device(device) for device in found if device is not None), first.device)


def check_batches(batches: Iterable[Batch]) -> Iterable[Batch]:
    """Return the batches as something that can be gone through again and again.

    Raises:
        DataError: If they are a one-way iterator, no iterable, or empty.
    """
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise DataError(
            f"asked to use {type(batches).__name__} as batches: pass a list or a DataLoader of "
            "batches, each a tensor, (inputs, labels) or a dict."
        )
    if isinstance(batches, Iterator):
        raise DataError(
            f"asked to use {type(batches).__name__} as batches: it can be gone through only once. "
            "Pass a list or a DataLoader."
        )
    with torch.random.fork_rng(devices=[]):
        # A shuffling loader draws its order when it is begun.
        first = next(iter(batches), None)
    if first is None:
        raise DataError("asked to use batches, and found none: the data is empty.")
    return batches


@contextmanager
def evaluating(model: nn.Module, *, train: bool = False) -> Iterator[nn.Module]:
    """Put the model in evaluation mode without caches, and leave it as it was found.

    Training modes of all modules, the `use_cache` of Hugging Face configs, and the random state of
    the CPU and of the model's device are restored.
    """
    modes = {module: module.training for module in model.modules()}
    device = device_of(model)
    # A Hugging Face model may be a part of the network.
    configs = [vars(module)["config"] for module in model.modules() if "config" in vars(module)]
    cached = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    with ExitStack() as stack:
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        model.train(train)
        for config, _ in cached:
            config.use_cache = False
        try:
            yield model
        finally:
            for module, mode in modes.items():
                module.training = mode
            for config, before in cached:
                config.use_cache = before


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random generators, of the CPU and of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's random generators into the state that `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
