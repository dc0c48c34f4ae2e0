"""Recipes: a verb's options in a YAML file, checked as a whole before anything is done."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError

__all__ = ["check_value", "flattened", "read_recipe"]


def read_recipe(path: Path, options: type[Any], verb: str) -> dict[str, Any]:
    """Return the options that a recipe gives, by field name.

    Keys are the verb's options as they are typed, without the dashes in front (`batch-size` or
    `batch_size`), and `model` for MODEL. A list of `key=value` may be written as a mapping.

    Args:
        path: The file.
        options: The verb's options dataclass.
        verb: Its name, for messages.

    Raises:
        ConfigError: If the file is missing or no YAML mapping, or has unknown keys or values of the
            wrong kind; all faults at once, each with its path and the nearest name.
    """
    hints = typing.get_type_hints(options)
    known = [each.name for each in fields(options) if each.name != "config"]
    found: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            faults.append(
                f"{key}: `shoal {verb}` has no option of that name; the nearest is {near.replace('_', '-')}"
            )
            continue
        if isinstance(value, Mapping):
            value = [f"{inner}={text}" for inner, text in flattened(value)]
        checked, fault = check_value(value, hints[name])
        if fault:
            faults.append(f"{key}: {fault}")
        found[name] = checked
    if faults:
        raise ConfigError(f"asked to use the recipe {path}: " + "; ".join(faults) + ".")
    return {name: value for name, value in found.items() if value is not None}


def check_value(value: Any, kind: Any) -> tuple[Any, str]:
    """Return a value as one of this type, and an empty text; or None and what is wrong with it.

    Example:
        >>> check_value("3", int)
        (3, '')
        >>> check_value("many", int)[1]
        "'many' does not work: input should be a valid integer, unable to parse string as an integer"
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    coerced = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        # A dtype, a budget or a class name may look like a number in YAML.
        config = ConfigDict(coerce_numbers_to_str=coerced)
        return TypeAdapter(kind, config=config).validate_python(value), ""
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        return None, f"{value!r} does not work: {reason[0].lower()}{reason[1:]}"


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings as `(dotted.key, YAML text)`.

    Example:
        >>> flattened({"exchanges": 0, "graft": {"steps": 2}})
        [('exchanges', '0'), ('graft.steps', '2')]
    """
    import yaml

    leaves: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves += flattened(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            leaves.append((f"{prefix}{key}", text))
    return leaves


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"asked to use the recipe {path}: it cannot be read ({error}).") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"asked to use the recipe {path}: it is not YAML ({reason}).") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"asked to use the recipe {path}: it holds a {type(content).__name__}. A recipe is a mapping, "
            "such as `budget: macs=0.6`."
        )
    return content
