import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from shoal.errors import ConfigError, ShoalWarning
from shoal.journal import Journal
from shoal.layers import ConvShape
from shoal.measurement import convolutions, latency
from shoal.measurement.convolutions import ShapeSettings, ShapeTiming, time_shapes
from shoal.measurement.latency import LatencySettings
from shoal.progress import reporting

CALLS = LatencySettings(warmup=1, min_repetitions=2, max_repetitions=2)
TWICE = ShapeSettings(sweeps=2, calls=CALLS)


def shape_of(channels: int = 4, **changes) -> ConvShape:
    """A small convolution that is known by its number of output channels."""
    base = {
        "in_channels": 4,
        "out_channels": channels,
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": ((1, 1), (1, 1)),
        "groups": 1,
        "in_size": (6, 6),
        "activation": "relu",
    }
    return ConvShape(**(base | changes))


class Clock:
    """Calls what it is given, and says that each call took as many seconds as it has output channels."""

    def __init__(self) -> None:
        self.called: list[int] = []
        self.inputs: list[torch.Tensor] = []
        self.stop_after = math.inf

    def __call__(self, function, before) -> float:
        if len(self.called) >= self.stop_after:
            raise KeyboardInterrupt
        (x,) = function.args
        was = x.clone()
        before()
        assert torch.equal(x, -was)
        self.called.append(function().shape[1])
        self.inputs.append(x)
        return float(self.called[-1])


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "_clock", lambda device: clock)
    return clock


@pytest.mark.parametrize("together", [1, 4])
def test_a_shape_that_is_given_often_is_measured_once(clock, monkeypatch, together):
    monkeypatch.setattr(convolutions, "_SHAPES", together)
    journal = Journal()
    shapes = [shape_of(5), shape_of(4), shape_of(5), shape_of(5)]
    timings = time_shapes(shapes, batch=2, settings=TWICE, journal=journal)
    assert list(timings) == [shape_of(5), shape_of(4)]
    assert timings[shape_of(5)] == ShapeTiming(seconds=5.0, spread=0.0, repetitions=4)
    assert len(journal) == 2 * TWICE.sweeps
    assert clock.called.count(5) == TWICE.sweeps * (CALLS.warmup + CALLS.max_repetitions)


def test_no_shape_gives_no_timing(clock):
    assert time_shapes([], batch=1) == {}
    assert clock.called == []


def test_shapes_take_turns(clock):
    time_shapes(map(shape_of, (4, 5, 6)), batch=1, settings=replace(TWICE, sweeps=1))
    assert clock.called == [4, 5, 6] * 3


@pytest.mark.parametrize(("name", "value"), [("_SHAPES", 2), ("_BYTES", 2000)])
def test_shapes_that_do_not_fit_together_take_turns_in_chunks_and_all_in_sweeps(
    clock, monkeypatch, name, value
):
    # Each holds 4 x 36 inputs and 37 numbers an output channel, of four bytes.
    monkeypatch.setattr(convolutions, name, value)
    shapes = [shape_of(channels, kernel=(1, 1), padding=((0, 0),) * 2) for channels in (4, 5, 6)]
    time_shapes(shapes, batch=1, settings=TWICE)
    assert clock.called == [*[4, 5] * 3, *[6] * 3] * 2


def test_a_shape_larger_than_what_may_lie_in_memory_is_measured_by_itself(clock, monkeypatch):
    monkeypatch.setattr(convolutions, "_BYTES", 1)
    assert time_shapes([shape_of(4), shape_of(5)], batch=1, settings=TWICE)[shape_of(5)].seconds == 5


def test_the_quickest_quarter_counts_and_the_spread_is_told(clock, monkeypatch):
    seconds = iter([9.0, *range(1, 9), 9.0, *range(9, 17)])
    monkeypatch.setattr(latency, "_clock", lambda device: lambda function, before: float(next(seconds)))
    calls = LatencySettings(warmup=1, min_repetitions=8, max_repetitions=8)
    timing = time_shapes([shape_of()], batch=1, settings=ShapeSettings(sweeps=2, calls=calls))[shape_of()]
    assert timing == ShapeTiming(seconds=2.5, spread=7.5, repetitions=16)


def test_what_is_in_the_journal_is_not_measured_again(clock, tmp_path):
    shapes = [shape_of(4), shape_of(5)]
    first = time_shapes(shapes, batch=2, settings=TWICE, journal=Journal(tmp_path / "j"), key="net")
    done = len(clock.called)
    journal = Journal(tmp_path / "j")
    again = time_shapes([*shapes, shape_of(6)], batch=2, settings=TWICE, journal=journal, key="net")
    assert {shape: again[shape] for shape in shapes} == first
    assert set(clock.called[done:]) == {6}


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 3},
        {"dtype": torch.float64},
        {"key": "other"},
        {"settings": replace(TWICE, channels_last=True)},
        {"settings": replace(TWICE, calls=replace(CALLS, warmup=0))},
    ],
)
def test_what_was_measured_otherwise_is_measured_again(clock, change):
    journal = Journal()
    base = {"batch": 2, "settings": TWICE, "journal": journal}
    time_shapes([shape_of()], **base)
    done = len(clock.called)
    time_shapes([shape_of()], **(base | change))
    assert len(clock.called) > done
    assert len(journal) == 2 * TWICE.sweeps


def test_a_run_that_was_cut_short_goes_on_with_the_chunk_that_it_was_at(clock, monkeypatch):
    monkeypatch.setattr(convolutions, "_SHAPES", 1)
    journal = Journal()
    shapes = [shape_of(4), shape_of(5)]
    clock.stop_after = 10
    with pytest.raises(KeyboardInterrupt):
        time_shapes(shapes, batch=1, settings=TWICE, journal=journal)
    clock.stop_after = math.inf
    timings = time_shapes(shapes, batch=1, settings=TWICE, journal=journal)
    assert clock.called[10:] == [5, 5, 5]
    assert [timing.repetitions for timing in timings.values()] == [4, 4]


def refusing(monkeypatch, error: Exception, *, times: float = math.inf) -> list[Exception]:
    """Let convolutions to 5 channels fail, the first few times; return what is raised as it is raised."""
    forward = nn.Conv2d.forward
    raised: list[Exception] = []

    def refuse(self, x):
        if self.out_channels == 5 and len(raised) < times:
            raised.append(error)
            raise error
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", refuse)
    return raised


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("nothing left\nand more"),
        RuntimeError("nothing left: DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("nothing left: could not create a primitive"),
    ],
)
def test_what_cannot_run_takes_infinitely_long_and_says_why(clock, monkeypatch, error):
    journal = Journal()
    with monkeypatch.context() as patch:
        refusing(patch, error)
        timings = time_shapes([shape_of(4), shape_of(5)], batch=1, settings=TWICE, journal=journal)
    assert timings[shape_of(5)].seconds == math.inf
    assert timings[shape_of(5)].refused == str(error).partition("\n")[0]
    assert timings[shape_of(4)] == ShapeTiming(seconds=4.0, repetitions=4)
    # With memory at another time, it is measured.
    timings = time_shapes([shape_of(4), shape_of(5)], batch=1, settings=TWICE, journal=journal)
    assert timings[shape_of(5)] == ShapeTiming(seconds=5.0, repetitions=4)


def test_what_does_not_fit_beside_others_is_measured_alone(clock, monkeypatch):
    refusing(monkeypatch, torch.cuda.OutOfMemoryError("no room"), times=1)
    timings = time_shapes([shape_of(4), shape_of(5)], batch=1, settings=replace(TWICE, sweeps=1))
    assert timings[shape_of(5)].seconds == 5
    assert clock.called == [4, 4, 4, 5, 5, 5]


def test_what_cannot_run_even_alone_is_not_tried_in_the_next_sweep(clock, monkeypatch):
    raised = refusing(monkeypatch, torch.cuda.OutOfMemoryError("no room"))
    time_shapes([shape_of(4), shape_of(5)], batch=1, settings=TWICE)
    assert len(raised) == 2


def test_a_fault_that_is_no_refusal_is_raised(monkeypatch):
    refusing(monkeypatch, RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        time_shapes([shape_of(5)], batch=1, settings=TWICE)


def test_an_input_larger_than_any_memory_is_refused():
    huge = shape_of(4, in_size=(10**7, 10**7))
    timing = time_shapes([huge], batch=8, settings=TWICE)[huge]
    assert timing.seconds == math.inf
    assert "allocate memory" in timing.refused


@pytest.mark.parametrize(
    "shape",
    [
        shape_of(padding=((0, 1), (1, 2))),
        shape_of(dilation=(2, 1), groups=2),
        shape_of(kernel=(3,), stride=(2,), dilation=(1,), padding=((1, 1),), in_size=(9,)),
        shape_of(
            kernel=(3,) * 3, stride=(1,) * 3, dilation=(1,) * 3, padding=((0, 1),) * 3, in_size=(4,) * 3
        ),
        shape_of(activation=""),
        shape_of(activation="prelu"),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_of_every_kind_are_timed(shape, channels_last):
    settings = ShapeSettings(sweeps=1, calls=CALLS, channels_last=channels_last)
    timing = time_shapes([shape], batch=1, settings=settings)[shape]
    assert 0 < timing.seconds < 1
    assert timing.refused == ""


def test_a_larger_convolution_takes_longer():
    small, large = shape_of(4), shape_of(32, in_channels=32, in_size=(64, 64))
    calls = LatencySettings(warmup=1, min_repetitions=8, max_repetitions=8)
    timings = time_shapes([small, large], batch=1, settings=ShapeSettings(sweeps=1, calls=calls))
    assert timings[small].seconds < timings[large].seconds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_are_of_the_batch_the_dtype_and_the_layout_asked_for(clock, dtype):
    settings = replace(TWICE, channels_last=True)
    time_shapes([shape_of()], batch=3, dtype=dtype, settings=settings)
    assert {(x.shape, x.dtype) for x in clock.inputs} == {((3, 4, 6, 6), dtype)}
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in clock.inputs)


def test_timing_leaves_the_random_state_alone(clock):
    before = torch.get_rng_state()
    time_shapes([shape_of()], batch=1, settings=TWICE)
    assert torch.equal(before, torch.get_rng_state())


def test_an_activation_that_torch_does_not_have_is_told(clock):
    with pytest.warns(ShoalWarning, match="no activation ours, theirs: .* timed with SiLU"):
        time_shapes(
            [shape_of(activation=name) for name in ("theirs", "relu", "ours")], batch=1, settings=TWICE
        )


class Counter:
    """A reporter that adds up the steps of each task."""

    def __init__(self) -> None:
        self.steps: list[tuple[int | None, int]] = []

    @contextmanager
    def task(self, title, total):
        done: list[int] = []
        yield done.append
        self.steps.append((total, sum(done)))


def test_progress_counts_every_shape_in_every_sweep_those_known_before_too(clock, monkeypatch):
    monkeypatch.setattr(convolutions, "_SHAPES", 2)
    refusing(monkeypatch, torch.cuda.OutOfMemoryError("no room"))
    journal, counter = Journal(), Counter()
    with reporting(counter):
        for _ in range(2):
            time_shapes(map(shape_of, (4, 5, 6)), batch=1, settings=TWICE, journal=journal)
    assert counter.steps == [(6, 6), (6, 6)]


def test_an_empty_batch_is_refused():
    with pytest.raises(ConfigError, match="batch=0: 1 sample or more"):
        time_shapes([shape_of()], batch=0)


@pytest.mark.parametrize("change", [{"backend": "tensorrt"}, {"sweeps": 0}])
def test_impossible_settings_are_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(ConfigError, match=f"{name}={value!r}"):
        ShapeSettings(**change)


COMPILED = ShapeSettings(backend="compile", sweeps=1, calls=CALLS)


def test_what_a_compiled_call_takes_besides_is_subtracted(clock, monkeypatch):
    monkeypatch.setattr(convolutions, "_compiled", lambda module: module)
    seconds = lambda function, before: 3.0 if function.args[0].dim() == 4 else 1.0  # noqa: E731
    monkeypatch.setattr(latency, "_clock", lambda device: seconds)
    assert time_shapes([shape_of()], batch=1, settings=COMPILED)[shape_of()].seconds == 2


def test_a_compiler_that_does_not_work_is_told(monkeypatch):
    def broken(*args):
        raise RuntimeError("no C++\ncompiler\n\nand much more")

    monkeypatch.setattr(convolutions, "_compiled", lambda module: broken)
    with pytest.raises(ConfigError, match=r"does not work here \(no C\+\+ compiler\)\. .* use 'eager'"):
        time_shapes([shape_of()], batch=1, settings=COMPILED)


def test_every_shape_is_compiled_by_itself(monkeypatch):
    graphs = []

    def keep(graph, example):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **how: compile_(module, backend=keep, **how))
    # More than torch.compile makes of one piece of code before it gives up.
    shapes = [shape_of(channels) for channels in range(1, 13)]
    assert len(time_shapes(shapes, batch=1, settings=COMPILED)) == len(shapes)
    assert len(graphs) == len(shapes) + 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, with which torch.compile works")
# Of torch itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_convolutions_are_timed():
    timing = time_shapes([shape_of()], batch=1, settings=COMPILED)[shape_of()]
    assert timing.repetitions == 2
    assert 0 <= timing.seconds < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_convolutions_are_timed_on_cuda(backend):
    settings = replace(COMPILED, backend=backend)
    large = shape_of(64, in_size=(64, 64))
    timings = time_shapes([shape_of(), large], batch=8, device="cuda", settings=settings)
    assert all(timing.seconds < 1 for timing in timings.values())
    assert timings[large].seconds > 0
