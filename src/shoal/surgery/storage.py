"""The config of a cut folder: what the cut network says, and how the weights in the files are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.architectures.stock import write_config
from shoal.errors import UnitError
from shoal.surgery.blueprint import Blueprint
from shoal.surgery.renaming import renamed
from shoal.surgery.structure import read_fields

__all__ = ["storage_fields", "write_cut_config"]


def storage_fields(blueprint: Blueprint) -> dict[str, Any]:
    """Return the fields of the config that say how the weights are stored.

    Settings of a quantization that name layers name them by their new numbers.

    Raises:
        UnitError: If such a setting speaks of layers in a way that is not known.
    """
    fields = read_fields(blueprint.checkpoint.folder)
    found: dict[str, Any] = {"dtype": blueprint.dtype}
    if "quantization_config" in fields:
        kept = {prefix: layers.kept for prefix, layers in blueprint.lists.items()}
        kept |= {layers.container: layers.kept for layers in blueprint.lists.values()}
        found["quantization_config"] = _renumbered(fields["quantization_config"], kept)
    return found


def _renumbered(value: Any, kept: Mapping[str, tuple[int, ...]]) -> Any:
    if isinstance(value, dict):
        for name in filter(_names_layer, value):
            raise _unknown_layer(name)
        return {name: _renumbered(part, kept) for name, part in value.items()}
    if isinstance(value, list):
        parts = [_renumbered(each, kept) for each in value]
        return [part for part, each in zip(parts, value, strict=True) if part is not None or each is None]
    if not isinstance(value, str) or not _names_layer(value):
        return value
    for prefix, numbers in kept.items():
        if value.startswith(f"{prefix}."):
            return renamed(value, prefix, numbers)
    raise _unknown_layer(value)


def _names_layer(text: str) -> bool:
    return any(part.isdecimal() for part in text.split(".")[1:])


def _unknown_layer(name: str) -> UnitError:
    return UnitError(
        f"asked to cut a quantized checkpoint: its quantization_config speaks of {name[:80]!r}, and it is "
        "not known which layer that is. Cut the checkpoint before it is quantized."
    )


def write_cut_config(blueprint: Blueprint, storage: Mapping[str, Any], folder: Path) -> None:
    """Write `config.json`, and a generation config where the source has none.

    Args:
        blueprint: What the folder will be.
        storage: What `storage_fields` found.
        folder: The folder that is being written.
    """
    after: Any = blueprint.after
    write_config(after, after.config, folder)
    if (blueprint.checkpoint.folder / "generation_config.json").is_file():
        # It is copied with the other files that go along.
        (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | dict(storage)
    for name in getattr(after.config, "sub_configs", None) or ():
        if isinstance(fields.get(name), dict):
            fields[name]["dtype"] = storage["dtype"]
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
