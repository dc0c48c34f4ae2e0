import math

import pytest
from matplotlib.colors import to_hex

from shoal.errors import ConfigError, UnitError
from shoal.reports import importance_figure
from shoal.reports.figures.canvas import BLUE, ORANGE


def bars(axes):
    (container,) = axes.containers
    return [(bar.get_height(), to_hex(bar.get_facecolor()).upper()) for bar in container]


def legend(figure):
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


@pytest.mark.parametrize(("length", "scores"), [(1, 1), (5, 2), (27, 12), (50, 3), (110, 2), (200, 5)])
def test_no_words_lie_on_each_other_or_stick_out(make_evidence, overlaps, clipped, length, scores):
    figure = importance_figure(make_evidence(length, scores=scores), removed=range(0, length, 3))
    assert overlaps(figure) == []
    assert clipped(figure) == []


@pytest.mark.parametrize("scores", [1, 2, 13])
def test_every_score_has_a_panel_with_its_name(make_evidence, scores):
    evidence = make_evidence(6, scores=scores)
    titles = [axes.get_title(loc="left") for axes in importance_figure(evidence).axes]
    assert titles == list(evidence.importance)


def test_every_panel_has_its_own_scale(make_evidence):
    evidence = make_evidence(3, scores={"small": [1e-6, 2e-6, 3e-6], "large": [1e3, 2e3, -3e3]})
    small, large = importance_figure(evidence).axes
    assert small.get_ylim()[1] < 1e-5
    assert large.get_ylim()[0] < -3e3


@pytest.mark.parametrize(
    ("removed", "told"), [([], []), ([1], ["kept", "removed"]), ([0, 1, 2], ["kept", "removed"])]
)
def test_removed_units_have_another_colour(make_evidence, removed, told):
    figure = importance_figure(make_evidence(3, scores={"a": [1, 2, 3]}), removed=removed)
    expected = [(index + 1, ORANGE if index in removed else BLUE) for index in range(3)]
    assert bars(figure.axes[0]) == expected
    assert legend(figure) == told


def test_a_unit_without_a_score_is_hatched_and_one_that_scores_nothing_is_not(make_evidence):
    figure = importance_figure(make_evidence(4, scores={"a": [1, math.nan, math.nan, 0]}))
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert [(patch.get_x(), patch.get_width()) for patch in hatched] == [(0.5, 2.0)]
    assert legend(figure) == ["scored", "not scored"]


def test_the_title_says_which_way_importance_goes(make_evidence):
    assert "higher = keep" in importance_figure(make_evidence(3))._suptitle.get_text()


def test_what_is_not_there_cannot_be_drawn(make_evidence):
    with pytest.raises(ConfigError, match="importance of the 3 units of Net: the evidence holds no scores"):
        importance_figure(make_evidence(3, scores=0))
    with pytest.raises(UnitError, match="numbered 0 to 2"):
        importance_figure(make_evidence(3), removed=[7])
