"""How some of a checkpoint's tensors become weights of a model of transformers, by its own rules.

Names in a file may differ from those in the network, and several tensors may become one: transformers 5
knows conversions for each family, transformers 4 prefixes alone. Both are asked here for a part of the
tensors at a time; a model's other weights stay as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.pretrained import quiet

__all__ = ["Faults", "PartialLoader"]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What did not fit.

    Attributes:
        missing: Names in the network that no tensor was for.
        resized: Names in the network that got a tensor of another shape.
        failed: Names whose conversion failed, each with the reason.
    """

    missing: set[str] = field(default_factory=set)
    resized: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


class PartialLoader:
    """Fills weights of a model of transformers from some of a checkpoint's tensors.

    Args:
        model: A model of transformers; its parameters may lie on the meta device.
        keys: Names of all tensors of the checkpoint.
        dtype: Of floating-point weights.
    """

    def __init__(self, model: Any, keys: Iterable[str], dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        loading = _loading()
        self._rules: Any = (
            _Converting(model, dtype, loading) if loading is not None else _Renaming(model, keys)
        )
        self.names: dict[str, str] = {key: self._rules.name(key) for key in keys}
        """Name in the network by name in the checkpoint; where one tensor becomes several, of the first."""

    def load(self, tensors: Mapping[str, Any], device: torch.device) -> Faults:
        """Put tensors into the model, on a device; those that the network has no place for are left.

        Args:
            tensors: By name in the checkpoint, as tensors or as slices of a safetensors file.
            device: Where to.
        """
        with quiet():
            faults: Faults = self._rules.load(self.model, tensors, self.dtype, device)
        return faults

    def tie(self, missing: set[str]) -> None:
        """Let the weights that are declared to be shared be shared, once those that are kept are loaded.

        Args:
            missing: Names in the network that the checkpoint has no tensor for.
        """
        with quiet():
            self._rules.tie(self.model, missing)


def _loading() -> Any | None:
    """The module of transformers 5 that loads weights; None for transformers 4."""
    try:
        return importlib.import_module("transformers.core_model_loading")
    except ImportError:
        return None


class _Converting:
    """transformers 5: renames and conversions that are declared for every family."""

    def __init__(self, model: Any, dtype: torch.dtype, loading: Any) -> None:
        mapping = importlib.import_module("transformers.conversion_mapping")
        self._loading = loading
        self._changes = mapping.get_model_conversion_mapping(model)
        self._plan = model._get_dtype_plan(dtype)
        self._prefix, self._places = model.base_model_prefix, model.state_dict()

    def name(self, key: str) -> str:
        changes: list[Any] = self._changes
        renamings = [change for change in changes if isinstance(change, self._loading.WeightRenaming)]
        converters = [change for change in changes if isinstance(change, self._loading.WeightConverter)]
        for pair in ((renamings, converters), ([], [])):
            name: str = self._loading.rename_source_key(key, *pair, self._prefix, self._places)[0]
            # A name that the network has itself was not to be changed.
            if name in self._places or key not in self._places:
                break
        return name

    def load(
        self, model: Any, tensors: Mapping[str, Any], dtype: torch.dtype, device: torch.device
    ) -> Faults:
        config = importlib.import_module("transformers.modeling_utils").LoadStateDictConfig(
            device_map={"": device}, dtype=dtype, dtype_plan=self._plan, weight_mapping=self._changes
        )
        info, _ = self._loading.convert_and_load_state_dict_in_model(model, dict(tensors), config)
        return Faults(
            missing=set(info.missing_keys),
            resized={name for name, *_ in info.mismatched_keys},
            failed={name: str(reason).strip() for name, reason in info.conversion_errors.items()},
        )

    def tie(self, model: Any, missing: set[str]) -> None:
        model.tie_weights(missing_keys=set(missing), recompute_mapping=False)


class _Renaming:
    """transformers 4: the base model's prefix comes or goes, and some classes rename."""

    def __init__(self, model: Any, keys: Iterable[str]) -> None:
        keys, prefix = list(keys), model.base_model_prefix
        found = bool(prefix) and any(key.startswith(prefix) for key in keys)
        wanted = bool(prefix) and hasattr(model, prefix)
        renamings = getattr(model, "_checkpoint_conversion_mapping", None)
        with quiet():
            self._names = model._get_key_renaming_mapping(
                keys, renamings, found and not wanted, wanted and not found
            )
        self._strict = tuple(model._keep_in_fp32_modules_strict or ())
        self._half = tuple(model._keep_in_fp32_modules or ())

    def name(self, key: str) -> str:
        return str(self._names.get(key, key))

    def load(
        self, model: Any, tensors: Mapping[str, Any], dtype: torch.dtype, device: torch.device
    ) -> Faults:
        places = model.state_dict()
        faults = Faults(missing=places.keys() - {self.name(key) for key in tensors})
        for key, tensor in tensors.items():
            name = self.name(key)
            if name not in places:
                continue
            value = tensor[...]
            if value.shape != places[name].shape:
                faults.resized.add(name)
                continue
            wanted = self._dtype(name, dtype) if value.is_floating_point() else value.dtype
            _put(model, name, value.to(device=device, dtype=wanted))
        return faults

    def _dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        kept = self._strict + (self._half if dtype == torch.float16 else ())
        narrow = dtype in (torch.float16, torch.bfloat16)
        # Whole parts of the name, as transformers takes them.
        wide = narrow and any(f".{part}." in f".{name}." for part in kept)
        return torch.float32 if wide else dtype

    def tie(self, model: Any, missing: set[str]) -> None:
        model.tie_weights()


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if own in module._buffers:
        module._buffers[own] = value
    else:
        setattr(module, own, nn.Parameter(value, requires_grad=value.is_floating_point()))
