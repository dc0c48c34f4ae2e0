"""Fresh random weights, by the rules that a network's own modules have, for what trained ones are
compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shoal.architectures.huggingface import is_pretrained
from shoal.calling import device_of, evaluating

__all__ = ["randomise_", "seeded"]


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Draw from this seed inside the `with`; the random state outside stays as it was."""
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def randomise_(model: nn.Module) -> list[str]:
    """Give a network fresh random weights; return the names of parameters for which it has no rule.

    The rule is the `reset_parameters` of a module, inside a model of Hugging Face that model's
    `_init_weights`. A module's comes after those of the modules in it. What has no rule is drawn with
    the mean and deviation that it has. Running statistics of norms begin anew; other buffers stay.

    Args:
        model: Changed in place, but for parameters that are no floating-point numbers.

    Example:
        >>> randomise_(nn.Linear(2, 2)), randomise_(nn.ParameterList([torch.ones(2)]))
        ([], ['0'])
    """
    floating = {name: value for name, value in model.named_parameters() if value.is_floating_point()}
    with evaluating(model), torch.no_grad():
        spread = {name: (value.mean(), value.std(correction=0)) for name, value in floating.items()}
        # What is still NaN behind was not reached, whatever a rule claims.
        for parameter in floating.values():
            parameter.fill_(math.nan)
        _reset_(model, None)
        missed = {name for name, parameter in floating.items() if bool(parameter.isnan().any())}
        for name in missed:
            mean, deviation = spread[name]
            floating[name].normal_().mul_(deviation).add_(mean)
    return [name for name, _ in model.named_parameters() if name in missed or name not in floating]


def _reset_(module: nn.Module, owner: Any) -> None:
    owner = module if is_pretrained(module) else owner
    for child in module.children():
        _reset_(child, owner)
    if owner is not None:
        owner._init_weights(module)
    else:
        _call(module, "reset_parameters")
        # As torch's attention and transformers call it.
        _call(module, "_reset_parameters")
    _call(module, "reset_running_stats")


def _call(module: nn.Module, name: str) -> None:
    method = getattr(module, name, None)
    if callable(method):
        method()
