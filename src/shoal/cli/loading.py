"""From options to what stages take: the model, the data in batches, the example."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli.options import BatchOptions, DataOptions, ExampleOptions, ModelOptions, SampleOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from shoal.architectures.layerwise import LayerwiseModel
    from shoal.architectures.references import LoadedModel
    from shoal.calling import Batch, Inputs
    from shoal.data import Batches, Data

__all__ = [
    "example_of",
    "open_data",
    "open_example",
    "open_layers",
    "open_model",
    "open_more_data",
    "open_structure",
    "usable_device",
]


def open_model(options: ModelOptions, reference: str | None = None) -> LoadedModel:
    """Return the model that the options name, on its device.

    Args:
        options: The verb's options.
        reference: Another model to be opened the same way.
    """
    from shoal.architectures.references import load_model

    return load_model(
        reference or options.model,
        dtype=options.dtype,
        device=usable_device(options.device),
        trust_remote_code=options.trust_remote_code,
        original=options.original if reference is None else None,
    )


def open_layers(options: ModelOptions) -> tuple[LayerwiseModel, LoadedModel]:
    """Return the folder that the options name, to be read layer by layer, and its network without weights.

    Raises:
        ConfigError: If it is no local folder, or cannot be read layer by layer.
        MissingExtraError: If transformers or accelerate is not installed.
    """
    from shoal.architectures.layerwise import LayerwiseModel
    from shoal.architectures.references import LoadedModel

    folder = Path(options.model).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"asked to read {options.model!r} layer by layer: it is no local folder. A Hugging Face folder "
            "with safetensors works; `hf download ID --local-dir DIR` makes one of a model of the hub."
        )
    if options.original is not None:
        raise ConfigError(
            f"asked to read {options.model!r} layer by layer, made of {options.original!r}: a Hugging Face "
            "folder says itself what it is made of. Leave --original out."
        )
    layers = LayerwiseModel(
        folder,
        dtype=options.dtype,
        device=usable_device(options.device),
        trust_remote_code=options.trust_remote_code,
    )
    source = {"reference": options.model, "kind": "huggingface"}
    return layers, LoadedModel(model=deepcopy(layers.model), source=source, folder=folder)


def open_structure(options: ModelOptions, samples: ExampleOptions) -> tuple[nn.Module, Inputs]:
    """Return the network that the options name, for what does not depend on its weights, and the example.

    Of a local Hugging Face folder with safetensors nothing but the config is read, unless options ask
    for data or code.

    Args:
        options: The verb's options for the network.
        samples: Those for the example; mostly the same.

    Raises:
        ConfigError: As `open_model` and `open_example`.
    """
    from shoal.architectures.references import dtype_named
    from shoal.surgery import build_skeleton, is_checkpoint

    folder = Path(options.model).expanduser()
    alone = samples.data is None and not options.trust_remote_code and options.original is None
    if alone and is_checkpoint(folder):
        # Neither matters here; what could not be had later is said now.
        usable_device(options.device)
        dtype_named(options.dtype)
        model = build_skeleton(folder)
        _check_no_settings(samples)
        return model, example_of(None, model, samples.example_batch)
    loaded = open_model(options)
    return loaded.model, open_example(samples, loaded)


def usable_device(name: str | None) -> torch.device:
    """Return the device of this name, a GPU where none is named and there is one.

    Raises:
        ConfigError: If there is no such device here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        gpus = torch.cuda.device_count()
        works = ", ".join(["cpu", *(f"cuda:{number}" for number in range(gpus))])
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ConfigError(f"asked for the device {name!r}: {reason}. Here work: {works}.") from error
    return device


def open_data(options: DataOptions, loaded: LoadedModel) -> Data:
    """Return the data of `--data`, in batches that fit the model's dtype.

    Raises:
        ConfigError, DataError, MissingExtraError: As `shoal.data.load_data`.
    """
    settings = _settings(options)
    if options.num_samples is not None:
        settings["num_samples"] = options.num_samples
    return _opened(options.data, settings, loaded)


def open_more_data(
    reference: str, options: DataOptions, loaded: LoadedModel, num_samples: int | None = None
) -> Data:
    """Return other data than that of `--data`, cut into batches the same way.

    A function that makes its batches itself does without the options for batches.

    Args:
        reference: As users write it.
        options: How it is cut.
        loaded: The model.
        num_samples: How many samples of it; all where it is None.
    """
    settings = {} if ".py:" in reference else _settings(options)
    if num_samples is not None:
        settings["num_samples"] = num_samples
    return _opened(reference, settings, loaded)


def open_example(options: ExampleOptions, loaded: LoadedModel) -> Inputs:
    """Return the example that the options ask for.

    Raises:
        ConfigError: If there is no data and the model does not say what it takes, or options for
            samples came without data.
    """
    data = None
    if options.data is not None:
        data = _opened(options.data, _settings(options), loaded)
    else:
        _check_no_settings(options)
    return example_of(data, loaded.model, options.example_batch, whole=options.seq_len is not None)


def _check_no_settings(options: ExampleOptions) -> None:
    # Every verb that draws anything has a seed.
    given = ", ".join(name for name in _settings(options) if name != "seed")
    if given:
        raise ConfigError(
            f"asked for {given} without --data: that says how samples of data are made. Give --data."
        )


def example_of(data: Data | None, model: nn.Module, samples: int, *, whole: bool = False) -> Inputs:
    """Return an example with so many samples: of the data, or of what the model says it takes.

    Args:
        data: The data; the model's own word where it is None.
        model: The model.
        samples: How many; one is repeated.
        whole: Whether a window of text is taken in its full length.

    Raises:
        ConfigError: If the model does not say what it takes, or the number is below 1.
    """
    from shoal.architectures import example_for
    from shoal.calling import first_sample, split_batch

    if samples < 1:
        raise ConfigError(f"asked for --example-batch {samples}: at least one sample is needed.")
    if data is None:
        return _repeated(example_for(model), samples)
    if whole and data.kind == "text":
        return _repeated(first_sample(split_batch(next(iter(data.batches)))[0]), samples)
    return _repeated(data.example, samples)


def _opened(reference: str, settings: dict[str, Any], loaded: LoadedModel) -> Data:
    from dataclasses import replace

    from shoal.architectures.pretrained import dtype_of
    from shoal.data import load_data

    tokenizer = loaded.load_tokenizer() if _may_be_text(reference) else None
    data = load_data(reference, tokenizer=tokenizer, **settings)
    if data.kind == "custom":
        return data
    cast = _Cast(data.batches, dtype_of(loaded.model))
    return replace(data, batches=cast, example=cast.apply(data.example))


def _settings(options: SampleOptions) -> dict[str, Any]:
    given = {
        "seq_len": options.seq_len,
        "size": options.image_size,
        "crop": options.crop,
        "mean": _numbers("--mean", options.mean),
        "std": _numbers("--std", options.std),
        "channels": options.channels,
    }
    if isinstance(options, BatchOptions):
        given |= {"batch_size": options.batch_size, "seed": options.seed}
    return {name: value for name, value in given.items() if value is not None}


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.strip("[]() ").split(","))
    except ValueError as error:
        raise ConfigError(
            f"asked for {flag} {text!r}: it is a number a channel, such as 0.485,0.456,0.406."
        ) from error


def _may_be_text(reference: str) -> bool:
    return reference.startswith(("topics", "hf:")) or reference.endswith((".txt", ".jsonl"))


def _repeated(example: Inputs, samples: int) -> Inputs:
    """Return the example with its samples repeated until there are so many."""
    import torch
    from torch.utils._pytree import tree_map

    from shoal.calling import sample_count

    count = sample_count(example)
    rows = torch.arange(samples) % count

    def chosen(leaf: Any) -> Any:
        batched = isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and len(leaf) == count
        return leaf[rows.to(leaf.device)] if batched else leaf

    return tree_map(chosen, example)


class _Cast:
    """Batches whose floating-point numbers are of the model's dtype."""

    def __init__(self, batches: Batches, dtype: torch.dtype) -> None:
        self._batches, self._dtype = batches, dtype

    def apply(self, tree: Any) -> Any:
        """Return the structure in the dtype."""
        import torch
        from torch.utils._pytree import tree_map

        def cast(leaf: Any) -> Any:
            floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
            return leaf.to(self._dtype) if floating else leaf

        return tree_map(cast, tree)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.apply, self._batches)
