"""How long things take, measured side by side: functions, networks, the units of a network.

Times are in seconds of wall clock on a CPU, and of the device's own clock between two events on
CUDA. Functions that are compared take turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from shoal.calling import Inputs, call, device_of, evaluating, to_device
from shoal.tables import LatencyTable
from shoal.units import Chain

__all__ = ["LatencySettings", "Timing", "describe_device", "measure_latency", "time_calls", "unit_latency"]


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How latency is measured.

    Attributes:
        warmup: Calls of each function before the first that counts.
        min_repetitions: Calls of each that count, however long they take.
        max_repetitions: Calls of each after which the measurement ends in any case.
        max_seconds: Seconds for each function after which no further round is begun.
    """

    warmup: int = 3
    min_repetitions: int = 10
    max_repetitions: int = 500
    max_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_repetitions <= self.max_repetitions or self.warmup < 0:
            raise ValueError(
                f"asked for {self.warmup} calls to warm up and {self.min_repetitions} to "
                f"{self.max_repetitions} repetitions: warmup >= 0 and "
                "1 <= min_repetitions <= max_repetitions work."
            )


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What repeated calls of one function took.

    Attributes:
        median: Median seconds of a call.
        spread: Interquartile range of those seconds; 0 for a single call.
        seconds: Every call, in the order of measurement.
    """

    median: float
    spread: float
    seconds: tuple[float, ...] = field(repr=False)

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Return the summary of these measured seconds, one or more."""
        if len(seconds) < 2:
            return cls(median=seconds[0], spread=0.0, seconds=tuple(seconds))
        low, middle, high = quantiles(seconds, n=4, method="inclusive")
        return cls(median=middle, spread=high - low, seconds=tuple(seconds))

    @property
    def repetitions(self) -> int:
        """How many calls were measured."""
        return len(self.seconds)

    @property
    def quickest(self) -> float:
        """Median seconds of the quickest quarter of the calls: those that nothing interrupted."""
        return _quickest(self.seconds)


def time_calls(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: torch.device | str = "cpu",
    settings: LatencySettings | None = None,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Return how long each function takes, measured in rounds in which each is called once.

    Args:
        functions: What to call, by name.
        device: Where the work runs; CUDA is waited for and timed by its own events.
        settings: Repetitions and time limit.
        before: What to call right before a function, by the function's name; its time does not count.
            CUDA goes on from it to the function without being waited for.

    Returns:
        A timing for every name, all with the same number of repetitions.

    Example:
        >>> quick = LatencySettings(min_repetitions=4, max_repetitions=4)
        >>> time_calls({"nothing": lambda: None}, settings=quick)["nothing"].repetitions
        4
    """
    settings = settings or LatencySettings()
    clock = _clock(torch.device(device))
    first = before or {}
    pairs = {name: (function, first.get(name, lambda: None)) for name, function in functions.items()}
    for _ in range(settings.warmup):
        for pair in pairs.values():
            clock(*pair)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    deadline = time.perf_counter() + settings.max_seconds * len(functions)
    with _no_collection():
        for done in range(settings.max_repetitions):
            if done >= settings.min_repetitions and time.perf_counter() > deadline:
                break
            for name, pair in pairs.items():
                seconds[name].append(clock(*pair))
    return {name: Timing.of(values) for name, values in seconds.items()}


def measure_latency(
    models: Mapping[str, nn.Module], example: Inputs, settings: LatencySettings | None = None
) -> dict[str, Timing]:
    """Return how long one forward call of each network takes, in evaluation mode without caches.

    Args:
        models: Networks by name, all on one device; left as they were found.
        example: What their forward takes.
        settings: Repetitions and time limit.
    """
    device = device_of(next(iter(models.values()), nn.Identity()))
    inputs = to_device(example, device)
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        calls = {name: partial(call, model, inputs) for name, model in models.items()}
        return time_calls(calls, device=device, settings=settings)


def unit_latency(
    model: nn.Module, chain: Chain, example: Inputs, settings: LatencySettings | None = None
) -> LatencyTable:
    """Return the latency of every unit, measured in place while the whole network runs.

    Calls with a clock around every unit's modules take turns with calls without. A machine that does
    other work interrupts a long call more often than a short unit, so the share that a unit takes is
    read off the quickest times of the units and of what lies between them. The units are scaled
    down where the clocks themselves would make their sum exceed the whole. A unit that the example
    does not reach takes 0 seconds.

    Args:
        model: The network; left as it was found.
        chain: Its units.
        example: What its forward takes.
        settings: Repetitions and time limit.
    """
    device = device_of(model)
    inputs = to_device(example, device)
    owner = {name: unit.index for unit in chain for name in unit.modules}
    units: list[list[float]] = []
    between: list[list[float]] = []
    modules = {model.get_submodule(name): index for name, index in owner.items()}

    def clocked() -> None:
        with _stopwatches(modules, device) as marks:
            begun = _mark(device)
            call(model, inputs)
            ended = _mark(device)
        units.append(_elapsed(marks, device, len(chain)))
        edges = [begun, *(moment for _, *moments in marks for moment in moments), ended]
        between.append([_seconds(*pair, device) for pair in zip(edges[::2], edges[1::2], strict=True)])

    with evaluating(model), torch.no_grad():
        timings = time_calls(
            {"whole": partial(call, model, inputs), "clocked": clocked}, device=device, settings=settings
        )
    counted = timings["clocked"].repetitions
    return LatencyTable(
        units=_shares_of(timings["whole"], units[-counted:], between[-counted:]),
        whole=timings["whole"].median,
        device=describe_device(device),
    )


def _shares_of(
    whole: Timing, units: Sequence[Sequence[float]], between: Sequence[Sequence[float]]
) -> tuple[float, ...]:
    """Return how much of the whole's median each unit takes, from undisturbed times of all pieces."""
    quick = [_quickest(seconds) for seconds in zip(*units, strict=True)]
    alone = _quickest(whole.seconds)
    if len({len(gaps) for gaps in between}) == 1:
        alone = min(alone, sum(quick) + sum(_quickest(gaps) for gaps in zip(*between, strict=True)))
    share = whole.median / alone if alone > 0 else 1.0
    scale = min(share, whole.median / sum(quick)) if sum(quick) > 0 else share
    return tuple(scale * seconds for seconds in quick)


def _quickest(seconds: Sequence[float]) -> float:
    """Return the median of the quickest quarter."""
    return median(sorted(seconds)[: max(1, len(seconds) // 4)])


def describe_device(device: torch.device | str) -> str:
    """Return the device in words, such as `cpu (AMD EPYC 7B13, 2 threads)` or `cuda (NVIDIA H200)`."""
    device = torch.device(device)
    if device.type == "cpu":
        return f"cpu ({_processor()}, {torch.get_num_threads()} threads)"
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)


@lru_cache(maxsize=1)
def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _clock(device: torch.device) -> Callable[[Callable[[], object], Callable[[], object]], float]:
    """Return the function that calls the second of two, then times the first on `device`, in seconds."""

    def on_cpu(function: Callable[[], object], before: Callable[[], object]) -> float:
        before()
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def on_cuda(function: Callable[[], object], before: Callable[[], object]) -> float:
        torch.cuda.synchronize(device)
        before()
        start = _mark(device)
        function()
        stop = _mark(device)
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(stop)) / 1000

    return on_cuda if device.type == "cuda" else on_cpu


def _mark(device: torch.device) -> Any:
    """Return this moment: an event in the device's stream on CUDA, else a number of seconds."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def _stopwatches(
    modules: Mapping[nn.Module, int], device: torch.device
) -> Iterator[list[tuple[int, Any, Any]]]:
    """Collect `(unit, start, stop)` of every call of these modules inside the `with`."""
    marks: list[tuple[int, Any, Any]] = []
    starts: dict[nn.Module, Any] = {}

    def start(module: nn.Module, args: Any) -> None:
        starts[module] = _mark(device)

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        marks.append((modules[module], starts.pop(module), _mark(device)))

    handles = [module.register_forward_pre_hook(start) for module in modules]
    handles += [module.register_forward_hook(stop) for module in modules]
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def _elapsed(marks: list[tuple[int, Any, Any]], device: torch.device, length: int) -> list[float]:
    """Return the seconds of every unit, all its calls together."""
    seconds = [0.0] * length
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    for unit, start, stop in marks:
        seconds[unit] += _seconds(start, stop, device)
    return seconds


def _seconds(start: Any, stop: Any, device: torch.device) -> float:
    """Return the seconds between two marks that the device has passed."""
    return float(start.elapsed_time(stop)) / 1000 if device.type == "cuda" else float(stop - start)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a measurement."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
