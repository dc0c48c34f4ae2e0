"""A Hugging Face folder as a network whose layers are read when they are needed, and dropped again.

What is in no layer (embeddings, the last norm, the head) is read once and stays.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.partial import PartialLoader
from shoal.architectures.pretrained import quiet, stock_class, transformers_for
from shoal.architectures.references import dtype_named
from shoal.architectures.shards import INDEX, WEIGHTS, Checkpoint, read_checkpoint
from shoal.architectures.skeletons import built_without_weights, listed, refusals
from shoal.architectures.trials import FAILURES
from shoal.architectures.untrusted import check_config_fields, file_inside, read_json
from shoal.errors import ConfigError, VerificationError
from shoal.units import Chain, Unit

__all__ = ["LayerwiseModel"]


class LayerwiseModel:
    """A network whose layers have weights only while they are used.

    Attributes:
        model: The network, in evaluation mode, its parameters on the meta device.
        folder: Where the weights are read from.
        dtype: Of the weights.
        device: Where they are computed on.

    Args:
        folder: A Hugging Face folder with safetensors.
        dtype: Of the weights; None for the dtype in which they were saved.
        device: Where to compute.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        MissingExtraError: If transformers or accelerate is not installed.
        ConfigError: If the folder holds no safetensors, is quantized, or lacks weights, or its config
            cannot be read or would fetch code.
        VerificationError: If a file of weights is missing, damaged or elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.folder = folder
        self.device = torch.device("cpu") if device is None else device
        if not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
            raise ConfigError(
                f"asked to read {str(folder)!r} layer by layer: it holds neither {WEIGHTS} nor {INDEX}. "
                "A Hugging Face folder with safetensors works."
            )
        checkpoint = read_checkpoint(folder)
        self._files = {name: shard.path for shard in checkpoint.shards for name in shard.entries}
        headers = _headers(checkpoint)
        config = _config(folder, trust_remote_code=trust_remote_code)
        self.dtype = dtype_named(dtype) or _stated(config) or _first_dtype(headers)
        self.model = self._built(config, trust_remote_code=trust_remote_code)
        self._loader, self._missing = self._checked(headers)
        self._resident: set[str] = set()
        self._keys: dict[int, list[str]] = {}
        self._place: dict[torch.dtype, Tensor] = {}

    def _built(self, config: Any, *, trust_remote_code: bool) -> Any:
        """The network that the config names: no memory for parameters, buffers with their values."""
        transformers = transformers_for("to read a model layer by layer")
        kind = stock_class(transformers, config, self.folder, gguf=None, trust_remote_code=trust_remote_code)
        own = hasattr(kind, "from_config")
        build = kind.from_config if own else kind._from_config
        more = {"trust_remote_code": trust_remote_code} if own else {}
        try:
            with self.device:
                model = built_without_weights(lambda: build(config, dtype=self.dtype, **more))
        except refusals() as error:
            raise ConfigError(_unread(self.folder, f"{kind.__name__} cannot be built ({error})")) from error
        return model.requires_grad_(False)

    def _checked(self, headers: Mapping[str, Tensor]) -> tuple[PartialLoader, set[str]]:
        """Load all without numbers, to see that it fits; return also the names that no tensor is for."""
        alike = {name: names for names in _names(self.model).values() for name in names}
        try:
            loader = PartialLoader(self.model, headers, self.dtype)
            faults = loader.load(headers, torch.device("meta"))
        except FAILURES as error:
            raise ConfigError(_unread(self.folder, f"its weights cannot be converted ({error})")) from error
        self.model.tie_weights()
        self.model.requires_grad_(False)
        # Buffers have the values that the class gives them.
        lacking = {name for name in faults.missing & alike.keys() if faults.missing.issuperset(alike[name])}
        if lacking or faults.resized or faults.failed:
            wrong = {
                "lacks": sorted(lacking),
                "holds in another shape": sorted(faults.resized),
                "holds in a form that cannot be converted": sorted(faults.failed),
            }
            said = "; it ".join(f"{what} {listed(names)}" for what, names in wrong.items() if names)
            raise ConfigError(_unread(self.folder, f"for {type(self.model).__name__} it {said}"))
        return loader, faults.missing

    def hold(self, chain: Chain) -> None:
        """Read what is in no unit of the chain, once and for all."""
        owner = {f"{path}.": unit.index for unit in chain for path in unit.modules}

        def owner_of(name: str) -> int | None:
            return next((index for path, index in owner.items() if name.startswith(path)), None)

        for names in _names(self.model).values():
            if len({owner_of(name) for name in names}) > 1:
                self._resident.update(names)
        self._keys = {unit.index: [] for unit in chain}
        outside = []
        for key, name in self._loader.names.items():
            index = owner_of(name)
            if index is None or name in self._resident:
                outside.append(key)
            else:
                self._keys[index].append(key)
        self._read(outside)
        self._loader.tie(self._missing)
        self.model.requires_grad_(False)
        for parameter in self.shared:
            parameter.requires_grad_(parameter.is_floating_point())
        held = (name for name, _ in self._tensors() if owner_of(name) is None or name in self._resident)
        self._check_filled(held)

    @property
    def shared(self) -> list[nn.Parameter]:
        """The weights of several units, or of one and of what is in none: they stay, and take gradients."""
        return list(dict.fromkeys(map(self.model.get_parameter, sorted(self._resident))))

    @contextmanager
    def filled(self, unit: Unit, *, gradients: bool = False) -> Iterator[None]:
        """Let a unit have its weights inside the `with`, and gradients of zeros if they are to be summed."""
        with ExitStack() as stack:
            stack.callback(self._drop, unit)
            self._read(self._keys[unit.index])
            prefixes = tuple(f"{path}." for path in unit.modules)
            self._check_filled(name for name, _ in self._tensors() if name.startswith(prefixes))
            if gradients:
                self._add_gradients(unit)
            yield

    def _add_gradients(self, unit: Unit) -> None:
        """Those of all units lie in one place, one unit after the other: apart they would leave holes."""
        for dtype, parameters in self._own(unit).items():
            sizes = [parameter.numel() for parameter in parameters]
            if self._place.get(dtype, torch.empty(0)).numel() < sum(sizes):
                self._place[dtype] = torch.empty(sum(sizes), dtype=dtype, device=self.device)
            parts = self._place[dtype][: sum(sizes)].zero_().split(sizes)
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def _own(self, unit: Unit) -> dict[torch.dtype, list[nn.Parameter]]:
        """The floating-point weights of a unit that are of no other, by their dtype."""
        shared = {id(parameter) for parameter in self.shared}
        found: dict[torch.dtype, list[nn.Parameter]] = {}
        for path in unit.modules:
            for parameter in self.model.get_submodule(path).parameters():
                if parameter.is_floating_point() and id(parameter) not in shared:
                    found.setdefault(parameter.dtype, []).append(parameter)
        return found

    def _read(self, keys: list[str]) -> None:
        safetensors: Any = importlib.import_module("safetensors")
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self._files[key], []).append(key)
        with ExitStack() as stack:
            tensors: dict[str, Any] = {}
            for path, names in by_file.items():
                # A mapping of its own, so that its pages are given back with the last tensor.
                file = stack.enter_context(safetensors.safe_open(path, framework="pt", device="cpu"))
                tensors |= {name: file.get_slice(name) for name in names}
            self._loader.load(tensors, self.device)

    def _drop(self, unit: Unit) -> None:
        for path in unit.modules:
            for name, module in self.model.get_submodule(path).named_modules(prefix=path):
                for own, parameter in module._parameters.items():
                    if parameter is not None and f"{name}.{own}" not in self._resident:
                        empty = torch.empty_like(parameter, device="meta")
                        module._parameters[own] = nn.Parameter(empty, requires_grad=False)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.named_parameters(remove_duplicate=False)
        yield from self.model.named_buffers(remove_duplicate=False)

    def _check_filled(self, names: Any) -> None:
        wanted = set(names)
        empty = sorted(name for name, tensor in self._tensors() if name in wanted and tensor.is_meta)
        if empty:
            raise ConfigError(_unread(self.folder, f"{listed(empty)} got no weights"))


def _headers(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor's shape and dtype, as a tensor without numbers."""
    dtypes = importlib.import_module("safetensors.torch")._TYPES
    found, name = {}, ""
    try:
        for name, entry in checkpoint.entries.items():
            found[name] = torch.empty(entry.shape, dtype=dtypes[entry.dtype], device="meta")
    except (KeyError, RuntimeError) as error:
        entry = checkpoint.entries[name]
        what = f"torch has no tensor {name!r} of {entry.dtype} {list(entry.shape)}"
        raise ConfigError(_unread(checkpoint.folder, what)) from error
    return found


def _config(folder: Path, *, trust_remote_code: bool) -> Any:
    transformers = transformers_for("to read a model layer by layer")
    try:
        check_config_fields(read_json(file_inside(folder, "config.json")), folder / "config.json")
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except ConfigError:
        raise
    except refusals(OSError, VerificationError) as error:
        raise ConfigError(_unread(folder, f"its config cannot be read ({error})")) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(_unread(folder, "its weights are quantized"))
    return config


def _unread(folder: Path, why: str) -> str:
    return f"asked to read {str(folder)!r} layer by layer: {why}. Load the whole model instead."


def _stated(config: Any) -> torch.dtype | None:
    stated = getattr(config, "dtype", None)
    return getattr(torch, stated) if isinstance(stated, str) else stated


def _first_dtype(headers: Mapping[str, Tensor]) -> torch.dtype:
    return next((t.dtype for t in headers.values() if t.is_floating_point()), torch.float32)


def _names(model: nn.Module) -> dict[int, list[str]]:
    """Names of every parameter, those of one parameter together."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return found
