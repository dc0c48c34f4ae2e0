"""Calls that overwrite what they are given, which they must not where something else takes it too."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

__all__ = ["keep_input_", "overwrites"]


def overwrites(traced: nn.Module, node: fx.Node) -> bool:
    """Return whether a call puts its result where its first input was."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return _plain_name(node) is not None or bool(_arguments(node).get("inplace", False))


def keep_input_(traced: nn.Module, node: fx.Node) -> None:
    """Let a call put its result somewhere else than where its input was."""
    if not overwrites(traced, node):
        return
    if node.op == "call_module":
        module: Any = copy.copy(traced.get_submodule(str(node.target)))
        module.inplace = False
        node.target = f"{node.target}_{node.name}"
        traced.add_submodule(node.target, module)  # type: ignore[operator]
    elif node.op == "call_method":
        node.target = str(node.target).rstrip("_")
    elif (name := _plain_name(node)) is not None:
        node.target = getattr(F, name, None) or getattr(torch, name)
    else:
        taken, *_ = node.args or (node.kwargs["input"],)
        given = {name: value for name, value in _arguments(node).items() if value is not taken}
        node.args, node.kwargs = (taken,), {**given, "inplace": False}


def _plain_name(node: fx.Node) -> str | None:
    """`relu` for a function `relu_`; None for a function that is not named so."""
    name = getattr(node.target, "__name__", "")
    return name[:-1] if name.endswith("_") and not name.startswith("_") else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a function by name; none where it does not say what it takes."""
    if not callable(node.target):
        return {}
    try:
        return dict(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments)
    except (ValueError, TypeError):
        return {}
