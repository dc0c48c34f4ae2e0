import numpy as np
import pytest

from shoal.errors import ConfigError, UnitError
from shoal.reports import similarity_figure
from shoal.units import Segment


def heat(figure):
    return figure.axes[0].images[0]


def frames(figure):
    """Start and stop of every framed run of units."""
    corners = [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in figure.axes[0].patches]
    assert all(x == y for x, y, _ in corners)
    return {(x + 0.5, x + 0.5 + width) for x, _, width in corners}


def strips(figure):
    """Start and stop of the strips below and to the left of the heat map."""
    lines = figure.axes[0].lines
    below = {tuple(line.get_xdata() + np.array([0.5, 0.5])) for line in lines if not any(line.get_ydata())}
    left = {tuple(line.get_ydata() + np.array([0.5, 0.5])) for line in lines if not any(line.get_xdata())}
    return below, left


def legend(figure):
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (5, 2), (27, 4), (27, 5), (27, 6), (27, 7), (110, 4), (110, 5), (200, 50)]
)
def test_no_words_lie_on_each_other_or_stick_out(make_evidence, overlaps, clipped, length, count):
    evidence = make_evidence(length, model="NetOfSomeLengthForImageClassification")
    evidence.boundary_similarity[1, 1] = np.nan
    segments = evidence.segments(count)
    figure = similarity_figure(evidence, segments=segments, removed=range(0, length, 3))
    assert overlaps(figure) == []
    assert clipped(figure) == []


def test_the_heat_map_is_the_similarity_with_unit_zero_at_the_top(make_evidence):
    evidence = make_evidence(5)
    image = heat(similarity_figure(evidence))
    np.testing.assert_array_equal(image.get_array(), evidence.similarity)
    assert image.origin == "upper"
    assert image.get_clim() == (pytest.approx(0.4), 1.0)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_every_segment_is_framed_and_told(make_evidence, count):
    evidence = make_evidence(5)
    segments = evidence.segments(count) if count else ()
    figure = similarity_figure(evidence, segments=segments)
    assert frames(figure) == {(each.start, each.stop) for each in segments}
    assert all(str(each) in legend(figure)[0] for each in segments)


@pytest.mark.parametrize(
    ("removed", "runs"), [([], set()), ([3], {(3, 4)}), ([1, 2, 4], {(1, 3), (4, 5)}), (range(5), {(0, 5)})]
)
def test_removed_units_are_marked_on_both_axes_and_told(make_evidence, removed, runs):
    figure = similarity_figure(make_evidence(5), removed=removed)
    assert strips(figure) == (runs, runs)
    assert legend(figure) == (["removed unit"] if runs else [])


def test_units_are_removed_by_name_too(make_evidence):
    assert strips(similarity_figure(make_evidence(5), removed=["layers.2"]))[0] == {(2, 3)}


def test_a_similarity_that_is_not_defined_is_told(make_evidence):
    evidence = make_evidence(3)
    evidence.boundary_similarity[2, 3] = np.nan
    assert legend(similarity_figure(evidence)) == ["not defined"]


def test_many_units_have_labels_at_round_numbers(make_evidence):
    axes = similarity_figure(make_evidence(110)).axes[0]
    assert list(axes.get_xticks()) == list(axes.get_yticks()) == list(range(0, 110, 10))


def test_what_is_not_there_cannot_be_drawn(make_evidence):
    with pytest.raises(ConfigError, match=r"segments \[3, 6\): Net has 5 units"):
        similarity_figure(make_evidence(5), segments=[Segment(0, 3), Segment(3, 6)])
    with pytest.raises(UnitError, match="numbered 0 to 4"):
        similarity_figure(make_evidence(5), removed=[5])
