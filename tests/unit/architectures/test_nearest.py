from __future__ import annotations

import pytest

from shoal.architectures.nearest import nearest

LENGTHS = {"layers": 8}


def without(*gone: int):
    return [index for index in range(8) if index not in gone]


@pytest.mark.parametrize(
    ("gone", "allowed", "expected"),
    [
        ([3], [4], [4]),
        ([3], [0], [0]),
        ([2, 5], [(2, 6), (0, 1)], [2, 6]),
        ([1, 6], [(3, 4)], [3, 4]),
        ([1, 3], [(0, 1, 2)], [0, 1, 2]),
        ([1, 3], [(3,)], [3]),
        ([1, 3, 5], [(4, 5, 6, 7)], [4, 5, 6, 7]),
    ],
)
def test_the_nearest_cut_is_found(gone, allowed, expected):
    fine = [without(*(each if isinstance(each, tuple) else (each,))) for each in allowed]
    assert nearest({"layers": gone}, LENGTHS, lambda kept: kept["layers"] in fine) == {"layers": expected}


def test_where_no_cut_works_there_is_none():
    assert nearest({"layers": [3]}, LENGTHS, lambda kept: False) is None


def test_the_cut_that_was_asked_for_is_not_tried_again_and_none_twice():
    tried: list[tuple[int, ...]] = []
    nearest({"layers": [3, 4]}, LENGTHS, lambda kept: tried.append(tuple(kept["layers"])) is not None)
    assert len(tried) == len(set(tried)) > 20
    assert tuple(without(3, 4)) not in tried
    assert all(tried)


def test_it_is_not_looked_for_for_ever():
    tried: list[int] = []
    nearest({"layers": [3]}, LENGTHS, lambda kept: tried.append(1) is not None, seconds=0)
    assert len(tried) == 1


def test_the_other_lists_stay_as_they_are():
    found = nearest({"a": [0], "b": [1]}, {"a": 3, "b": 3}, lambda kept: kept["b"] == [0, 1])
    assert found == {"a": [0], "b": [2]}
