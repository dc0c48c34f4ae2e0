from dataclasses import replace
from math import inf

import pytest
import torch

from shoal.journal import Journal
from shoal.layers import ConvShape, MergeEntry
from shoal.measurement import LatencySettings, ShapeSettings, entry_costs, merge_costs, time_entries
from shoal.measurement.convolutions import ShapeTiming
from shoal.units import Segment

SMALL = ConvShape(
    in_channels=4,
    out_channels=4,
    kernel=(3, 3),
    stride=(1, 1),
    dilation=(1, 1),
    padding=((1, 1), (1, 1)),
    groups=1,
    in_size=(8, 8),
)
WIDE = replace(SMALL, kernel=(5, 5), padding=((2, 2), (2, 2)))
SIDE = replace(SMALL, kernel=(1, 1), padding=((0, 0), (0, 0)))


def entry(kept=(0, 1), merged=WIDE, separate=(SMALL, SMALL), segment=(0, 2), **changed):
    return MergeEntry(segment=Segment(*segment), kept=kept, merged=merged, separate=separate, **changed)


ALONE = [entry((n,), SMALL, (SMALL,), (n, n + 1)) for n in range(2)]


def test_parameters_and_macs_are_those_of_the_cheaper_form():
    (params,) = entry_costs([entry()], "params")
    assert (params.merged, params.separate) == (4 * (25 * 4 + 1), 2 * 4 * (9 * 4 + 1))
    assert params.total == 2 * 4 * (9 * 4 + 1)
    assert not params.fused
    (macs,) = entry_costs([entry()], "macs", batch=3)
    assert macs.merged == 3 * WIDE.macs


def test_units_count_convolutions_and_no_projections():
    costs = entry_costs([entry(separate=(SMALL, SMALL, SIDE), beside=(SIDE,))], "units")
    assert (costs[0].merged, costs[0].separate, costs[0].beside) == (1, 2, 0)


def test_an_empty_segment_costs_what_runs_beside_it():
    gone = entry((), None, (), beside=(SIDE,))
    (cost,) = entry_costs([gone], "latency", seconds={SIDE: 2.0})
    assert cost.total == 2.0
    assert cost.fused


def test_without_the_separate_form_only_single_layers_stay_as_they_are():
    costs = entry_costs([entry(), *ALONE], "latency", seconds={SMALL: 1.0}, separate=False)
    assert [cost.total for cost in costs] == [inf, 1.0, 1.0]


@pytest.fixture
def timed(monkeypatch):
    """Time shapes at a rate of one second for a thousand MACs; says what was timed."""
    calls = []

    def time_shapes(shapes, **_):
        found = list(shapes)
        calls.append(found)
        return {shape: ShapeTiming(seconds=shape.macs / 1000) for shape in found}

    monkeypatch.setattr(merge_costs, "time_shapes", time_shapes)
    return calls


def seconds_of(entries, **options):
    return time_entries(entries, batch=1, device=torch.device("cpu"), dtype=torch.float32, **options)


def test_every_shape_is_timed_once(timed):
    seconds_of([entry(), *ALONE, *ALONE])
    assert sorted(len(shapes) for shapes in timed) == [1, 1]


def test_hopeless_convolutions_are_not_timed(timed):
    huge = replace(SMALL, kernel=(9, 9), padding=((4, 4), (4, 4)))
    assert huge not in seconds_of([entry(merged=huge), *ALONE])
    assert WIDE in seconds_of([entry(), *ALONE])
    assert huge in seconds_of([entry(merged=huge), *ALONE], everything=True)


def test_real_convolutions_take_time_and_are_not_timed_again():
    journal = Journal()
    settings = ShapeSettings(sweeps=1, calls=LatencySettings(warmup=0, min_repetitions=1, max_repetitions=1))
    first = seconds_of([entry(), *ALONE], settings=settings, journal=journal, key="test")
    assert all(0 < value < 1 for value in first.values())
    assert seconds_of([entry(), *ALONE], settings=settings, journal=journal, key="test") == first
