from itertools import pairwise

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.reports import ParetoPoint, pareto_figure

WHOLE = ParetoPoint(label="uncompressed", latency=1.0, quality=0.2, kind="whole")


def points_of(methods, controls, budgets=("macs=0.5", "macs=0.7", "macs=0.9"), spread=0.05):
    names = [f"method_number_{n}" for n in range(methods)] + [f"control_{n}" for n in range(controls)]
    return [WHOLE] + [
        ParetoPoint(
            label=name,
            latency=0.5 + 0.2 * place + 0.005 * number,
            quality=0.3 + (2 - place) * (1 + 0.3 * number),
            spread=spread,
            budget=budget,
            kind="method" if name.startswith("method") else "control",
        )
        for number, name in enumerate(names)
        for place, budget in enumerate(budgets)
    ]


def drawn(points, **more):
    return pareto_figure(points, **{"title": "t", "quality": "loss", "higher_is_better": False} | more)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def looks(figure):
    return {
        line.get_label(): (
            line.get_color(),
            line.get_marker(),
            line.get_markerfacecolor(),
            line.get_linewidth(),
        )
        for line in figure.legends[0].legend_handles
    }


def front(figure):
    (step,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    return list(step.get_xdata()), list(step.get_ydata())


@pytest.mark.parametrize(("methods", "controls"), [(0, 0), (1, 0), (0, 2), (12, 4), (16, 5)])
@pytest.mark.parametrize("log", [False, True])
def test_no_words_lie_on_each_other_or_on_the_points(overlaps, clipped, methods, controls, log):
    figure = drawn(points_of(methods, controls), title="A network on some data, healed", log=log)
    assert overlaps(figure) == []
    assert clipped(figure) == []


def test_every_method_looks_different_and_controls_are_lighter():
    figure = drawn(points_of(16, 5))
    found = {name: look for name, look in looks(figure).items() if name.startswith(("method", "control"))}
    assert len(found) == 21
    assert len(set(found.values())) == 21
    widths = {name: look[-1] for name, look in found.items()}
    assert max(widths[f"control_{n}"] for n in range(5)) < min(
        widths[f"method_number_{n}"] for n in range(16)
    )


def test_the_legend_tells_the_network_the_front_the_budgets_and_the_bars():
    figure = drawn(points_of(1, 1, budgets=("units=3", "units=4")), spread="range over seeds")
    assert legend(figure) == [
        "uncompressed",
        "method_number_0",
        "control_0",
        "Pareto front",
        "budget units=3",
        "budget units=4",
        "± range over seeds",
    ]
    assert "seeds" not in str(legend(drawn(points_of(1, 1, spread=None))))
    assert "budget" not in str(legend(drawn(points_of(1, 1, budgets=("units=3",)))))


def test_larger_markers_stand_for_more_that_may_remain():
    handles = drawn(points_of(2, 0)).legends[0].legend_handles
    sizes = {line.get_label(): line.get_markersize() for line in handles}
    assert sizes["budget macs=0.5"] < sizes["budget macs=0.7"] < sizes["budget macs=0.9"]


@pytest.mark.parametrize(("higher", "corners"), [(False, [0.5, 0.8]), (True, [0.5, 0.6])])
def test_the_front_goes_in_steps_from_the_fastest_network_on(higher, corners):
    pairs = [(0.5, 3.0), (0.6, 4.0), (0.8, 1.0), (0.9, 2.0)]
    points = [ParetoPoint(label="a", latency=x, quality=y, budget=str(x)) for x, y in pairs]
    figure = drawn(points, higher_is_better=higher)
    across, along = front(figure)
    assert across[:-1] == corners
    assert across[-1] == figure.axes[0].get_xlim()[1]
    assert along[-1] == along[-2] == (4.0 if higher else 1.0)


@pytest.mark.parametrize(("higher", "word"), [(False, "lower is better"), (True, "higher is better")])
def test_the_axis_says_which_way_quality_goes(higher, word):
    assert drawn([WHOLE], higher_is_better=higher).axes[0].get_ylabel() == f"loss ({word})"


def test_error_bars_reach_as_far_as_the_spread():
    point = ParetoPoint(label="a", latency=0.5, quality=2.0, spread=0.5, budget="b")
    (bars,) = drawn([point]).axes[0].collections
    np.testing.assert_allclose(bars.get_segments()[0], [[0.5, 1.5], [0.5, 2.5]])


def test_a_spread_beyond_zero_does_not_stretch_a_logarithmic_axis():
    points = [WHOLE, ParetoPoint(label="a", latency=0.5, quality=10.0, spread=20.0, budget="b")]
    low, high = drawn(points, log=True).axes[0].get_ylim()
    assert 0.01 < low < 0.2
    assert 30 < high < 100


def test_no_points_cannot_be_drawn():
    with pytest.raises(ConfigError, match="of no networks"):
        drawn([])


def test_seeds_are_not_drawn_one_by_one():
    point = ParetoPoint(label="a", latency=0.5, quality=1.0, budget="macs=0.5")
    with pytest.raises(ConfigError, match="2 points of 'a' with the budget 'macs=0.5'"):
        drawn([WHOLE, point, point])


def test_a_label_has_one_kind():
    points = [
        ParetoPoint(label="a", latency=0.5, quality=1, budget=kind, kind=kind)
        for kind in ("method", "control")
    ]
    with pytest.raises(ConfigError, match="'a' as control and method"):
        drawn(points)


def test_a_logarithmic_axis_wants_qualities_above_zero():
    with pytest.raises(ConfigError, match="logarithmic axis with 'a' at quality=0.0"):
        drawn([WHOLE, ParetoPoint(label="a", latency=0.5, quality=0.0)], log=True)


@pytest.mark.parametrize(
    "kinds", [("method",), ("method", "method"), ("control", "method", "whole", "method")]
)
def test_of_points_at_one_place_those_below_are_larger(kinds):
    points = [
        ParetoPoint(label=str(number), latency=0.5, quality=0.3, kind=kind)
        for number, kind in enumerate(kinds)
    ]
    markers = [line for line in drawn(points).axes[0].lines if line.get_marker() not in ("", "None", "_")]
    sizes = [line.get_markersize() for line in sorted(markers, key=lambda line: line.get_zorder())]
    assert len(sizes) == len(kinds)
    assert all(below > above for below, above in pairwise(sizes))


def test_points_apart_are_of_one_size():
    points = [ParetoPoint(label=name, latency=0.5, quality=x) for name, x in (("a", 0.3), ("b", 0.4))]
    sizes = {line.get_markersize() for line in drawn(points).axes[0].lines if line.get_marker() in ("o", "s")}
    assert len(sizes) == 1
