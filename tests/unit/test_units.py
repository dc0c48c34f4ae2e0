from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError, UnitError
from shoal.units import Segment, Segmentation, Unit, ends_in_zeros

CUTS = Segmentation(losses=(9.0, 4.0, 0.0), starts=((0,), (0, 2), (0, 2, 3)), length=5)


@given(st.sets(st.integers(0, 40)))
def test_runs_hold_the_same_units_and_do_not_touch(indices):
    runs = Segment.runs(indices)
    assert [unit for run in runs for unit in run] == sorted(indices)
    assert all(a.stop < b.start for a, b in pairwise(runs))
    assert all(len(run) > 0 for run in runs)


def test_runs_take_any_order_and_repetitions():
    assert Segment.runs([3, 2, 3, 7]) == (Segment(2, 4), Segment(7, 8))
    assert Segment.runs([]) == ()


@pytest.mark.parametrize("kind", [int, np.int64, np.int32])
def test_a_segment_holds_its_units_as_any_kind_of_integer(kind):
    assert [unit for unit in range(8) if kind(unit) in Segment(2, 5)] == [2, 3, 4]


@pytest.mark.parametrize("other", ["2", 2.0, None])
def test_a_segment_holds_nothing_but_integers(other):
    assert other not in Segment(2, 5)


def test_an_empty_segment_holds_nothing():
    assert len(Segment(3, 3)) == 0
    assert list(Segment(3, 3)) == []
    assert 3 not in Segment(3, 3)


def test_segments_are_ordered_by_their_start():
    assert sorted([Segment(3, 4), Segment(0, 9), Segment(3, 3)]) == [
        Segment(0, 9),
        Segment(3, 3),
        Segment(3, 4),
    ]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_an_impossible_segment_is_refused(start, stop):
    with pytest.raises(ValueError, match="needs 0 <= start <= stop"):
        Segment(start, stop)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_segments_of_a_segmentation_cover_the_chain(k):
    segments = CUTS.segments(k)
    assert len(segments) == k
    assert [unit for segment in segments for unit in segment] == list(range(5))


@pytest.mark.parametrize("k", [0, 4, -1])
def test_segments_that_were_not_computed_are_refused(k):
    with pytest.raises(ConfigError, match=f"asked for {k} segments of 5 units: .* 1 to 3 segments"):
        CUTS.segments(k)


def test_a_unit_is_found_by_index_and_by_name(make_chain):
    chain = make_chain()
    assert chain[1] is chain["layers.1"] is chain[-3] is chain[np.int64(1)]
    assert [unit.index for unit in chain] == list(range(len(chain)))


def test_an_unknown_name_is_refused_with_the_nearest(make_chain):
    with pytest.raises(UnitError, match=r"'layer.2': Net has 4 units .* nearest is 'layers.2'"):
        make_chain()["layer.2"]


@pytest.mark.parametrize("index", [4, -5])
def test_an_index_outside_the_chain_is_refused(make_chain, index):
    with pytest.raises(UnitError, match=f"asked for unit {index}: Net has 4 units, numbered 0 to 3"):
        make_chain()[index]


@pytest.mark.parametrize("key", [0, "layers.0"])
def test_an_empty_chain_has_no_units(make_chain, key):
    chain = make_chain(())
    assert (len(chain), list(chain), chain.removable, chain.groups) == (0, [], (), {})
    with pytest.raises(UnitError, match="Net has no units"):
        chain[key]


def test_removable_units_are_listed(make_chain):
    assert make_chain(fixed=[0, 2]).removable == (1, 3)


def test_groups_list_their_units_in_forward_order(make_chain):
    assert make_chain(groups=["a", "a", "b", "a"]).groups == {"a": (0, 1, 3), "b": (2,)}


def test_a_selection_is_in_forward_order_and_each_unit_once(make_chain):
    selected = make_chain().select(["layers.3", 1, 3, -3])
    assert [unit.index for unit in selected] == [1, 3]
    assert make_chain().select([]) == ()


def test_units_and_chains_are_frozen_and_can_be_hashed(make_chain):
    chain = make_chain()
    with pytest.raises(FrozenInstanceError):
        chain.model = "other"
    assert hash(chain) == hash(make_chain())
    assert chain == make_chain()


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ("hidden", False),
        ("zeros", True),
        ({"tuple": ["hidden", {"value": "zeros"}]}, False),
        ({"tuple": ["zeros", {"kwarg": "zeros"}]}, True),
        ({"dict": {"tuple": "zeros", "mask": {"arg": 1}}}, True),
        ({"each": ["hidden", {"list": [{"tuple": ["zeros"]}]}]}, True),
        ({"each": ["hidden", "hidden"]}, False),
        (None, False),
    ],
)
def test_a_unit_is_a_branch_where_zeros_stand_in_for_it(outputs, expected):
    unit = Unit(
        name="a",
        index=0,
        modules=("a",),
        container="",
        group="",
        kind="",
        params=0,
        macs=0,
        removable=True,
        outputs=outputs,
    )
    assert ends_in_zeros(outputs) is expected
    assert unit.is_branch is expected
