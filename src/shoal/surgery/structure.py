"""Do the headers of a folder's weights fit what stock code builds of its config? No weight is read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from shoal.architectures.partial import PartialLoader
from shoal.architectures.pretrained import dtype_of, transformers_for
from shoal.architectures.shards import Entry, read_checkpoint
from shoal.architectures.skeletons import listed, skeleton
from shoal.architectures.stock import read_config
from shoal.architectures.trials import FAILURES
from shoal.architectures.untrusted import check_config_fields, file_inside, read_json
from shoal.errors import ConfigError, VerificationError
from shoal.surgery.checks import Check

__all__ = ["Gaps", "build_skeleton", "check_structure", "gaps", "left_unread", "not_loaded", "read_fields"]


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """In what files and network differ by their names.

    Attributes:
        missing: Names in the network that the files do not hold.
        unexpected: Keys in the files that the network has no place for.
        misshapen: Keys in the files of tensors with another shape than the weight.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    misshapen: frozenset[str]

    @property
    def none(self) -> bool:
        """Whether every weight has its place."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        told = []
        for kind in ("missing", "unexpected", "misshapen"):
            names = sorted(getattr(self, kind))
            told += [f"{kind}: {listed(names)}"] if names else []
        return "; ".join(told) or "none"


def read_fields(folder: Path) -> dict[str, Any]:
    """Return what a folder's `config.json` says, read so that nothing it says can be executed.

    Raises:
        ConfigError: If it is missing or damaged, or asks for code that is not of transformers.
    """
    try:
        fields = read_json(file_inside(folder, "config.json"))
    except VerificationError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise ConfigError(f"asked to read {folder / 'config.json'}: it is no config of a Hugging Face model.")
    check_config_fields(fields, folder / "config.json")
    return fields


def build_skeleton(folder: Path | str) -> nn.Module:
    """Return the network that a folder's config describes, without weights, of transformers' own code.

    Raises:
        ConfigError: If the config cannot be read, or names a class that transformers does not have or
            cannot build.
    """
    folder = Path(folder)
    fields = read_fields(folder)
    transformers = transformers_for("to build the network of a config")
    named = fields.get("architectures") or [None]
    name = named[0] if isinstance(named, list) else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        own = " and brings its own code" if fields.get("auto_map") else ""
        raise ConfigError(
            f"asked to build the network of {str(folder)!r}: its config names the class {str(name)[:80]!r}"
            f"{own}; transformers {transformers.__version__} has no model of that name. Install a "
            "version that has it, or allow its own code with trust_remote_code."
        )
    built = skeleton(kind, _config(folder))
    if built is None:
        raise ConfigError(
            f"asked to build the network of {str(folder)!r}: transformers builds no {name} of its config."
        )
    return built


def _config(folder: Path) -> Any:
    strict: Any = importlib.import_module("huggingface_hub.errors")
    try:
        return read_config(folder)
    except ConfigError:
        raise
    except (OSError, strict.StrictDataclassError, *FAILURES) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"asked to build the network of {str(folder)!r}: transformers cannot read its config ({reason})."
        ) from error


def stock_names(keys: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Return the name in a network by key in a checkpoint, as a stock loader reads it."""
    names: dict[str, str] = PartialLoader(model, list(keys), dtype_of(model)).names
    return names


def gaps(entries: Mapping[str, Entry], model: nn.Module) -> Gaps:
    """Return in what files and a network differ.

    Of weights that are shared one name is enough. Where a loader makes one weight of several tensors,
    their shapes differ, and names may.

    Args:
        entries: The tensors of the files.
        model: The network, with or without weights.
    """
    state, names = model.state_dict(keep_vars=True), stock_names(entries, model)
    filled = {id(state[name]) for name in names.values() if name in state}
    return Gaps(
        missing=frozenset(name for name, value in state.items() if id(value) not in filled),
        unexpected=frozenset(key for key, name in names.items() if name not in state)
        - left_unread(names, state, model),
        misshapen=frozenset(
            key
            for key, name in names.items()
            if name in state and tuple(state[name].shape) != entries[key].shape
        ),
    )


def left_unread(names: Mapping[str, str], state: Container[str], model: nn.Module) -> frozenset[str]:
    """Return the keys that the network has no place for and that its class leaves in the file.

    Such are layers beyond the last one, which predict further tokens, and buffers of older releases.

    Args:
        names: What `stock_names` found.
        state: Names in the network.
        model: The network.
    """
    patterns = [re.compile(each) for each in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    others = {key: name for key, name in names.items() if name not in state}
    return frozenset(key for key, name in others.items() if any(pattern.search(name) for pattern in patterns))


def check_structure(folder: Path) -> Check:
    """Return whether a folder's files hold what stock code builds of its config, by names and shapes.

    Raises:
        ConfigError: If the config cannot be read, or the class is not of transformers.
        VerificationError: If a file of weights is missing or damaged.
    """
    model, name = build_skeleton(folder), "structure"
    entries = read_checkpoint(folder).entries
    found, kind = gaps(entries, model), type(model).__name__
    if found.none:
        detail = (
            f"{len(entries):,} tensors: every weight of the {kind} that the config describes, and no other"
        )
        return Check(name=name, passed=True, detail=detail)
    if found.misshapen and not found.unexpected:
        # Several tensors become one weight, or one becomes several.
        detail = f"known only by loading: a loader converts what a {kind} reads ({found})"
        return Check(name=name, passed=None, detail=detail)
    return Check(name=name, passed=False, detail=f"the files do not fit the {kind} of the config: {found}")


def not_loaded(why: str) -> tuple[Check, ...]:
    """Return the checks that only a loaded network could answer, as not checked.

    Args:
        why: Why it was not loaded.
    """
    names = ("reload", "outputs", "generation")
    return tuple(Check(name=name, passed=None, detail=f"not loaded: {why}") for name in names)
