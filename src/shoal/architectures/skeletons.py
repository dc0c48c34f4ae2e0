"""Networks of transformers without weights: what a stock loader builds of a config, and how two differ.

A skeleton has its parameters on the meta device, where they take no memory, and its buffers in
memory, because some say what no config does.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from shoal.architectures.hidden import Bypass
from shoal.architectures.pretrained import quiet
from shoal.architectures.trials import FAILURES
from shoal.errors import MissingExtraError

__all__ = [
    "as_read",
    "built_without_weights",
    "config_fields",
    "configs_inside",
    "difference_of",
    "is_config",
    "listed",
    "refusals",
    "skeleton",
    "stand_ins_of",
]

# Numbers of one value that are worth the trouble.
_LARGE = 1_000_000


def refusals(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what configs and models of transformers raise when they cannot be what is asked of them.

    Args:
        more: Other errors to go with them.
    """
    errors: Any = importlib.import_module("huggingface_hub.errors")
    strict = getattr(errors, "StrictDataclassError", None)
    return (*FAILURES, *more) if strict is None else (*FAILURES, *more, strict)


def as_read(config: Any) -> Any:
    """Return a config as a stock loader reads it after it was written."""
    with quiet():
        return type(config).from_dict(copy.deepcopy(config.to_dict()))


def skeleton(kind: type[nn.Module], config: Any) -> nn.Module | None:
    """Return what a class of transformers builds of a config; None if it fails.

    The same skeleton is handed out again for an equal config: do not change it.

    Raises:
        MissingExtraError: If accelerate is not installed.
    """
    return _built(cast(Any, kind), _Key(config))


class _Key:
    """A config that equals another if both are written alike."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.text = f"{type(config).__qualname__} {config.to_json_string(use_diff=False)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=16)
def _built(kind: Any, key: _Key) -> nn.Module | None:
    try:
        return cast(nn.Module, built_without_weights(lambda: kind(copy.deepcopy(key.config))))
    except refusals():
        return None


def built_without_weights(build: Callable[[], Any]) -> Any:
    """Return a model of transformers whose parameters take no memory, not even while it is built.

    Args:
        build: What builds it; whatever that raises comes through.

    Raises:
        MissingExtraError: If accelerate is not installed.
    """
    try:
        accelerate: Any = importlib.import_module("accelerate")
    except ImportError as error:
        raise MissingExtraError(
            "accelerate", extra="hf", purpose="to build models without weights"
        ) from error
    with quiet(), torch.random.fork_rng(devices=[]):
        with _no_init_weights(), _Slim(), accelerate.init_empty_weights(include_buffers=False):
            built = build()
        # Every parameter was made anew on the way, those that are the same as well.
        built.tie_weights()
        return built.eval()


class _Slim(TorchFunctionMode):
    """Lets what parameters are made of take no memory on the way either.

    What has no values yet has none on the meta device; of what has one value everywhere that one is kept.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if func in (torch.zeros, torch.ones):
            shape = torch.empty(*args, **kwargs | {"device": "meta"}).shape
            if shape.numel() > _LARGE:
                kwargs.pop("size", None)
                return func(1, **kwargs).expand(shape)
        return func(*args, **kwargs)


def _no_init_weights() -> AbstractContextManager[None]:
    """The context in which models of transformers draw no weights."""
    # Before transformers 5 it was in another module.
    for name in ("transformers.initialization", "transformers.modeling_utils"):
        try:
            found: Any = getattr(importlib.import_module(name), "no_init_weights", None)
        except ImportError:
            continue
        if found is not None:
            return cast(AbstractContextManager[None], found())
    return nullcontext()


def difference_of(model: nn.Module, built: nn.Module) -> str:
    """Return in what two networks of one class differ: weights, their shapes, stand-ins; empty if in nothing.

    Args:
        model: The network at hand.
        built: The network that was built.
    """
    ours, theirs = _shapes(model), _shapes(built)
    mine, others = stand_ins_of(model), stand_ins_of(built)
    resized = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    found = {
        "it lacks": theirs.keys() - ours.keys(),
        "it alone has": ours.keys() - theirs.keys(),
        "it has another size of": resized,
        "it has other stand-ins at": {name for name, _ in mine.items() ^ others.items()},
    }
    return "; ".join(f"{what} {listed(sorted(names))}" for what, names in found.items() if names)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def stand_ins_of(model: nn.Module) -> dict[str, str]:
    """Return what the stand-ins of a network put out, in words, by their names."""
    return {name: repr(m.outputs) for name, m in model.named_modules() if isinstance(m, Bypass)}


def listed(names: Any, most: int = 3) -> str:
    """Return the first few of many names, in words."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_config(value: Any) -> bool:
    """Return whether a value is a config of transformers."""
    return hasattr(value, "to_diff_dict") and hasattr(value, "model_type")


def config_fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config, without the configs inside it."""
    return {name: value for name, value in vars(config).items() if not is_config(value)}


def configs_inside(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a config and all configs inside it, each with the names that lead to it."""
    yield path, config
    for name, value in vars(config).items():
        if is_config(value):
            yield from configs_inside(value, (*path, name))
