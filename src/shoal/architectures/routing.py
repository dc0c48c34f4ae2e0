"""Mixtures of experts that return how they routed, beside what they computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["unrouted", "without_routing"]


@contextmanager
def unrouted(model: nn.Module) -> Iterator[None]:
    """Let a network return no routing inside the `with`.

    Of layers that are left out, or answered for, there is none, and Hugging Face's networks compute a loss of
    the routing of all.
    """
    found: list[Any] = [vars(module).get("config") for module in model.modules()]
    configs = {id(config): config for config in found}
    routed = [config for config in configs.values() if getattr(config, "output_router_logits", False)]
    try:
        for config in routed:
            config.output_router_logits = False
        yield
    finally:
        for config in routed:
            config.output_router_logits = True


def without_routing(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, with which no routing is asked for, either.

    Example:
        >>> without_routing({"use_cache": False, "output_router_logits": True})
        {'use_cache': False, 'output_router_logits': False}
    """
    asked = {"output_router_logits": False} if arguments.get("output_router_logits") else {}
    return {**arguments, **asked}
