"""Networks of one's own: `file.py:function` and `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from shoal.errors import ConfigError

__all__ = ["HOW_TO_BUILD", "file_hash", "model_from_file", "model_from_package"]

# What helps where a folder does not say how its network is built, or no longer can.
HOW_TO_BUILD = (
    "Pass model=, the original network or a function that builds it; on the command line type --original, "
    "such as --original net.py:make."
)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_from_file(path: Path, function: str) -> nn.Module:
    """Return what a function of a Python file returns. The file is executed, under a private name.

    Modules beside the file can be imported by it.

    Raises:
        ConfigError: If there is no such file or function, it wants arguments, or returns no network.
    """
    if not path.is_file():
        raise ConfigError(f"asked for the model '{path}:{function}': there is no file {path}.")
    name = f"_shoal_file_{file_hash(path)[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"asked for the model '{path}:{function}': {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    with _importing_from(path.resolve().parent):
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return _call(module, function, f"{path}:{function}")


def model_from_package(module: str, function: str) -> nn.Module:
    """Return what a function of an importable module returns.

    Raises:
        ConfigError: If there is no such module or function, it wants arguments, or returns no network.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"asked for the model '{module}:{function}': {module} cannot be imported ({error}). "
            f"For a file write its path: {module.rpartition('.')[2]}.py:{function}."
        ) from error
    return _call(found, function, f"{module}:{function}")


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    path = str(folder)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        if path in sys.path:
            sys.path.remove(path)


def _call(module: ModuleType, function: str, reference: str) -> nn.Module:
    found = getattr(module, function, None)
    if not callable(found):
        names = [
            n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")
        ]
        raise ConfigError(
            f"asked for the model {reference!r}: there is no function {function!r} in it. "
            f"It has: {', '.join(names) or 'no functions'}."
        )
    needed = _required(found)
    if needed:
        raise ConfigError(
            f"asked for the model {reference!r}: the function wants arguments ({', '.join(needed)}). "
            "Name one that takes none and returns the trained torch.nn.Module."
        )
    model = found()
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"asked for the model {reference!r}: the function returned {type(model).__name__}, "
            "not a torch.nn.Module."
        )
    return model


def _required(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]
