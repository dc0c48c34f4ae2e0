"""How long convolutions take, each by itself, so that the sum over a network's layers predicts the whole.

In a network a convolution finds its input just written and its weights, as a rule, long not used. Here
it is the same: convolutions take turns, and each input is written anew, in place, right before the call
that is timed. A convolution that is called again and again by itself finds all of it in the cache.

Axis letters: N samples, C channels; an axis is a spatial one.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import fx, nn

from shoal.errors import ConfigError, ShoalWarning
from shoal.journal import Journal, fingerprint
from shoal.layers import ConvShape
from shoal.measurement.latency import LatencySettings, Timing, describe_device, time_calls
from shoal.measurement.stand_ins import has_activation, stand_in
from shoal.progress import task

__all__ = ["ShapeSettings", "ShapeTiming", "time_shapes"]

# What lies in memory at once: enough for each to push the others out of the caches, and little enough
# that a run which is cut short loses little.
_BYTES = 2**30
_SHAPES = 32

_Call = Callable[[], object]

_CALLS = LatencySettings(warmup=1, min_repetitions=3, max_repetitions=100, max_seconds=0.5)

# How PyTorch, oneDNN and cuDNN say that memory does not suffice, or that they have no such convolution.
_REFUSALS = re.compile(
    "out of memory|allocate memory|not enough memory|ALLOC_FAILED|NOT_SUPPORTED|unable to find an engine|"
    "create a primitive|execute a primitive|not implemented for"
)


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """How convolutions are timed.

    Attributes:
        backend: `eager`, or `compile` for networks that will be compiled with torch.compile.
        channels_last: Whether channels come last in memory. So they do with `compile` in any case, which
            lays networks out like that; convolutions of one axis know no such layout.
        sweeps: How often all convolutions are gone through, those that fit into memory together at a
            time. They are built, and compiled, anew for each sweep.
        calls: Calls of each convolution in a sweep.
    """

    backend: Literal["eager", "compile"] = "eager"
    channels_last: bool = False
    sweeps: int = 3
    calls: LatencySettings = _CALLS

    def __post_init__(self) -> None:
        if self.backend not in ("eager", "compile") or self.sweeps < 1:
            raise ConfigError(
                f"asked to time convolutions with backend={self.backend!r} and sweeps={self.sweeps}: "
                "'eager' or 'compile', and 1 sweep or more, work."
            )


@dataclass(frozen=True, kw_only=True)
class ShapeTiming:
    """How long a convolution takes, or why it cannot run.

    Attributes:
        seconds: Median seconds of the quickest quarter of its calls; infinite where it cannot run.
        spread: Interquartile range of all its calls, in seconds.
        repetitions: How many calls were measured.
        refused: Why it cannot run; empty where it can.
    """

    seconds: float = math.inf
    spread: float = 0.0
    repetitions: int = 0
    refused: str = ""


def time_shapes(
    shapes: Iterable[ConvShape],
    *,
    batch: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: ShapeSettings | None = None,
    journal: Journal | None = None,
    key: str = "",
) -> dict[ConvShape, ShapeTiming]:
    """Return how long each convolution takes with its bias and the activation behind it.

    Every shape is measured once, however often it is given. A machine that does other work interrupts a
    long call more often than a short one, so the quickest quarter of the calls counts. Of compiled
    convolutions, what a compiled call takes besides is subtracted: a network pays for it only once.
    What cannot run, for want of memory or because the backend has no such convolution, takes infinitely
    long. The random state is left alone.

    Args:
        shapes: The convolutions. An activation that torch.nn does not have is timed as SiLU.
        batch: Samples in a call.
        device: Where they run.
        dtype: That of weights and inputs.
        settings: How they are timed.
        journal: Where the seconds of every call are kept; what is there is not measured again. Refusals
            are not kept, since memory may be free another time.
        key: What the names in the journal begin with.

    Returns:
        A timing for every shape, in the order in which they first appear.

    Raises:
        ConfigError: If the batch is empty, or torch.compile is asked for and does not work here.

    Example:
        >>> shape = ConvShape(in_channels=1, out_channels=1, kernel=(3,), stride=(1,), dilation=(1,),
        ...                   padding=((1, 1),), groups=1, in_size=(8,), activation="relu")
        >>> quick = ShapeSettings(sweeps=1, calls=LatencySettings(min_repetitions=4, max_repetitions=4))
        >>> time_shapes([shape, shape], batch=2, settings=quick)[shape].repetitions
        4

    Reference:
        Kim, El Halabi, Ji, Song: LayerMerge, 2024, whose latency table holds merged convolutions with
        their activations. https://arxiv.org/abs/2406.12837
    """
    if batch < 1:
        raise ConfigError(f"asked to time convolutions with batch={batch}: 1 sample or more work.")
    settings = settings or ShapeSettings()
    bench = _Bench(batch, torch.device(device), dtype, settings)
    kept = Journal() if journal is None else journal
    wanted = list(dict.fromkeys(shapes))
    _warn_of_unknown(wanted)
    names = {shape: f"{key}/convolution/{bench.fingerprint(shape)}" for shape in wanted}
    refused: dict[ConvShape, str] = {}
    with task("timing convolutions", total=len(wanted) * settings.sweeps) as advance:
        for sweep in range(settings.sweeps):
            left = [each for each in wanted if f"{names[each]}/{sweep}" not in kept and each not in refused]
            advance(len(wanted) - len(left))
            for chunk in bench.chunks(left):
                for shape, found in bench.measure(chunk).items():
                    if isinstance(found, str):
                        refused[shape] = found
                    else:
                        kept[f"{names[shape]}/{sweep}"] = found
                advance(len(chunk))
    return {
        shape: ShapeTiming(refused=refused[shape])
        if shape in refused
        else _pooled([kept[f"{names[shape]}/{sweep}"] for sweep in range(settings.sweeps)])
        for shape in wanted
    }


@dataclass(frozen=True)
class _Bench:
    """Where convolutions are built and called.

    Attributes:
        batch, device, dtype, settings: As for `time_shapes`.
    """

    batch: int
    device: torch.device
    dtype: torch.dtype
    settings: ShapeSettings

    def fingerprint(self, shape: ConvShape) -> str:
        """Return a hash of all that decides how long a shape takes."""
        cudnn: Any = torch.backends.cudnn
        # From torch 2.9 on, the older of the two switches cannot be read once the newer one was set.
        precise = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32
        switches = (cudnn.benchmark, cudnn.deterministic, precise) if self.device.type == "cuda" else ()
        where = describe_device(self.device), torch.__version__, switches
        return fingerprint(shape, self.batch, self.dtype, self.settings, *where)

    def chunks(self, shapes: Iterable[ConvShape]) -> Iterator[list[ConvShape]]:
        """Yield the shapes in their order, as many at a time as shall lie in memory together."""
        chunk: list[ConvShape] = []
        held = 0
        for shape in shapes:
            numbers = self.batch * shape.in_channels * math.prod(shape.in_size) + shape.params
            needed = numbers * self.dtype.itemsize
            if chunk and (held + needed > _BYTES or len(chunk) == _SHAPES):
                yield chunk
                chunk, held = [], 0
            chunk.append(shape)
            held += needed
        if chunk:
            yield chunk

    def measure(self, shapes: Sequence[ConvShape]) -> dict[ConvShape, list[float] | str]:
        """Return the seconds of each shape's calls; why, of one that cannot run even alone."""
        found = self._together(shapes)
        if len(shapes) > 1:
            for shape in [each for each in shapes if isinstance(found[each], str)]:
                found |= self._together([shape])
        return found

    @torch.no_grad()
    def _together(self, shapes: Sequence[ConvShape]) -> dict[ConvShape, list[float] | str]:
        """Return the seconds of calls that take turns; why, of a shape that cannot run beside the others."""
        refused: dict[ConvShape, str] = {}
        built: dict[ConvShape, tuple[_Call, _Call]] = {}
        idle = self._idle if self.settings.backend == "compile" else None
        for shape in shapes:
            with _noting(refused, shape):
                built[shape] = self._built(shape)
        for shape, (run, _) in built.items():
            # First called when all lie in memory, as they do when it counts.
            with _noting(refused, shape):
                run()
        runs = {shape: built[shape] for shape in shapes if shape not in refused}
        functions: dict[str, _Call] = {}
        before: dict[str, _Call] = {}
        for number, (run, rewrite) in enumerate(runs.values()):
            functions[f"{number}"], before[f"{number}"] = run, rewrite
            if idle is not None:
                functions[f"idle {number}"], before[f"idle {number}"] = idle, rewrite
        timings = time_calls(functions, device=self.device, settings=self.settings.calls, before=before)
        found: dict[ConvShape, list[float] | str] = {**refused}
        for number, shape in enumerate(runs):
            besides = timings[f"idle {number}"].quickest if idle is not None else 0.0
            found[shape] = _net(timings[f"{number}"], besides)
        return found

    def _built(self, shape: ConvShape) -> tuple[_Call, _Call]:
        """Return a call of a convolution with random weights, and one that writes its input anew."""
        generator = torch.Generator(self.device).manual_seed(0)
        module = stand_in(shape).to(self.dtype).to_empty(device=self.device).eval()
        bound = (shape.params / shape.out_channels) ** -0.5
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
        size = (self.batch, shape.in_channels, *shape.in_size)
        x = torch.randn(size, generator=generator, device=self.device, dtype=self.dtype)
        compiling = self.settings.backend == "compile"
        if self.settings.channels_last or compiling:
            layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
            module, x = module.to(memory_format=layout), x.to(memory_format=layout)  # type: ignore[call-overload]
        return partial(_compiled(module) if compiling else module, x), x.neg_

    @cached_property
    def _idle(self) -> _Call:
        """A compiled call that computes next to nothing."""
        x = torch.zeros(1, device=self.device)
        run = partial(_compiled(nn.Sequential(nn.ReLU())), x)
        try:
            run()
        except RuntimeError as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise ConfigError(
                "asked to time convolutions with backend='compile': torch.compile does not work here "
                f"({reason}). Install what it needs, or use 'eager'."
            ) from error
        return run


def _compiled(module: nn.Module) -> Callable[..., Any]:
    # A traced module has code of its own. Modules of one class share theirs, and torch.compile gives up
    # on code that it has compiled a few times.
    compiled: Callable[..., Any] = torch.compile(fx.symbolic_trace(module), dynamic=False, fullgraph=True)
    return compiled


def _warn_of_unknown(shapes: Iterable[ConvShape]) -> None:
    named = {shape.activation for shape in shapes} - {""}
    unknown = sorted(name for name in named if not has_activation(name))
    if unknown:
        warnings.warn(
            f"torch.nn has no activation {', '.join(unknown)}: convolutions before it are timed with SiLU.",
            ShoalWarning,
            stacklevel=3,
        )


@contextmanager
def _noting(refused: dict[ConvShape, str], shape: ConvShape) -> Iterator[None]:
    """Note why a shape cannot run, where what is done inside the `with` is refused."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not _REFUSALS.search(str(error)):
            raise
        refused[shape] = str(error).strip().partition("\n")[0]


def _net(timing: Timing, besides: float) -> list[float]:
    # More digits than a clock has would only fill the journal.
    return [float(f"{max(seconds - besides, 0.0):.6g}") for seconds in timing.seconds]


def _pooled(sweeps: Iterable[Sequence[float]]) -> ShapeTiming:
    timing = Timing.of([seconds for sweep in sweeps for seconds in sweep])
    return ShapeTiming(seconds=timing.quickest, spread=timing.spread, repetitions=timing.repetitions)
