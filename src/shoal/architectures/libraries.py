"""Networks by name from timm, torchvision and diffusers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from shoal.errors import ConfigError, MissingExtraError

__all__ = ["model_from_library"]

_EXTRAS = {"timm": "vision", "torchvision": "vision", "diffusers": "diffusion"}


def model_from_library(library: str, name: str, *, weights: bool = True) -> nn.Module:
    """Return a network of `timm`, `torchvision` or `diffusers`.

    Args:
        library: Which.
        name: Its name, for torchvision and timm optionally followed by `@` and the weights (`@none`
            for random ones; the trained default otherwise); for diffusers a folder.
        weights: Whether its trained weights are wanted, or only its structure.

    Raises:
        MissingExtraError: If the library is not installed.
        ConfigError: If it has no such network, or cannot be imported.
    """
    package = _import(library, name)
    if library == "diffusers":
        return _from_diffusers(package, Path(name).expanduser(), weights=weights)
    name, _, tag = name.partition("@")
    tag = tag if weights else "none"
    return _from_timm(package, name, tag) if library == "timm" else _from_torchvision(package, name, tag)


def _import(library: str, name: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        purpose = f"to load {library}:{name}"
        raise MissingExtraError(library, extra=_EXTRAS[library], purpose=purpose) from error
    except RuntimeError as error:
        raise ConfigError(
            f"asked to load {library}:{name}: {library} is installed and does not work with this torch "
            f"({error}). Install the version that belongs to it."
        ) from error


def _from_timm(timm: Any, name: str, tag: str) -> nn.Module:
    if not timm.is_model(name):
        raise ConfigError(_unknown("timm", name, timm.list_models()))
    if tag and tag != "none":
        name = f"{name}.{tag}"
    return timm.create_model(name, pretrained=tag != "none")


def _from_torchvision(torchvision: Any, name: str, tag: str) -> nn.Module:
    models = torchvision.models
    names = models.list_models()
    if name not in names:
        raise ConfigError(_unknown("torchvision", name, names))
    kinds = models.get_model_weights(name)
    if tag and tag not in ("none", "DEFAULT") and tag not in kinds.__members__:
        raise ConfigError(
            f"asked for the weights {tag!r} of torchvision:{name}: there are "
            f"{', '.join(kinds.__members__)}, and 'none' for random ones."
        )
    return models.get_model(name, weights=None if tag == "none" else kinds[tag or "DEFAULT"])


def _unknown(library: str, name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=3, cutoff=0.5)
    hint = f" Near: {', '.join(near)}." if near else ""
    return f"asked for the model {library}:{name}: {library} has none of that name.{hint}"


def _from_diffusers(diffusers: Any, folder: Path, *, weights: bool) -> nn.Module:
    kind = _class_name(folder / "config.json")
    if kind is None:
        parts = [path.parent.name for path in sorted(folder.glob("*/config.json")) if _class_name(path)]
        hint = f" Name one of its parts: {', '.join(f'{folder}/{part}' for part in parts)}." if parts else ""
        raise ConfigError(
            f"asked for the model diffusers:{folder}: there is no config.json in it that names a diffusers "
            f"class.{hint}"
        )
    found = getattr(diffusers, kind, None)
    if found is None:
        raise ConfigError(
            f"asked for the model diffusers:{folder}: its config names the class {kind}, which diffusers "
            f"{diffusers.__version__} does not have."
        )
    return found.from_pretrained(folder) if weights else found.from_config(found.load_config(folder))


def _class_name(path: Path) -> str | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = fields.get("_class_name") if isinstance(fields, dict) else None
    return name if isinstance(name, str) else None
