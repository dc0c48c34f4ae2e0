"""`--set key=value`: settings dataclasses by hand, checked as a whole, with their docstrings as help."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any

from shoal.cli.command import field_help
from shoal.cli.recipe import check_value
from shoal.errors import ConfigError

__all__ = ["changed", "describe_settings", "list_methods", "show_settings"]


def changed(base: Any, texts: Sequence[str], *, of: str) -> Any:
    """Return settings with some of them replaced.

    Args:
        base: An instance of a settings dataclass.
        texts: Each `key=value`, the value in YAML; `outer.inner=value` for settings of settings.
        of: Whose settings they are, for messages.

    Raises:
        ConfigError: If there is no such setting or a value does not work; all faults at once.
    """
    import yaml

    faults: list[str] = []
    for text in texts:
        key, found, written = text.partition("=")
        if not found:
            faults.append(f"{text!r}: write key=value")
            continue
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError:
            value = written
        base, fault = _with(base, key.strip().replace("-", "_"), value)
        if fault:
            faults.append(f"{key}: {fault}")
    if faults:
        raise ConfigError(f"asked for settings of {of}: {'; '.join(faults)}.")
    return base


def _with(base: Any, key: str, value: Any) -> tuple[Any, str]:
    name, _, inner = key.partition(".")
    known = [each.name for each in fields(base)]
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        return base, f"there is no such setting; the nearest is {near!r}"
    hint = typing.get_type_hints(type(base))[name]
    part = _part(getattr(base, name), hint)
    if inner and part is None:
        return base, f"{name} has no parts"
    if inner:
        part, fault = _with(part, inner, value)
        return (base, fault) if fault else (replace(base, **{name: part}), "")
    if is_dataclass(getattr(base, name)) and value is not None:
        parts = ", ".join(f"{name}.{each.name}" for each in fields(part))
        return base, f"it has parts of its own: {parts}"
    checked, fault = check_value(value, hint)
    return (base, fault) if fault else (replace(base, **{name: checked}), "")


def _part(value: Any, hint: Any) -> Any:
    """Settings of settings: those that there are, else their defaults where they may be None."""
    kinds = [kind for kind in typing.get_args(hint) if is_dataclass(kind) and isinstance(kind, type)]
    return value if is_dataclass(value) else kinds[0]() if kinds and value is None else None


def describe_settings(base: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return `(key, default, meaning)` of every setting, those of settings too."""
    rows: list[tuple[str, str, str]] = []
    told = field_help(type(base))
    for each in fields(base):
        value = getattr(base, each.name)
        if is_dataclass(value):
            rows += describe_settings(value, f"{prefix}{each.name}.")
        else:
            rows.append((f"{prefix}{each.name}", _written(value), told.get(each.name, "")))
    return rows


def _written(value: Any) -> str:
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True)).removesuffix("...\n").strip()


def show_settings(title: str, settings: Any, *notes: str) -> None:
    """Show every setting with its default and what it means.

    Args:
        title: Of the table.
        settings: An instance of a settings dataclass.
        notes: What stands below the table.
    """
    from shoal.cli.console import show_table
    from shoal.reports.tables import Table

    columns = (("setting", False), ("default", False), ("meaning", False))
    show_table(Table(title=title, columns=columns, rows=tuple(describe_settings(settings)), notes=notes))


def list_methods(form: str = "KEY=VALUE") -> None:
    """Show every method with a line of help, its presets and its settings.

    Args:
        form: How a setting is written after `--set`.
    """
    from shoal.methods import get, names

    for name, line in names().items():
        method = get(name)
        presets = f"presets: {', '.join(method.presets)}; change a setting with --set {form}"
        show_settings(f"{name}: {line}", method.settings(), presets)
