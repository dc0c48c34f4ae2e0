"""Which modules of a network are models of transformers."""

from __future__ import annotations

import sys
from typing import Any, TypeGuard

from torch import nn

__all__ = ["is_pretrained", "owner_of"]


def is_pretrained(module: nn.Module) -> TypeGuard[Any]:
    """Return whether this is a model of transformers; never imports it."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def owner_of(model: nn.Module, path: str) -> tuple[str, Any] | None:
    """Return path and module of the outermost transformers model that holds `path`, or None.

    Args:
        model: Any network; a transformers model may be a part of it.
        path: Dotted path of a module of it.
    """
    parts = path.split(".") if path else []
    for depth in range(len(parts) + 1):
        prefix = ".".join(parts[:depth])
        module = model.get_submodule(prefix)
        if is_pretrained(module):
            return prefix, module
    return None
