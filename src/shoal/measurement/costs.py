"""What a network costs, all numbers together: `measure` one, or `measure_pair` side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from shoal.calling import Inputs, call, device_of, evaluating, to_device
from shoal.measurement.counting import count_macs, count_params
from shoal.measurement.latency import LatencySettings, Timing, describe_device, measure_latency
from shoal.measurement.memory import peak_memory
from shoal.result import Measurement

__all__ = ["measure", "measure_pair"]


def measure(
    model: nn.Module, example: Inputs, *, latency: bool = True, settings: LatencySettings | None = None
) -> Measurement:
    """Return what one forward call of a network costs, in evaluation mode without caches.

    Args:
        model: Any network; left as it was found, and measured on the device where it is.
        example: What its forward takes: a tensor, a tuple or a dict of keywords.
        latency: Whether to take the time; counts and memory are always measured.
        settings: Repetitions and time limit of the latency.

    Example:
        >>> measure(nn.Linear(3, 2), torch.zeros(5, 3), latency=False).macs
        30
    """
    return _measure_all({"model": model}, example, latency=latency, settings=settings)["model"]


def measure_pair(
    before: nn.Module,
    after: nn.Module,
    example: Inputs,
    *,
    latency: bool = True,
    settings: LatencySettings | None = None,
) -> tuple[Measurement, Measurement]:
    """Return what two networks cost, with their latencies measured in turns.

    The ratio of their latencies is then fair even on a machine that does other work.

    Args:
        before: The network as it was.
        after: The network as it is now, on the same device.
        example: What the forward of both takes.
        latency: Whether to take the time.
        settings: Repetitions and time limit of the latency.
    """
    both = _measure_all({"before": before, "after": after}, example, latency=latency, settings=settings)
    return both["before"], both["after"]


def _measure_all(
    models: Mapping[str, nn.Module], example: Inputs, *, latency: bool, settings: LatencySettings | None
) -> dict[str, Measurement]:
    timings = measure_latency(models, example, settings) if latency else {}
    return {name: _measured(model, example, timings.get(name)) for name, model in models.items()}


def _measured(model: nn.Module, example: Inputs, timing: Timing | None) -> Measurement:
    device = device_of(model)
    macs = count_macs(model, example)
    return Measurement(
        params=count_params(model),
        macs=macs.total,
        latency=None if timing is None else timing.median,
        latency_spread=None if timing is None else timing.spread,
        memory=_forward_memory(model, example, device),
        device=describe_device(device),
        uncounted=macs.uncounted,
    )


def _forward_memory(model: nn.Module, example: Inputs, device: torch.device) -> int | None:
    inputs = to_device(example, device)
    with evaluating(model), torch.no_grad():
        return peak_memory(lambda: call(model, inputs), device)
