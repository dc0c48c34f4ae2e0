"""The config of a cut folder: what the cut network says, and how the weights in the files are stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.architectures.stock import write_config
from shoal.architectures.untrusted import file_inside, read_json
from shoal.errors import ConfigError, UnitError, VerificationError
from shoal.surgery.blueprint import Blueprint
from shoal.surgery.generation import repaired_generation
from shoal.surgery.renaming import Shortened, renamed
from shoal.surgery.structure import read_fields

__all__ = ["storage_fields", "write_cut_config"]

_GENERATION = "generation_config.json"
_PATTERN = re.compile(r"^(re:|[+-]:)|[\\*\[\](){}|^$?]")
# In patterns: every number there is, and what a backslash makes of a letter.
_ANY_NUMBER = re.compile(r"(\\d|\[0-9\])[+*]")
_ESCAPED_LETTER = re.compile(r"\\[A-Za-ce-z]")
_A_NUMBER = re.compile(r"\\d|(?<![A-Za-z_0-9])[0-9]")


def storage_fields(blueprint: Blueprint) -> dict[str, Any]:
    """Return the fields of the config that say how the weights are stored.

    Settings of a quantization that name layers name them by their new numbers.

    Raises:
        ConfigError: If the generation config is damaged.
        UnitError: If such a setting, or the generation config, speaks of layers in a way that is not known.
    """
    fields = read_fields(blueprint.checkpoint.folder)
    _generation_fields(blueprint)
    found: dict[str, Any] = {"dtype": blueprint.dtype}
    if "quantization_config" in fields:
        found["quantization_config"] = fields["quantization_config"]
        if blueprint.lists:
            lists = {layers.container: layers for layers in blueprint.lists.values()}
            found["quantization_config"] = _renumbered(
                fields["quantization_config"], {**lists, **blueprint.lists}
            )
    return found


def _renumbered(value: Any, lists: Mapping[str, Shortened]) -> Any:
    """The value of a setting at the new numbers; None where it names a layer that goes."""
    if isinstance(value, dict):
        return _renumbered_dict(value, lists)
    if isinstance(value, list):
        parts = [_renumbered(each, lists) for each in value]
        return [part for part, each in zip(parts, value, strict=True) if part is not None or each is None]
    return _renumbered_name(value, lists) if isinstance(value, str) else value


def _renumbered_dict(value: dict[str, Any], lists: Mapping[str, Shortened]) -> dict[str, Any]:
    after = {}
    for key, part in value.items():
        if key in ("version", "quant_method") or key.endswith("_version"):
            after[key] = part
            continue
        name = _renumbered_key(key, lists)
        moved = _renumbered(part, lists)
        if name is not None and (moved is not None or part is None):
            after[name] = moved
    return after


def _renumbered_key(key: str, lists: Mapping[str, Shortened]) -> str | None:
    if not key.isdecimal():
        return _renumbered_name(key, lists)
    distinct = {layers.container: layers for layers in lists.values()}
    if len(distinct) == 1:
        (layers,) = distinct.values()
        if key in map(str, range(layers.length)):
            return str(layers.kept.index(int(key))) if int(key) in layers.kept else None
    raise _unknown_layer(key)


def _renumbered_name(name: str, lists: Mapping[str, Shortened]) -> str | None:
    if _PATTERN.search(name):
        if _A_NUMBER.search(_ESCAPED_LETTER.sub(" ", _ANY_NUMBER.sub(" ", name))):
            raise _unknown_layer(name)
        return name
    # A colon stands in addresses and in the names of tools and their versions, in no module's.
    if ":" in name or not any(part.isdecimal() for part in name.split(".")[1:]):
        return name
    for prefix, layers in lists.items():
        if name.startswith(f"{prefix}."):
            return renamed(name, prefix, layers.kept)
    raise _unknown_layer(name)


def _unknown_layer(name: str) -> UnitError:
    return UnitError(
        f"asked to cut a quantized checkpoint: its quantization_config speaks of {name[:80]!r}, and it is "
        "not known which layer that is. Cut the checkpoint before it is quantized."
    )


def _generation_fields(blueprint: Blueprint) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the source's generation config says, and what the cut one does; empty where there is none."""
    folder = blueprint.checkpoint.folder
    if not (folder / _GENERATION).is_file():
        return {}, {}
    try:
        fields = read_json(file_inside(folder, _GENERATION))
    except VerificationError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(fields, dict):
        raise ConfigError(f"asked to read {folder / _GENERATION}: it is no generation config.")
    kept = {layers.container: layers.kept for layers in blueprint.lists.values()}
    return fields, repaired_generation(fields, blueprint.before, kept)


def write_cut_config(blueprint: Blueprint, storage: Mapping[str, Any], folder: Path) -> None:
    """Write `config.json`, and a generation config where the source's would not be right.

    The source's is right where it names no layers that move; it is copied with the other files that go
    along. Code of the model's own is not, and the class is one of transformers: no field points to such.

    Args:
        blueprint: What the folder will be.
        storage: What `storage_fields` found.
        folder: The folder that is being written.
    """
    after: Any = blueprint.after
    source = blueprint.checkpoint.folder
    write_config(after, after.config, folder)
    if (source / _GENERATION).is_file():
        (folder / _GENERATION).unlink(missing_ok=True)
        before, repaired = _generation_fields(blueprint)
        if repaired != before:
            _write_json(repaired, folder / _GENERATION)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8")) | dict(storage)
    fields.pop("auto_map", None)
    _restore_parts_(fields, read_fields(source), after.config)
    _write_json(fields, folder / "config.json")


def _restore_parts_(fields: dict[str, Any], source: Mapping[str, Any], config: Any) -> None:
    """Give the configs inside a config the dtypes that they had."""
    for name in getattr(config, "sub_configs", None) or ():
        part, told = fields.get(name), source.get(name)
        if not isinstance(part, dict):
            continue
        told = told if isinstance(told, dict) else {}
        dtype = told.get("dtype", told.get("torch_dtype"))
        for each in ("auto_map", "dtype", "torch_dtype"):
            part.pop(each, None)
        if dtype is not None:
            part["dtype"] = dtype
        _restore_parts_(part, told, getattr(config, name, None))


def _write_json(fields: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
